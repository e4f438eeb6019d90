"""A first build reads the checkpoint once, and what one step leaves in the network no other sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_assets import Calibration, Dataset, Evaluation, ModelSpec, Passthrough, Tensor
from edge_assets.core.checkpoint import load
from edge_assets.families.cpu import CPU
from edge_assets.pipeline import network
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import open_store
from tests.tiny.spec import TINY

THIS = "tests.pipeline.test_shared_network"


class Mean(torch.nn.Module):
    """Any length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classify = torch.nn.Linear(4, 10)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(signal.mean(dim=1))
        return logits


class Grows(Mean):
    """Keeps what the longest sequence so far has needed, as tables of positions do."""

    longest = 32

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, signal.shape[1])
        return super().forward(signal) * self.longest


def signals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(16, 32, 4)).astype(np.float32)


def calibration() -> dict[str, np.ndarray]:
    return {"signal": signals(0)}


def evaluation() -> dict[str, np.ndarray]:
    signal = signals(1)
    with torch.no_grad():
        logits = Mean()(torch.from_numpy(signal))
    return {"signal": signal, "label": logits.argmax(dim=1).numpy()}


def specified(architecture: str) -> ModelSpec:
    return replace(
        TINY,
        name=architecture.lower(),
        architecture=f"{THIS}:{architecture}",
        inputs=(Tensor("signal", "float32", ("batch", "length", 4)),),
        outputs=(Tensor("logits", "float32", ("batch", 10)),),
        preprocessing=Passthrough(("signal",)),
        axis_ranges={"length": (8, 32, 64)},
        calibration=Calibration(Dataset(f"{THIS}:calibration"), minimum=8),
        evaluation=Evaluation(Dataset(f"{THIS}:evaluation"), minimum=8),
    )


@pytest.mark.parametrize(("architecture", "loads"), [("Mean", 1), ("Grows", 2)])
def test_a_first_build_reads_the_checkpoint_once(
    architecture: str, loads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(*arguments: object) -> object:
        read.append(arguments)
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "load", counted)
    save_file(Mean().state_dict(), tmp_path / "mean.safetensors")
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    spec = specified(architecture)
    checkpoint = checkpoints.register(store, spec.name, str(tmp_path / "mean.safetensors"))
    cell = Cell(spec, CPU, target("graviton3"), checkpoint, store, lambda _line: None)
    assert cell.reference.build().artifact is not None
    assert len(read) == loads
    sizes = cell.network.sizes()
    assert sizes is not None
    assert [case.title for case in sizes.read()] == ["length=16", "length=64"]
    with torch.no_grad():
        fresh = (Mean() if architecture == "Mean" else Grows())(torch.from_numpy(signals(1)))
    assert np.allclose(cell.reference.kept_outputs().rows(0, 16)["logits"], fresh, atol=1e-5)
    cell.reference.build()
    assert len(read) == loads, "what is known is not looked at again"
