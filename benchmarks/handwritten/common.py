"""What the scripts share: the checkpoint, the saved data, verification, and their reports."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

TEST_BATCH = 64
Run = Callable[[np.ndarray], np.ndarray]  # float32 [n, 1, 32, 32] to logits [n, 10]
Report = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What one call works on."""

    checkpoint: Path
    output: Path
    mode: str  # rapid, quick or release: how long to measure

    def array(self, name: str) -> np.ndarray:
        """An array that `data` or `cpu` saved: calibration, test, pixels, labels, reference."""
        return np.load(self.output / f"{name}.npy")

    @property
    def inputs(self) -> Path:
        """The test images that measured queries cycle through."""
        return self.output / "inputs.npy"

    def file(self, name: str, suffix: str) -> Path:
        """Where the artifact of that name goes."""
        return self.output / f"{name.replace(' ', '-')}{suffix}"


class Clock:
    """CPU seconds of this process, and of its children that ended, by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Everything since the phase before, or since the process started, was this phase."""
        self.seconds[phase] = sum(os.times()[:4]) - sum(self.seconds.values())


def call(main: Callable[[Work], Report]) -> None:
    """Run a script with the arguments CHECKPOINT OUTPUT MODE and write its report beside what it makes."""
    work = Work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    report = main(work)
    (work.output / f"{Path(sys.argv[0]).stem}.json").write_text(json.dumps(report, indent=1))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def load_eager(checkpoint: Path) -> "torch.nn.Module":
    """The network with the checkpoint's weights."""
    from safetensors.torch import load_file

    from examples.digits.network import DigitsNet

    model = DigitsNet()
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`images` in batches of at most `size`."""
    return (images[start : start + size] for start in range(0, len(images), size))


def one_by_one(run: Run) -> Run:
    """A program that takes one image, for batches."""
    return lambda images: np.concatenate([run(image) for image in batches(images, 1)])


def sizes(files: Mapping[str, Path]) -> dict[str, int]:
    """Bytes of each file or folder."""
    return {
        name: sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
        for name, path in files.items()
    }


# --- verification --------------------------------------------------------------------------------------


def evaluate(run: Run, images: np.ndarray) -> np.ndarray:
    """Logits of all images."""
    return np.concatenate([run(batch) for batch in batches(images, TEST_BATCH)])


def verify(run: Run, images: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Accuracy, its drop against PyTorch eager's logits in `reference`, and parity."""
    accuracy = float((evaluate(run, images).argmax(1) == labels).mean())
    expected = float((reference.argmax(1) == labels).mean())
    drop = 100 * (expected - accuracy)
    return {"accuracy": accuracy, "drop_points": drop, "snr_db": parity(run, images, reference)}


def parity(run: Run, images: np.ndarray, reference: np.ndarray) -> float:
    """The worst SNR in batches of 1, 2 and 5."""
    parts = (slice(0, 1), slice(1, 3), slice(3, 8))
    return min(snr_db(reference[part], run(images[part])) for part in parts)


def snr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """Signal-to-noise ratio of `output`, in dB."""
    noise = np.square(reference.astype(np.float64) - output).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))
