"""A streaming network from checkpoint to release: sequences in, states kept, by `infer.py` too."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from edge_assets.families.android import ANDROID
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.stream import STREAM, network


@pytest.fixture(scope="module")
def checkpoint(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> checkpoints.Checkpoint:
    path = tmp_path_factory.mktemp("stream") / "stream.safetensors"
    save_file(network().state_dict(), path)
    return checkpoints.register(store, "stream", str(path))


def test_a_streaming_network_is_built_and_released(store: ArtifactStore, checkpoint: checkpoints.Checkpoint) -> None:
    cell = Cell(STREAM, CPU.of(STREAM), target("graviton3"), checkpoint, store, lambda _line: None)
    builts = cell.build_all()
    for name in ("onnx_model", "onnx_fp16", "onnx_int8_static"):
        assert builts[name].failed is None, builts[name].failed
        accuracy = builts[name].accuracy
        assert accuracy is not None
        assert accuracy.value > 0.9, name
    assert builts["onnx_int8_static"].build.facts["calibration_samples"] == 120 * 6
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    released = judgement.release()
    assert released.artifact is not None
    folder = store.checkout(released.artifact)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["layout"]["states"] == {"h": {"output": "h_next", "shape": [2, 16], "axis": 1, "dtype": "float32"}}
    found = subprocess.run([sys.executable, folder / "infer.py"], capture_output=True, text=True, check=True)
    assert "scores float32 (1, 6, 3)" in found.stdout
    assert "h_next float32 (1, 2, 16)" in found.stdout
    assert "not part of the release" not in found.stderr
    assert "`h` is the `h_next` of the step before" in (folder / "MODEL_CARD.md").read_text()


def test_a_static_program_keeps_states_sample_by_sample(
    store: ArtifactStore, checkpoint: checkpoints.Checkpoint
) -> None:
    cell = Cell(STREAM, ANDROID.of(STREAM), target("pixel-8"), checkpoint, store, lambda _line: None)
    built = cell.build("litert_fp32")
    assert built.failed is None, built.failed
    assert built.unverified is None, built.unverified
    assert built.parity is not None
    assert built.parity.snr_db is not None
    assert built.parity.snr_db > 60
