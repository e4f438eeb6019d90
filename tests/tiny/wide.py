"""The digits in colour pictures that no model takes as they are."""

import numpy as np

from tests.tiny.data import split


def wide(name: str) -> dict[str, np.ndarray]:
    """Images uint8 [n, 16, 40, 3], a pink digit in the middle of grey, and labels int64 [n]."""
    data = split(name)
    digits = data["image"].repeat(2, axis=1).repeat(2, axis=2)
    images = np.full((len(digits), 16, 40, 3), 40, np.uint8)
    images[:, :, 12:28] = digits * np.array([1.0, 0.5, 0.75])
    return data | {"image": images}


def calibration() -> dict[str, np.ndarray]:
    return wide("calibration")


def evaluation() -> dict[str, np.ndarray]:
    return wide("evaluation")
