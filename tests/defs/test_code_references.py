"""Code references lead to what makes an asset, and the places in them are in no run and no materialization."""

import re
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from edge_assets.defs.location import model_definitions
from edge_assets.families.cpu import CPU
from tests.conftest import ROOT, Project
from tests.tiny.spec import TINY

KEY = "dagster/code_references"
SNAPSHOTS = "SELECT snapshot_body FROM snapshots"  # of jobs and of what was planned of them


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return model_definitions(TINY).resolve_asset_graph()


def references(graph: AssetGraph, *key: str) -> list[dg.LocalFileCodeReference]:
    """Where an asset's code is said to be."""
    value = graph.get(dg.AssetKey(key)).metadata[KEY]
    assert isinstance(value, dg.CodeReferencesMetadataValue)
    return [entry for entry in value.code_references if isinstance(entry, dg.LocalFileCodeReference)]


def line_of(reference: dg.LocalFileCodeReference) -> str:
    assert reference.line_number is not None
    return Path(reference.file_path).read_text().splitlines()[reference.line_number - 1]


def test_a_variants_reference_is_the_line_of_its_build_function(graph: AssetGraph) -> None:
    for variant in CPU.of(TINY).variants:
        (reference,) = references(graph, "tiny", "cpu", variant.name)
        assert line_of(reference).startswith(f"def {variant.build.__name__}(request"), variant.name
        module = variant.build.__module__
        assert f"{module}.{variant.build.__qualname__}".endswith(f".{reference.label}")
        assert Path(reference.file_path) == ROOT / f"{module.replace('.', '/')}.py"


@pytest.mark.parametrize(
    ("asset", "labels"),
    [
        ("checkpoint", [r"Reference\.build", r"load_model", r"tests\.tiny\.network:TinyNet"]),
        ("benchmark_report", [r"Measurement\.of", r"Judgement\.report"]),
        ("release", [r"Judgement\.release", r"judge"]),
    ],
)
def test_the_other_assets_name_what_they_call(graph: AssetGraph, asset: str, labels: list[str]) -> None:
    found = references(graph, "tiny", "cpu", asset)
    assert len(found) == len(labels)
    for reference, label in zip(found, labels, strict=True):
        assert re.search(f"{label}$", reference.label or "")
        if reference.line_number is not None:
            assert line_of(reference).strip().startswith("def ")


def test_no_place_of_code_is_kept_of_a_run(built: Project) -> None:
    place = str(ROOT / "edge_assets").encode()
    kept = b""
    for path in (built.home / "dagster").rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            kept += "\n".join(connection.iterdump()).encode()
            if path.name == "runs.db":
                kept += b"".join(zlib.decompress(body) for (body,) in connection.execute(SNAPSHOTS))
    assert b"tiny__cpu__release" in kept
    assert place not in kept
