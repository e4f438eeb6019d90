"""A streaming network: a step of a sequence and the state of the step before to scores and the next state."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edge_assets import Calibration, Dataset, Evaluation, Gates, Tensor
from tests.tiny.spec import TINY

STEPS = 6


class Streaming(nn.Module):
    """Frames float32 [batch, 4], state float32 [2, batch, 16] to scores [batch, 3] and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.state, self.scores = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, frame: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        first = torch.tanh(self.frames(frame) + self.state(h[0]))
        second = torch.tanh(first + self.state(h[1]))
        return {"h_next": torch.stack([first, second]), "scores": self.scores(second)}


STREAM = replace(
    TINY,
    name="stream",
    architecture="tests.tiny.stream:Streaming",
    inputs=(
        Tensor("frame", "float32", ("batch", 4)),
        Tensor("h", "float32", (2, "batch", 16)),
    ),
    outputs=(Tensor("scores", "float32", ("batch", 3)), Tensor("h_next", "float32", (2, "batch", 16))),
    states={"h": "h_next"},
    preprocessing=None,
    calibration=Calibration(Dataset("tests.tiny.stream:calibration")),
    evaluation=Evaluation(Dataset("tests.tiny.stream:evaluation"), metric="tests.tiny.stream:last_step", minimum=100),
    gates=Gates(max_accuracy_drop_points=5.0),
    targets=("graviton3", "pixel-8"),
    class_names=(),
)


def network() -> Streaming:
    torch.manual_seed(0)
    return Streaming().eval()


def sequences(count: int, seed: int) -> dict[str, np.ndarray]:
    """Frames float32 [count, steps, 4], and the label int64 [count] that the network gives."""
    frames = np.random.default_rng(seed).normal(size=(count, STEPS, 4)).astype(np.float32)
    model = network()
    state = torch.zeros(2, count, 16)
    scores = torch.zeros(count, 3)
    with torch.inference_mode():
        for step in range(STEPS):
            given = model(torch.from_numpy(frames[:, step]), state)
            state, scores = given["h_next"], given["scores"]
    return {"frame": frames, "label": scores.argmax(1).numpy()}


def calibration() -> dict[str, np.ndarray]:
    return sequences(120, seed=1)


def evaluation() -> dict[str, np.ndarray]:
    return sequences(200, seed=2)


def last_step(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """1 where the last step's best score is the label's."""
    hits: np.ndarray = outputs["scores"][:, -1].argmax(-1) == labels
    return hits.astype(np.float64)
