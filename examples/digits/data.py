"""Handwritten digits made hard: scikit-learn's 8x8 images, distorted, cluttered and noisy at 32x32.

Plain digits saturate near 99 % whatever the quantizer does, so they cannot rank variants. Each image
here is an affine view of one source digit, over strokes cut from other digits, with sensor noise.
Training, calibration and test images are drawn from disjoint source digits, so that neither
calibration nor test can leak. Everything is seeded: the same call gives the same bytes.
"""

from functools import cache

import numpy as np

SIDE = 32
SPLITS = {"train": 1100, "calibration": 197, "test": 500}  # source digits; 1797 in all
TEST_VIEWS = 4  # views of each test source: 2,000 test images, so that one is 0.05 points
TEST_VIEWS_IN_DEPTH = 12  # 6,000, the 2,000 among them
CALIBRATION_IMAGES = 512
FINETUNING_IMAGES = 4400  # four new views of each training source


@cache
def sources(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The source digits of one split: images float32 [n, 8, 8] in 0..1 and labels int64 [n]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    names = list(SPLITS)
    start = sum(SPLITS[name] for name in names[: names.index(split)])
    chosen = order[start : start + SPLITS[split]]
    return (digits.images[chosen] / 16).astype(np.float32), digits.target[chosen].astype(np.int64)


def _view(image: np.ndarray, rng: np.random.Generator, scale: float, shift: float) -> np.ndarray:
    """`image` [8, 8] drawn on a SIDE x SIDE canvas by a random rotation, scale, shear and translation."""
    from scipy.ndimage import affine_transform

    angle, shear = rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.4)
    pixels = scale * rng.uniform(0.75, 1.2, size=2)  # canvas pixels per source pixel, by axis
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag(pixels)
    inverse = np.linalg.inv(forward)
    centre = SIDE / 2 - 0.5 + rng.uniform(-shift, shift, size=2)
    return affine_transform(image, inverse, offset=3.5 - inverse @ centre, output_shape=(SIDE, SIDE), order=1)


def render(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images uint8 [count, 32, 32, 1] and labels int64 [count], cycling through the split's sources."""
    images, labels = sources(split)
    rng = np.random.default_rng([seed, list(SPLITS).index(split)])
    canvas = np.empty((count, SIDE, SIDE), np.float32)
    for i in range(count):
        clutter = np.zeros((SIDE, SIDE), np.float32)
        for _ in range(rng.integers(2, 5)):
            stroke = images[rng.integers(len(images))].copy()
            row, column = rng.integers(0, 5, size=2)
            stroke[:row], stroke[row + 4 :], stroke[:, :column], stroke[:, column + 4 :] = 0, 0, 0, 0
            clutter = np.maximum(clutter, _view(stroke, rng, scale=2.2, shift=13.0))
        digit = _view(images[i % len(images)], rng, scale=2.5, shift=4.0)
        ink = rng.uniform(0.5, 1.0) * np.maximum(digit, rng.uniform(0.45, 0.9) * clutter)
        canvas[i] = ink + rng.uniform(0, 0.25) + rng.normal(0, rng.uniform(0.05, 0.21), (SIDE, SIDE))
    pixels = (np.clip(canvas, 0, 1) * 255).astype(np.uint8)[..., None]
    return pixels, labels[np.arange(count) % len(labels)]


def calibration() -> dict[str, np.ndarray]:
    """Calibration images, from sources that neither training nor test sees."""
    return {"image": render("calibration", CALIBRATION_IMAGES, seed=1)[0]}


def finetuning() -> dict[str, np.ndarray]:
    """Views of the training sources that training itself has not seen, with their labels."""
    images, labels = render("train", FINETUNING_IMAGES, seed=3)
    return {"image": images, "label": labels}


def evaluation(views: int = TEST_VIEWS) -> dict[str, np.ndarray]:
    """The test set with its labels."""
    images, labels = render("test", SPLITS["test"] * views, seed=2)
    return {"image": images, "label": labels}


def evaluation_in_depth() -> dict[str, np.ndarray]:
    """Three times as many images, for smaller differences between variants."""
    return evaluation(TEST_VIEWS_IN_DEPTH)
