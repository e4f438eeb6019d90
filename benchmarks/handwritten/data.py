"""The calibration and test images, drawn and preprocessed once for all scripts."""

import numpy as np

from benchmarks.handwritten.common import Clock, Report, Work, call
from examples.digits.data import calibration, evaluation

MEAN, STD = 0.3, 0.3
SAMPLES = 256  # test images that measured queries cycle through


def preprocess(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 1] to float32 [n, 1, 32, 32], normalised."""
    scaled = images.astype(np.float32) * np.float32(1 / 255)
    return np.ascontiguousarray(((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2))


def main(work: Work) -> Report:
    """Save the arrays."""
    clock, test = Clock(), evaluation()
    images = preprocess(test["image"])
    arrays = {
        "calibration": preprocess(calibration()["image"]),
        "test": images,
        "pixels": test["image"],
        "labels": test["label"],
        "inputs": images[:SAMPLES],
    }
    for name, array in arrays.items():
        np.save(work.output / f"{name}.npy", array)
    clock.lap("data")
    return {"phases": clock.seconds}


if __name__ == "__main__":
    call(main)
