"""Sensitivity, mixed precision and the accuracy-bounded search, on real graphs in ONNX Runtime."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from edge_assets.core.evidence import Agreement, Parity, Tried
from edge_assets.core.shapes import record
from edge_assets.core.trials import Trials
from edge_assets.core.types import Artifact, Built, File, Recipe, Result
from edge_assets.core.verify import accuracy
from edge_assets.errors import InvalidSpec
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import Gates, ModelSpec, Search
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import int8_weights
from edge_assets.toolchains.onnx.layers import layers, name_nodes
from edge_assets.toolchains.onnx.search import mixed, search, sensitivity
from edge_assets.toolchains.onnx.search.schemes import Scheme
from resources import checkpoints
from resources.store import ArtifactStore, open_store
from tests.tiny.spec import TINY

DEEP = replace(TINY, schemes="all", search=Search(max_trials=60))
STRICT = replace(DEEP, gates=replace(TINY.gates, max_accuracy_drop_points=0.0, min_cosine=0.99995))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    folder = tmp_path_factory.mktemp("search")
    return open_store(str(folder / "store"), folder / "cache")


@pytest.fixture(scope="module")
def fragile(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one channel between two convolutions 300 times as large as the others, and the same outputs.

    A range that holds that channel leaves no steps to the others.
    """
    state = {name: array.copy() for name, array in load_file(checkpoint_file).items()}
    state["features.1.weight"][0] *= 300
    state["features.1.bias"][0] *= 300
    state["features.3.weight"][:, 0] /= 300
    path = tmp_path_factory.mktemp("fragile") / "fragile.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def build(store: ArtifactStore, checkpoint_file: Path) -> Callable[..., Built]:
    def make(name: str, spec: ModelSpec = DEEP, file: Path = checkpoint_file, on: str = "x86-64-vnni") -> Built:
        checkpoint = checkpoints.register(store, spec.name, str(file))
        return Cell(spec, CPU.of(spec), target(on), checkpoint, store, log=lambda _line: None).build(name)

    return make


def folder_of(store: ArtifactStore, built: Built) -> Path:
    assert built.artifact is not None, built.build.refused
    return store.checkout(built.artifact)


def test_a_layer_is_a_product_and_what_follows_it(
    build: Callable[..., Built], store: ArtifactStore, tmp_path: Path
) -> None:
    exported = folder_of(store, build("onnx_model"))
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(exported), path)
    name_nodes(path)
    found = layers(path, exported)
    assert [layer.name for layer in found] == ["features.0", "features.3", "features.6", "classifier"]
    assert [layer.operator for layer in found] == ["Conv", "Conv", "Conv", "Gemm"]
    assert [layer.weights for layer in found] == [144, 4608, 9216, 1280]
    operators = {node.name: node.op_type for node in onnx.load(path).graph.node}
    assert [operators[name] for name in found[0].nodes] == ["Conv", "Relu"]
    named = [name for layer in found for name in layer.nodes]
    assert len(named) == len(set(named)) and set(named) <= set(operators)


def test_every_layer_is_ranked_with_a_picture(build: Callable[..., Built], store: ArtifactStore) -> None:
    built = build("onnx_sensitivity")
    folder = folder_of(store, built)
    ranked = json.loads((folder / sensitivity.FILE).read_text())["layers"]
    assert {entry["layer"] for entry in ranked} == {"features.0", "features.3", "features.6", "classifier"}
    ratios = [entry["snr_db"] for entry in ranked]
    assert ratios == sorted(ratios) and all(10 < ratio < 80 for ratio in ratios)
    assert (folder / sensitivity.PLOT).read_bytes().startswith(b"\x89PNG")
    assert built.evidence is None and built.build.facts["ranking"] == ranked


def test_a_layer_that_cannot_be_quantized_ranks_first_and_is_kept(
    build: Callable[..., Built], store: ArtifactStore, fragile: Path
) -> None:
    whole = build("onnx_int8_static", STRICT, fragile)
    ranked = build("onnx_sensitivity", STRICT, fragile).build.facts["ranking"]
    assert ranked[0]["layer"] in ("features.0", "features.3") and ranked[0]["snr_db"] < ranked[-1]["snr_db"] - 10
    assert whole.build.facts["recipe"].startswith("int8_static")
    kept = build("onnx_int8_mixed", replace(STRICT, gates=Gates(2.0, min_cosine=0.9995)), fragile)
    assert kept.artifact is not None, kept.build.refused
    assert ranked[0]["layer"] in kept.build.facts["kept_layers"]
    assert kept.verified.cosine_mean("logits") > whole.verified.cosine_mean("logits")
    assert kept.build.facts["recipe"].endswith(f"_mixed_keep{len(kept.build.facts['kept_layers'])}")


def test_kept_layers_are_in_fp32_and_the_others_are_not(
    build: Callable[..., Built], store: ArtifactStore, fragile: Path
) -> None:
    built = build("onnx_int8_mixed", replace(STRICT, gates=Gates(2.0, min_cosine=0.9995)), fragile)
    graph = onnx.load(folder_of(store, built)).graph
    quantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    in_fp32 = sum(node.input[1] not in quantized for node in products)
    assert in_fp32 == len(built.build.facts["kept_layers"])


