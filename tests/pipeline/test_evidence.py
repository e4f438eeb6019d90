"""What of the evidence leaves the product keeps its shape: scorecard rows, manifest, report, MLflow names, metadata.

The tiny model is built for one target; its measurement is made up, once timed and once of memory alone, so that what is
written of it is the same on every machine. Texts are compared with their numbers and hashes masked, numbers by their
kind, but for those that no machine or version changes.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pytest

from edge_assets.core.evidence import Verified
from edge_assets.core.shapes import record
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import accuracy, parity
from edge_assets.defs import entries, metadata
from edge_assets.families.cpu import CPU
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.project import target
from resources import checkpoints
from resources.memos import memo_key
from resources.outbox import PARENT, Entry
from resources.store import ArtifactStore, open_store
from resources.tracking import VARIANTS
from tests.conftest import Project, trained
from tests.tiny.spec import TINY

SNAPSHOT = Path(__file__).with_name("evidence.json")
EXACT = {"parameters", "flops", "samples", "threads", "queries", "confidence", "mean", "p50", "load_ms"}
OWN = {"description", "class_names", "preprocessing"}  # the spec's own words, and its code's numbers
ANY = {"versions", "tools", "recipe_sha256"}  # as many as are installed, and of any version
MACHINE = {
    "cpu": "Some CPU",
    "architecture": "aarch64",
    "cores": 4,
    "instruction_sets": ["asimddp", "i8mm"],
    "memory_bytes": 2**33,
    "system": "Linux 6.1",
    "board": None,
    "governor": None,
    "gpus": [],
}
STATISTICS = {"queries": 64, "mean": 2.5, "std": 0.25, "p50": 2.25, "p90": 3.5, "p95": None, "p99": None}
HISTOGRAM = {"edges": [2.0, 2.5, 3.0], "counts": [40, 24]}


def masked(value: Any, name: str = "") -> Any:
    """A value without what differs between machines, versions and times."""
    if name in ANY:
        return type(value).__name__
    if isinstance(value, Mapping):
        return {key: masked(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, name) for inner in value]
    if isinstance(value, str) and name not in OWN:
        return re.sub(r"(?<![a-z_\d])\d+(\.\d+)?", "#", re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{8}\b", "<hash>", value))
    if value is None or isinstance(value, bool | str) or name in EXACT:
        return value
    return type(value).__name__


def judged(cell: Cell, builts: Mapping[str, Built], mode: str | None, peak_bytes: int = 2**26) -> Judgement:
    """The cell's judgement with a measurement that was made up."""
    contestants = {name: built for name, built in builts.items() if built.artifact}
    measured = {}
    for name, built in contestants.items():
        row: dict[str, Any] = {"sha256": built.build.sha256, "load_ms": 1.5, "baseline_bytes": 2**25}
        row |= {"warm_up": {"queries": 32, "steady": True}, "peak_bytes": peak_bytes}
        if mode:
            slow = 2 if name == CHECKPOINT else 1
            one = STATISTICS | {"mean": slow * 2.5, "p50": slow * 2.25, "throughput_per_s": 400.0 / slow}
            eight = STATISTICS | {"throughput_per_s": 3200.0}
            row["latency_ms"] = {"1": one | {"histogram": HISTOGRAM}, "8": eight}
        measured[name] = row
    facts = {"mode": mode, "threads": 4, "machine": MACHINE, "versions": {"numpy": "1"}, "measured_at": "2026-01-01"}

    def measure(folder: Path) -> Mapping[str, Any]:
        (folder / "measurement.json").write_text(json.dumps(facts | {"rows": measured}))
        return facts

    inputs = {name: built.build.sha256 for name, built in contestants.items()}
    return Judgement(
        cell,
        builts,
        cell.store.remember(Recipe("measurement", "made up", inputs, {"mode": mode, "peak": peak_bytes}), measure),
    )


