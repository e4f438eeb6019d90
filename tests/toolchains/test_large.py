"""Graphs that no single file holds: weights beside them, and formats that cannot hold them say so before they start."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.benchmark import harness
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.statistics import Mode
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.families.cpu import CPU
from edge_assets.families.nvidia import NVIDIA
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.project import target
from edge_assets.toolchains.litert import convert
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, open_store
from tests.conftest import trained
from tests.tiny.network import Mlp
from tests.tiny.spec import MLP

LARGE = replace(MLP, gates=replace(MLP.gates, max_accuracy_drop_points=100.0))
VERIFIED = ("onnx_model", "onnx_optimized", "onnx_fp16", "onnx_int8_dynamic", "torch_int8")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A store of its own, where a file holds less than half of the network's 38 kB."""
    monkeypatch.setattr("edge_assets.core.sizes.LARGEST_FILE_BYTES", 15_000)
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def checkpoint(own: ArtifactStore, tmp_path: Path) -> Checkpoint:
    return checkpoints.register(own, "mlp", str(trained(Mlp, tmp_path / "mlp.safetensors")))


@pytest.mark.slow
def test_weights_lie_beside_a_graph_that_is_too_large(own: ArtifactStore, checkpoint: Checkpoint) -> None:
    cell = Cell(LARGE, CPU.of(LARGE), target("graviton3"), checkpoint, own, lambda _line: None)
    builts = cell.build_all()
    for name in VERIFIED:
        built = builts[name]
        assert built.failed is None, (name, built.failed)
        assert built.unverified is None, (name, built.unverified)
        assert built.accuracy is not None, (name, built.build.refused)
        assert built.accuracy.value > 0.85, name
    assert "takes a graph in one file" in (builts["onnx_int8_static"].build.refused or "")
    for name in ("onnx_model", "onnx_optimized", "onnx_fp16", "onnx_int8_dynamic"):
        artifact = builts[name].artifact
        assert artifact is not None
        assert [file.path for file in artifact.files] == ["model.onnx", "model.onnx.data"]
        assert artifact.files[0].size < artifact.files[1].size
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    folder = own.checkout(judgement.release().artifact or pytest.fail("nothing was released"))
    manifest = json.loads((folder / "manifest.json").read_text())
    found = subprocess.run([sys.executable, folder / "infer.py"], capture_output=True, text=True, check=True)
    assert "largest difference from the outputs recorded at release: 0" in found.stdout
    assert manifest["artifact"] in VERIFIED


def test_a_release_of_a_graph_with_its_weights_beside_it_runs(own: ArtifactStore, checkpoint: Checkpoint) -> None:
    cell = Cell(LARGE, CPU.of(LARGE), target("graviton3"), checkpoint, own, lambda _line: None)
    builts = {name: cell.build(name) for name in ("checkpoint", "onnx_model")}
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    folder = own.checkout(judgement.release().artifact or pytest.fail("nothing was released"))
    assert (folder / "onnx_model" / "model.onnx.data").is_file()
    found = subprocess.run([sys.executable, folder / "infer.py"], capture_output=True, text=True, check=True)
    assert "largest difference from the outputs recorded at release: 0" in found.stdout
    assert '"onnx_model/model.onnx"' in (folder / "app" / "model_values.h").read_text()


def test_a_format_that_cannot_hold_it_says_so(own: ArtifactStore, checkpoint: Checkpoint, tmp_path: Path) -> None:
    cell = Cell(LARGE, NVIDIA.of(LARGE), target("l4"), checkpoint, own, lambda _line: None)
    built = cell.build("tensorrt_engine_fp32")
    assert built.failed is None, built.failed
    assert "a TensorRT kit takes a graph in one file" in (built.build.refused or "")
    request = BuildRequest(
        spec=LARGE,
        parameters={},
        source=tmp_path / "mlp.safetensors",
        output=tmp_path,
        log=print,
    )
    with pytest.raises(Refused, match="a LiteRT file holds less than 2"):
        convert.build_model(request)


def test_what_together_takes_too_much_memory_is_timed_in_groups(
    own: ArtifactStore, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cell = Cell(LARGE, CPU.of(LARGE), target("graviton3"), checkpoint, own, said.append)
    builts = {name: cell.build(name) for name in ("checkpoint", "onnx_model")}
    contestants = []
    for name, built in builts.items():
        loadable = cell.verification.loadable(built.runtime, built.build)
        contestants.append(Contestant(name, built.build.sha256, loadable))
    monkeypatch.setattr(harness, "TOGETHER_BYTES", 50_000)
    mode = Mode(name="rapid", seconds=0.1, queries=32)
    rows = cell.measurement.interleaved(contestants, mode, (1,))
    assert all(row.latency_ms for row in rows.values())
    assert any("measuring in 2 groups" in line for line in said), said