def test_mixed_precision_is_refused_where_no_layer_has_to_be_kept(build: Callable[..., Built]) -> None:
    refused = build("onnx_int8_mixed").build.refused
    assert refused is not None and refused.startswith("no layer has to be kept: int8_static")
    assert "Use onnx_int8_static" in refused


def test_the_search_takes_the_smallest_that_meets_the_gate(build: Callable[..., Built], store: ArtifactStore) -> None:
    found = build("onnx_search")
    folder = folder_of(store, found)
    log = json.loads((folder / search.LOG).read_text())
    meeting = [entry["size_bytes"] for entry in log["trials"] if entry["missed_by"] == 0]
    assert (folder / "model.onnx").stat().st_size == min(meeting)
    assert log["stopped_by"] == "nothing: every scheme was tried"
    assert (folder / search.PLOT).read_bytes().startswith(b"\x89PNG")
    searched = build("onnx_searched")
    assert searched.accuracy is not None and searched.accuracy.samples == 597
    assert searched.build.facts["recipe"] == log["recipe"]
    assert log["searched_on_samples"] == 298


def test_a_gate_that_nothing_meets_says_what_came_closest(build: Callable[..., Built]) -> None:
    impossible = replace(DEEP, gates=Gates(max_accuracy_drop_points=0.0, min_cosine=1.0))
    refused = build("onnx_search", impossible).build.refused
    assert refused is not None
    assert "meets the gate of 0.00 points and a mean cosine of 1" in refused and "came closest: drop" in refused


def test_a_budget_stops_the_search_and_a_larger_one_goes_on_from_the_store(build: Callable[..., Built]) -> None:
    short = build("onnx_search", replace(STRICT, search=Search(max_trials=3)), on="graviton3")
    longer = build("onnx_search", replace(STRICT, search=Search(max_trials=80)), on="graviton3")
    assert "(stopped by 3 trials)" in (short.build.refused or "") or short.build.facts["stopped_by"] == "3 trials"
    log = longer.build.facts.get("trials")
    if log is None:
        pytest.fail(str(longer.build.refused))
    assert [entry["reused"] for entry in log[:3]] == [True] * 3


def test_a_search_without_a_trial_or_time_is_an_invalid_spec() -> None:
    with pytest.raises(InvalidSpec, match="search: max_trials must be at least 1"):
        replace(DEEP, search=Search(max_trials=0))
    with pytest.raises(InvalidSpec, match=r"gates.min_cosine: must be above 0 and at most 1"):
        replace(DEEP, gates=Gates(min_cosine=1.5))


# --- the rule that keeps layers, on scores that are known ----------------------------------------------


def known(needed: set[str], count: int) -> tuple[Scheme, mixed.TrialBudget]:
    """A scheme of `count` layers whose candidates meet the gate when all of `needed` are kept."""
    from edge_assets.core.select import Limits
    from edge_assets.toolchains.onnx.layers import Layer

    entries = tuple(Layer(f"layer{i}", "Conv", f"layer{i}", (f"layer{i}",), 1) for i in range(count))
    scheme = Scheme("known", {"scheme": "known"}, entries, (), "onnx_int8_static", lambda _nodes, _path: None)

    def remember(parameters: Any, _build: Any) -> Result:
        missing = len(needed - set(parameters["kept"]))
        tried = Tried(
            size_bytes=100 + len(parameters["kept"]),
            parity=Parity(max_abs=0.0, max_rel=0.0, cosine=1.0, snr_db=30.0, nan=0, inf=0, by_output={}),
            agreement={"logits": Agreement(cosine_mean=1.0, cosine_min=1.0, snr_db=30.0)},
            accuracy=accuracy.compare(np.zeros(100), np.full(100, missing / 100), higher_is_better=True),
        )
        return Result(Recipe("trial", "1"), Artifact((File("x", "0" * 64, 1),)), record(tried))

    def request(_path: Path) -> Any:
        raise AssertionError("scores are known")

    trials = Trials(remember, request, Limits(0.5, 10**9, 10**9), 1000, "logits")
    return scheme, mixed.TrialBudget(trials, Search(max_trials=100), lambda _line: None)


@pytest.mark.parametrize(
    "needed", [set(), {"layer0"}, {"layer0", "layer1", "layer2"}, {"layer2"}, {"layer1", "layer9"}]
)
def test_exactly_the_needed_layers_are_kept(needed: set[str]) -> None:
    scheme, bench = known(needed, 12)
    found = mixed.fewest_kept(scheme, [layer.name for layer in scheme.layers], bench)
    assert found is not None and set(found[0]) == needed


def test_a_scheme_that_fails_is_left_out_of_the_search(
    build: Callable[..., Built], store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> int:
        raise AssertionError("a quantizer's own\nerror")

    monkeypatch.setattr(int8_weights, "quantize", broken)
    monkeypatch.setattr(int8_weights, "VARIANT", replace(int8_weights.VARIANT, code_version="broken"))
    log = json.loads((folder_of(store, build("onnx_search")) / search.LOG).read_text())
    assert log["trials"] and not any(trial["recipe"].startswith("int8_weights") for trial in log["trials"])


def test_all_layers_kept_is_no_result() -> None:
    scheme, bench = known({f"layer{i}" for i in range(12)}, 12)
    assert mixed.fewest_kept(scheme, [layer.name for layer in scheme.layers], bench) is None
    assert "came closest: drop 1.00 points" in mixed.closest(bench.log)
