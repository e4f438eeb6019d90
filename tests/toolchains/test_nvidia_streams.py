"""TensorRT kits of models with states, or with their batch elsewhere than first: the graph stands in for the engine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_assets.core.types import Built
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.tensorrt import kit as tensorrt_kit
from resources.store import ArtifactStore
from tests.tiny import columns, stream
from tests.tiny.columns import COLUMNS
from tests.tiny.stream import STREAM
from tests.toolchains.cells import cell_of
from tests.toolchains.test_nvidia import FP16, FP32, INT8, on_a_gpu, script


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return cell_of(store, STREAM, stream.network(), tmp_path_factory.mktemp("stream"), "l4")


@pytest.fixture(scope="module")
def builts(cell: Cell) -> dict[str, Built]:
    return cell.build_all()


def kit_of(cell: Cell, built: Built, folder: Path) -> Path:
    """A private copy of a kit."""
    assert built.artifact is not None, built.build.refused
    return shutil.copytree(cell.store.checkout(built.artifact), folder / "kit")


class StandIn(tensorrt_kit.EngineRunner):
    """The runner of a kit, with its graph in ONNX Runtime in the engine's place, held to the engine's profile."""

    def __init__(self, folder: Path) -> None:
        self.kit = tensorrt_kit.read_kit(folder)
        names = [[tensor["name"] for tensor in self.kit[kind]] for kind in ("inputs", "outputs")]
        self.graph = onnx_session.open_session(folder / "model.onnx", threads=1, inputs=names[0], outputs=names[1])
        self.fed: list[dict[str, Any]] = []

    def feed(self, feeds: Mapping[str, Any]) -> None:
        for tensor in self.kit["inputs"]:
            shape = np.shape(feeds[tensor["name"]])
            assert len(shape) == len(tensor["min"])
            assert np.all(np.less_equal(tensor["min"], shape) & np.less_equal(shape, tensor["max"])), tensor["name"]
        self.fed.append(dict(feeds))

    def execute(self) -> None:
        self.outputs = self.graph.run(self.fed[-1])

    def fetch(self) -> dict[str, Any]:
        return self.outputs

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """There is nothing to give back."""


@pytest.fixture
def stands_in(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The runners that the kit's script opens, which run its graph."""
    opened: list[StandIn] = []

    def runner(folder: Path) -> StandIn:
        opened.append(StandIn(folder))
        opened[-1].cuda = Gpu()  # type: ignore[assignment]  # its name alone is asked for
        return opened[-1]

    monkeypatch.setattr(tensorrt_kit, "EngineRunner", runner)
    return opened


class Gpu:
    def gpu(self) -> tuple[str, str]:
        return "NVIDIA L4", "8.9"


def test_kits_of_a_streaming_network_are_built_and_their_graphs_verified_over_whole_sequences(
    builts: dict[str, Built],
) -> None:
    for name, least in ((FP32, 100), (FP16, 40), (INT8, 8)):
        assert builts[name].failed is None, builts[name].failed
        parity, accuracy = builts[name].parity, builts[name].accuracy
        assert parity is not None, builts[name].build.refused or builts[name].unverified
        assert set(parity.by_output) == {"scores", "h_next"}
        assert parity.snr_db is not None
        assert parity.snr_db > least, name
        assert accuracy is not None
        assert accuracy.value > 0.9, name


def test_a_kit_says_what_its_states_are(cell: Cell, builts: dict[str, Built], tmp_path: Path) -> None:
    kit = json.loads((kit_of(cell, builts[FP16], tmp_path) / "kit.json").read_text())
    assert kit["states"] == {"h": "h_next"}
    (state,) = (tensor for tensor in kit["inputs"] if tensor["name"] == "h")
    assert state["batch_axis"] == 1
    assert (state["min"], state["max"]) == ([2, 1, 16], [2, 32, 16])
    assert kit["engine"]["compute_capability"] == "8.9", "TensorRT-RTX built it"