def written(store: ArtifactStore, result: Result, name: str) -> Any:
    """A JSON file of a result's folder."""
    assert result.artifact is not None
    return json.loads((store.checkout(result.artifact) / name).read_text())


def logged(entry: Entry) -> dict[str, Any]:
    """What an entry of the outbox sends, without values."""
    return {
        "parameters": sorted(name for name in entry.parameters if not name.startswith("tool.")),
        "metrics": sorted(entry.metrics),
        "tags": masked(dict(sorted(entry.tags.items()))),
        "artifact": sorted(entry.artifact or {}),
        "model": sorted(entry.model or {}),
        "version": sorted(entry.version or {}),
        "described": bool(entry.description),
        "datasets": [masked(about) for about in entry.datasets],
    }


def shown(values: Mapping[str, Any]) -> dict[str, str]:
    """Names of metadata, and of what kind each is."""
    return {name: type(value).__name__ for name, value in sorted(values.items())}


def checked(results: list[dg.AssetCheckResult]) -> dict[str, str]:
    """What asset checks say, by name."""
    return {result.check_name or "": masked(result.description) for result in results}


def evidence(store: ArtifactStore, checkpoint_file: Path) -> dict[str, Any]:
    """All that the snapshot holds."""
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    cell = Cell(TINY, CPU.of(TINY), target("graviton3"), checkpoint, store, lambda _line: None)
    builts = cell.build_all()
    variants = {variant.name: variant for variant in cell.family.variants}
    urls = dict.fromkeys([PARENT, VARIANTS, *builts], "http://localhost/run")
    found: dict[str, Any] = {"mlflow": {}, "dagster": {}, "checks": {}}
    for name, built in builts.items():
        found["mlflow"][f"variant {name}"] = logged(entries.variant_entry(cell, built, variants.get(name), "0"))
        found["dagster"][name] = shown(metadata.variant(cell, built, urls))
        found["checks"][name] = checked(metadata.variant_checks(cell, built, ["parity", "accuracy", "size"]))
    for kind, mode in (("timed", "rapid"), ("untimed", None)):
        judgement = judged(cell, builts, mode)
        rows.write(store, cell.path, judgement.rows)
        report, released = judgement.report(), judgement.release()
        assert released.artifact is not None
        assert report.artifact is not None
        folder = store.checkout(released.artifact)
        sent = entries.report_entries(judgement, report, "0") + entries.release_entries(
            judgement, released, "card", "0"
        )
        found[kind] = {
            "rows": masked((store.pointers.get(f"scorecards/{cell.path}") or {})["rows"]),
            "manifest.json": masked(written(store, released, "manifest.json")),
            "benchmark.json": masked(written(store, report, "benchmark.json")),
            "benchmark.csv": (store.checkout(report.artifact) / "benchmark.csv").read_text().splitlines()[0],
            "MODEL_CARD.md": masked((folder / "MODEL_CARD.md").read_text()).splitlines(),
            "mlflow": {f"{entry.kind} {entry.run}": logged(entry) for entry in sent},
            "benchmark_report": shown(metadata.report(judgement, report, urls)),
            "release": shown(metadata.release(judgement, released, folder, urls)),
            "memory": checked([metadata.memory_check(judgement)]),
        }
    return found


def lines(value: Any, deep: int = 3) -> str:
    """JSON with a line for each value `deep` levels down, so that a difference can be read."""
    if not deep or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(lines(entry, deep - 1) for entry in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {lines(entry, deep - 1)}" for name, entry in value.items()) + "\n}"


@pytest.fixture(scope="module")
def found(store: ArtifactStore, checkpoint_file: Path) -> dict[str, Any]:
    return json.loads(json.dumps(evidence(store, checkpoint_file)))


@pytest.mark.parametrize("part", ["mlflow", "dagster", "checks", "timed", "untimed"])
def test_nothing_that_others_read_changed(found: dict[str, Any], part: str) -> None:
    """Whoever changes it on purpose updates the snapshot with: python -m tests.pipeline.test_evidence."""
    assert found[part] == json.loads(SNAPSHOT.read_text())[part]


