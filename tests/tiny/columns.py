"""A network that has its batch last, and a scalar beside it."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edge_assets import Calibration, Dataset, Evaluation, Gates, Tensor
from tests.tiny.spec import TINY


class Columns(nn.Module):
    """Signals float32 [4, batch] and their gain [] to scores [3, batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, signal: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(torch.tanh(self.first(signal.T * gain)))
        return scores.T


COLUMNS = replace(
    TINY,
    name="columns",
    architecture="tests.tiny.columns:Columns",
    inputs=(Tensor("signal", "float32", (4, "batch")), Tensor("gain", "float32", ())),
    outputs=(Tensor("scores", "float32", (3, "batch")),),
    preprocessing=None,
    calibration=Calibration(Dataset("tests.tiny.columns:calibration")),
    evaluation=Evaluation(Dataset("tests.tiny.columns:evaluation"), metric="top1_accuracy", minimum=100),
    gates=Gates(max_accuracy_drop_points=5.0),
    targets=("browser-wasm",),
    class_names=(),
)


def network() -> Columns:
    torch.manual_seed(0)
    return Columns().eval()


def signals(count: int, seed: int) -> dict[str, np.ndarray]:
    """Signals float32 [count, 4], the gain [count] that all have, and the network's label int64 [count]."""
    signal = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    gain = np.full(count, 2.0, np.float32)
    with torch.inference_mode():
        scores = network()(torch.from_numpy(signal.T), torch.tensor(2.0))
    return {"signal": signal, "gain": gain, "label": scores.argmax(0).numpy()}


def calibration() -> dict[str, np.ndarray]:
    return signals(120, seed=1)


def evaluation() -> dict[str, np.ndarray]:
    return signals(200, seed=2)
