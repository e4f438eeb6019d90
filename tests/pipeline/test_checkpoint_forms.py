"""A checkpoint as its trainer left it, built: said once, handed on plainly, chosen by the spec; and known networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_assets.core.types import Built
from edge_assets.errors import CheckpointError
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import ModelSpec
from edge_assets.targets.project import target
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, open_store
from tests.tiny.network import TinyNet
from tests.tiny.spec import TINY

WITH_AVERAGE = replace(TINY, weights="ema")


@pytest.fixture
def own(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def trained(own: ArtifactStore, checkpoint_file: Path, tmp_path: Path) -> Checkpoint:
    """Weights, and an average of them that is better: the weights themselves are those of a worse network."""
    state = load_file(checkpoint_file)
    average = {f"module.{name}": tensor for name, tensor in state.items()}
    noisy = {name: tensor + tensor.std() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    path = tmp_path / "e9.ckpt"
    torch.save({"epoch": 9, "state_dict": noisy, "ema": {**average, "n_averaged": torch.tensor(3)}}, path)
    return checkpoints.register(own, "tiny", str(path))


def cell(spec: ModelSpec, checkpoint: Checkpoint, store: ArtifactStore, lines: list[str]) -> Cell:
    return Cell(spec, CPU, target("graviton3"), checkpoint, store, lines.append)


def agrees(built: Built) -> bool:
    """Whether it gives what PyTorch gives."""
    worst = built.parity.max_abs if built.parity else None
    return worst is not None and worst < 1e-4


def test_chosen_weights_are_read_said_once_and_handed_on_plainly(
    own: ArtifactStore, trained: Checkpoint, checkpoint_file: Path
) -> None:
    lines: list[str] = []
    built = cell(WITH_AVERAGE, trained, own, lines).build("checkpoint")
    read = "read under 'ema'; 'module.' taken off the names; not read: n_averaged, epoch, state_dict"
    assert [line for line in lines if "read under" in line] == [f"checkpoint {trained.key}: {read}"]
    assert built.build.facts["read"] == read
    assert built.artifact
    (file,) = built.artifact.files
    assert file.path.endswith(".safetensors")
    plain, state = load_file(own.checkout(built.artifact)), load_file(checkpoint_file)
    assert plain.keys() == state.keys()
    assert all(torch.equal(plain[name], tensor) for name, tensor in state.items())
    again = cell(WITH_AVERAGE, trained, own, lines).build("checkpoint")
    assert again.reused
    exported = cell(WITH_AVERAGE, trained, own, lines).build("onnx_model")
    assert agrees(exported)


def test_a_checkpoint_that_fits_once_the_spec_chooses_is_not_passed_by(own: ArtifactStore, trained: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="choose by ModelSpec"):
        cell(TINY, trained, own, []).build("checkpoint")
    assert checkpoints.newest(own, "tiny", fitting_digest(TINY)) is None
    assert checkpoints.newest(own, "tiny", fitting_digest(WITH_AVERAGE)) == trained


def test_a_checkpoint_as_it_stands_is_handed_on_as_it_is(own: ArtifactStore, checkpoint_file: Path) -> None:
    checkpoint = checkpoints.register(own, "tiny", str(checkpoint_file))
    built = cell(TINY, checkpoint, own, []).build("checkpoint")
    assert built.artifact
    assert built.artifact.sha256 == checkpoint.file.sha256
    assert "read" not in built.build.facts


def test_an_exported_program_is_built_with_the_weights_of_a_checkpoint(
    own: ArtifactStore, checkpoint_file: Path, tmp_path: Path
) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.zeros(2, 1, 8, 8),)
    exported = torch.export.export(TinyNet().eval(), example, dynamic_shapes={"image": {0: batch}})
    torch.export.save(exported, tmp_path / "tiny.pt2")
    checkpoint = checkpoints.register(own, "tiny", str(checkpoint_file))
    program = cell(replace(TINY, architecture=str(tmp_path / "tiny.pt2")), checkpoint, own, [])
    code = cell(TINY, checkpoint, own, [])
    assert program.build("checkpoint").accuracy == code.build("checkpoint").accuracy
    built = program.build("onnx_model")
    assert built.failed is None
    assert agrees(built)