def test_the_command_line_prints_the_rows_as_they_are_kept(built: Project) -> None:
    (kept,) = (built.home / "store" / "pointers" / "scorecards").rglob("graviton3.json")
    printed = built.run("scorecard", "--model", "tiny", "--json").stdout
    assert printed == json.dumps(json.loads(kept.read_text())["rows"], indent=1) + "\n"


# --- what another version, or a hand, left in the store ------------------------------------------------


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A JSON file of the store, as somebody else writes it."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


OTHER_SHAPES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a number is missing": lambda memo: memo["facts"]["accuracy"].pop("drop_points"),
    "a number is a text": lambda memo: memo["facts"]["parity"].update(snr_db="60"),
    "an interval of one": lambda memo: memo["facts"]["accuracy"].update(drop_interval_points=[0.1]),
    "accuracy is missing": lambda memo: memo["facts"].pop("accuracy"),
}


@pytest.mark.parametrize("change", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_a_memo_whose_facts_have_another_shape_is_absent_said_once_and_built_anew(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], caplog: pytest.LogCaptureFixture
) -> None:
    own = open_store(str(tmp_path / "store"), tmp_path / "cache")
    scores = np.array([1.0, 0.0, 1.0])
    outputs = np.ones((8, 2), np.float32)
    session = SimpleNamespace(run=lambda feeds: {"y": feeds["x"]})
    verified = Verified(
        parity=parity.measure(session, {"x": outputs}, {"y": outputs}),
        accuracy=accuracy.compare(scores, scores, higher_is_better=True),
    )
    recipe = Recipe("verification", "2", {"artifact": "0" * 64})
    own.remember(recipe, lambda _folder: record(verified))
    changed(Path(str(own.storage.path(memo_key(recipe.sha256)))), change)
    assert own.recall(recipe) is own.recall(recipe) is None
    assert caplog.text.count("is taken as absent, and written anew") == 1
    anew = own.remember(recipe, lambda _folder: record(verified))
    assert not anew.reused
    assert anew.said(Verified) == verified


def test_a_store_with_records_of_another_shape_is_mended_by_the_next_build(copy_of_built: Project) -> None:
    store_folder = copy_of_built.home / "store"
    memos = (store_folder / "recipes").rglob("*.json")
    verifications = [path for path in memos if json.loads(path.read_text())["recipe"]["step"] == "verification"]
    for path in verifications:
        changed(path, lambda memo: memo["facts"]["accuracy"].pop("drop_points"))
    (kept,) = (store_folder / "pointers" / "scorecards").rglob("graviton3.json")
    changed(kept, lambda data: data["rows"][0].pop("verdict"))
    result = copy_of_built.build()
    assert result.returncode == 0, result.stdout + result.stderr
    assert all("drop_points" in json.loads(path.read_text())["facts"]["accuracy"] for path in verifications)
    assert "verdict" in json.loads(kept.read_text())["rows"][0]
    assert "up to date" in copy_of_built.build().stdout


def test_rows_of_another_shape_make_a_cell_stale(copy_of_built: Project) -> None:
    (kept,) = (copy_of_built.home / "store" / "pointers" / "scorecards").rglob("graviton3.json")
    changed(kept, lambda data: data.update(rows=[1]))
    result = copy_of_built.build()
    assert "scorecard: its rows are missing, or have another shape" in result.stdout
    assert json.loads(kept.read_text())["rows"][0]["artifact"] == CHECKPOINT


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    from tests.tiny.network import TinyNet

    with TemporaryDirectory() as scratch:
        fresh = open_store(f"{scratch}/store", Path(scratch) / "cache")
        SNAPSHOT.write_text(lines(evidence(fresh, trained(TinyNet, Path(scratch) / "tiny.safetensors"))) + "\n")
