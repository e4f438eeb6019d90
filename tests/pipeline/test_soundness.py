"""A network that is no reference is named in one sentence before anything slow, and FLOPs never stop a release."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_assets.errors import ReferenceFault
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from edge_assets.toolchains.pytorch import eager, soundness
from edge_assets.toolchains.pytorch.session import TorchSession
from resources import checkpoints
from resources.store import open_store
from tests.tiny import signatures
from tests.tiny.network import Branching, TinyNet
from tests.tiny.spec import TINY

FAULTS = {
    "DropoutLeftOn": "differ, output 'logits' by up to .* something random is left on",
    "InPlace": "changes its input 'image': an operation in place",
    "CountingCalls": "changes its buffer 'calls' in each call",
    "Remembering": "with the same random numbers too: the second call depends on the first",
    "Squeezing": r"'logits' is \(5, 10\) for a batch of 5 and \(10,\) for a batch of one",
    "SqueezingFirst": "raises for a batch of one, which is what most devices run: RuntimeError",
    "BatchStatistics": "sample 0 gives other outputs alone than in a batch of 5",
    "TrainingNorm": "changes its buffer 'features.1.running_mean'.* a normalisation is in training mode",
    "Padded": "the fast path of nn.TransformerEncoder gives other outputs",
}


def images() -> dict[str, np.ndarray]:
    """Ten images, the last rows of some of which are empty."""
    values = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    values[::2, :, 5:] = 0
    return {"image": values}


def asked(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    session = TorchSession(model.eval(), ["image"], ["logits"])
    soundness.check(model, session, images())


@pytest.mark.parametrize("name", FAULTS)
def test_a_network_whose_answer_depends_on_more_than_the_sample_is_named(name: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ReferenceFault, match=FAULTS[name]):
        asked(getattr(signatures, name)())


def test_a_branch_on_the_sum_of_a_batch_is_named() -> None:
    with pytest.raises(ReferenceFault, match="gives other outputs alone than in a batch of 5"):
        asked(Branching())


@pytest.mark.parametrize("make", [TinyNet, signatures.PositionDropped, lambda: signatures.Padded(False)])
def test_a_sound_network_is_a_reference(make: type[torch.nn.Module]) -> None:
    asked(make())


def test_the_checkpoint_asks_before_it_evaluates(tmp_path: Path) -> None:
    said: list[str] = []
    own = open_store(str(tmp_path / "store"), tmp_path / "cache")
    save_file(signatures.DropoutLeftOn().state_dict(), tmp_path / "on.safetensors")
    checkpoint = checkpoints.register(own, "tiny", str(tmp_path / "on.safetensors"))
    spec = replace(TINY, architecture="tests.tiny.signatures:DropoutLeftOn")
    cell = Cell(spec, CPU.of(spec), target("graviton3"), checkpoint, own, said.append)
    with pytest.raises(ReferenceFault, match="something random is left on"):
        cell.reference.build()
    assert not any("evaluating" in line for line in said), said


def test_flops_of_a_module_called_on_a_parameter_are_counted() -> None:
    model = signatures.PositionDropped().eval()
    one = {"image": images()["image"][:1]}
    assert eager.describe(model, one, ["image"])["flops"] == 2 * 64 * 10
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_flops_that_cannot_be_counted_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'next_functions'")

    monkeypatch.setattr("torch.utils.flop_counter.FlopCounterMode.__enter__", fails)
    assert eager.describe(TinyNet(), {"image": images()["image"][:1]}, ["image"])["flops"] is None
