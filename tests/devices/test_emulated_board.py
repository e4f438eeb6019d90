"""A board of another instruction set behind a real SSH server: its interpreter is Python on an emulated Cortex-A76.

It is found, refused as what it is not, sent to, and verified, by the agent that every board runs. Nothing is timed: the
clock is this machine's. Skipped where the emulated CPU is not installed.
"""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.evidence import Observed
from edge_assets.devices import reach
from edge_assets.devices.emulators import installed
from edge_assets.devices.inventory import Device, Inventory
from edge_assets.errors import DeviceError, MissingTool
from edge_assets.families.cpu import CPU
from edge_assets.pipeline import observers
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.catalog import Target, parse_target
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

SAMPLES = 8
BOARD: Target = parse_target(
    "bench-arm",
    {
        "family": "cpu",
        "description": "a Cortex-A76 in qemu, over SSH",
        "architecture": "aarch64",
        "match": {"system": "Linux", "instruction_sets": ["asimddp"]},
        "batch_sizes": [1],
        "threads": 1,
        "quantization": {"activations": "int8", "weights": "int8", "reduce_range": False, "torch_engine": "qnnpack"},
        "budgets": {"size": "128 MiB", "memory": "1 GiB"},
    },
)


@pytest.fixture
def arm(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The board with an emulated interpreter."""
    try:
        python = installed("cortex-a76").command()
    except MissingTool as error:
        pytest.skip(str(error))
    interpreter = tmp_path / "python-on-arm"
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    interpreter.chmod(0o755)
    found = replace(board, name="arm-1", target=BOARD.name, interpreter=str(interpreter), samples=SAMPLES)
    monkeypatch.setattr(observers, "devices", lambda: Inventory({found.name: found}))
    yield found
    reach.forget()


def test_a_board_of_another_instruction_set_is_recognised_sent_to_and_verified(
    arm: Device, store: ArtifactStore, checkpoint_file: Path
) -> None:
    hello = reach.asked(arm).demanded()
    assert hello.machine.architecture == "aarch64"
    assert hello.machine.cpu == "Cortex-A76"
    assert hello.machine.matches(BOARD)
    with pytest.raises(DeviceError, match="arm-1 is no x86-64-avx2: its architecture is aarch64, not x86_64"):
        reach.demand_match(arm, hello, target("x86-64-avx2"))

    checkpoint = checkpoints.register(store, TINY.name, str(checkpoint_file))
    cell = Cell(TINY, CPU, BOARD, checkpoint, store, lambda _line: None)
    built = cell.build("onnx_model")
    (result,) = cell.observe({"onnx_model": built})["onnx_model"].elsewhere or ()
    observed = result.said(Observed)
    assert observed.accuracy.samples == SAMPLES
    assert observed.parity.snr_db is not None
    assert observed.parity.snr_db > 100
    assert observed.machine is not None
    assert observed.machine.cpu == "Cortex-A76"
    assert observed.versions["onnxruntime"]

    assert built.artifact is not None
    kept = {path.name for path in (Path(arm.folder) / "files").iterdir()}
    assert kept == {file.sha256 for file in built.artifact.files}, "it has the artifact, by its content"
