"""Images drawn when they are asked for: a coarse pattern per class, shifted, with noise."""

import os

import numpy as np

SIDE = 224
CLASSES = 10  # of the network's 1000
CELLS = 8
NOISE = np.random.default_rng(0).integers(-40, 41, (SIDE + 64, SIDE + 64, 3), dtype=np.int16)
PATTERNS = np.random.default_rng(1).integers(40, 216, (CLASSES, CELLS, CELLS, 3), dtype=np.int16)


class Images:
    """A map-style data set: sample i is the same each time."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, position])
        label = int(rng.integers(CLASSES))
        cell = SIDE // CELLS
        pattern = np.repeat(np.repeat(PATTERNS[label], cell, axis=0), cell, axis=1)
        moved = np.roll(pattern, tuple(rng.integers(0, cell, 2)), axis=(0, 1))
        top, left = rng.integers(0, 64, 2)
        noisy = moved + NOISE[top : top + SIDE, left : left + SIDE]
        image = np.clip(noisy, 0, 255).astype(np.uint8)
        return {"image": image, "label": np.asarray(label, np.int64)}


def evaluation() -> Images:
    """As many as the benchmark says."""
    return Images(int(os.environ["STREAMING_IMAGES"]), seed=2)


def calibration() -> Images:
    """For static int8."""
    return Images(128, seed=3)