def test_the_kits_script_compares_steps_that_keep_their_states(
    cell: Cell, builts: dict[str, Built], tmp_path: Path, stands_in: list[StandIn]
) -> None:
    kit = kit_of(cell, builts[FP32], tmp_path)
    found = tensorrt_kit.verify(kit)
    steps = tensorrt_kit.STEPS
    assert set(found) == {"scores", "h_next", f"scores after {steps} steps", f"h_next after {steps} steps"}
    assert min(found.values()) > 100
    (runner,) = stands_in
    with np.load(kit / "sample.npz") as sample:
        assert not np.allclose(sample["output_scores"], sample["last_scores"]), "states change what is given"
        assert np.array_equal(runner.fed[1]["h"], runner.fed[0]["h"])  # the first step alone, and again as the first
        np.testing.assert_allclose(runner.fed[2]["h"], sample["output_h_next"], atol=1e-6)


def test_a_query_that_the_kits_script_times_is_a_step_with_the_states_of_the_one_before(
    cell: Cell, builts: dict[str, Built], tmp_path: Path, stands_in: list[StandIn]
) -> None:
    found = tensorrt_kit.timed(kit_of(cell, builts[FP16], tmp_path), queries=10)
    assert found["queries"] == 10
    (runner,) = stands_in
    assert len(runner.fed) == tensorrt_kit.WARM_UP + 10
    steps = tensorrt_kit.STEPS
    for number, fed in enumerate(runner.fed):
        assert fed["frame"].shape == (1, 4)
        assert fed["h"].shape == (2, 1, 16)
        expected = runner.fed[0]["h"] if number % steps == 0 else runner.graph.run(runner.fed[number - 1])["h_next"]
        np.testing.assert_allclose(fed["h"], expected, atol=1e-3)


def test_more_samples_than_a_profile_holds_are_cut_where_their_batch_is(
    cell: Cell, builts: dict[str, Built], tmp_path: Path
) -> None:
    runner = StandIn(kit_of(cell, builts[FP32], tmp_path))
    rng = np.random.default_rng(0)
    feeds = {
        "frame": rng.normal(size=(70, 4)).astype(np.float32),
        "h": rng.normal(size=(2, 70, 16)).astype(np.float32),
    }
    found = runner.run(feeds)
    assert [fed["h"].shape[1] for fed in runner.fed] == [32, 32, 6]
    for name, expected in runner.graph.run(feeds).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def test_a_network_with_its_batch_last_and_a_scalar_has_kits_too(store: ArtifactStore, tmp_path: Path) -> None:
    cell = cell_of(store, COLUMNS, columns.network(), tmp_path, "l4")
    built = cell.build(FP32)
    assert built.parity is not None, built.build.refused or built.unverified
    assert built.parity.snr_db is not None
    assert built.parity.snr_db > 100
    runner = StandIn(kit_of(cell, built, tmp_path))
    signal = np.random.default_rng(0).normal(size=(4, 70)).astype(np.float32)
    feeds = {"signal": signal, "gain": np.array(2, np.float32)}
    found = runner.run(feeds)["scores"]
    assert len(runner.fed) == 3
    np.testing.assert_allclose(found, runner.graph.run(feeds)["scores"], atol=1e-6)


@pytest.mark.slow
def test_a_kit_of_a_streaming_network_is_released_and_run_where_there_is_no_gpu(
    cell: Cell, builts: dict[str, Built]
) -> None:
    released = Judgement(cell, builts, cell.measure(builts, "rapid")).release()
    assert released.artifact is not None
    folder = cell.store.checkout(released.artifact)
    found = subprocess.run([sys.executable, folder / "infer.py"], capture_output=True, text=True, check=True)
    assert "scores float32 (1, 6, 3)" in found.stdout
    assert "running model.onnx in ONNX Runtime" in found.stderr


@on_a_gpu
def test_an_engine_of_this_gpu_keeps_states(cell: Cell, builts: dict[str, Built], tmp_path: Path) -> None:
    kit = kit_of(cell, builts[FP16], tmp_path)
    built = script(kit)
    assert built.returncode == 0, built.stderr
    verified = script(kit, "--verify")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["snr_db"][f"scores after {tensorrt_kit.STEPS} steps"] >= 35
    assert json.loads(script(kit, "--time", "100").stdout)["engine_ms"]["p50"] > 0
