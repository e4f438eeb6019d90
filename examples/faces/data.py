"""Pictures with faces whose places are known: faces of Labeled Faces in the Wild, pasted into two photographs.

The faces are the 100 of scikit-image's `lfw_subset.npy`, grey and 25 x 25 pixels; half of them are for calibration,
half for evaluation. The photographs are scikit-learn's, of a temple and of a flower: the left half of each for
calibration, the right half for evaluation. Files are read from the installed packages, which are not imported.
Everything is seeded: the same versions of the packages give the same pictures.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 96, 128
SIDE, FACES = 25, 100
SPLITS = ("calibration", "test")
CALIBRATION_PICTURES, TEST_PICTURES = 128, 240
MOST = 3  # faces in a picture
SIZES = (16, 56)  # least and largest side of a pasted face, in pixels
# where the face is within its 25 x 25 pixels, from forehead to chin: left, top, right, bottom as shares of the side
FRAME = np.array([0.10, 0.04, 0.92, 1.0])
TRIES = 30  # to find a place that is free


def calibration() -> dict[str, np.ndarray]:
    """Pictures of the calibration half."""
    return {"image": pictures("calibration", CALIBRATION_PICTURES, seed=1)["image"]}


def evaluation() -> dict[str, np.ndarray]:
    """Pictures of the other half, with the boxes of their faces as `coco_map` takes them."""
    return pictures("test", TEST_PICTURES, seed=2)


def pictures(split: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """Uint8 [count, HEIGHT, WIDTH, 3], and boxes float32 [count, MOST, 5] with the class 0, or -1."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    faces, backgrounds = _faces(split), _backgrounds(split)
    images = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    labels = np.full((count, MOST, 5), -1, np.float32)
    for number in range(count):
        canvas = _background(backgrounds, rng)
        placed: list[np.ndarray] = []
        for _ in range(int(rng.integers(1, MOST + 1))):
            place = _free_place(placed, rng)
            if place is not None:
                _paste(canvas, faces[rng.integers(len(faces))], place, rng)
                placed.append(place)
        for position, (left, top, side) in enumerate(placed):
            labels[number, position, :4] = np.array([left, top, left, top]) + side * FRAME
            labels[number, position, 4] = 0
        noisy = canvas + rng.normal(0, rng.uniform(0, 6), canvas.shape)
        images[number] = np.round(np.clip(noisy, 0, 255))[..., None]
    return {"image": images, "label": labels}


@cache
def _faces(split: str) -> np.ndarray:
    """Faces float32 [n, 25, 25] of 0 to 255."""
    grey = np.load(_installed("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)[:FACES]
    half = SPLITS.index(split)
    return (grey[half::2] * 255).astype(np.float32)


@cache
def _backgrounds(split: str) -> tuple[np.ndarray, ...]:
    """Half of each photograph, grey: float32 [height, width]."""
    from PIL import Image

    halves = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(_installed("sklearn") / "datasets" / "images" / name) as picture:
            grey = np.asarray(picture.convert("L"), np.float32)
        middle = grey.shape[1] // 2
        halves.append(grey[:, :middle] if split == "calibration" else grey[:, middle:])
    return tuple(halves)


def _background(photographs: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """A part of one photograph, at full or half resolution, with a contrast of its own; float32 [HEIGHT, WIDTH]."""
    photograph = photographs[rng.integers(len(photographs))]
    step = int(rng.integers(1, 3))
    row = rng.integers(photograph.shape[0] - step * HEIGHT + 1)
    column = rng.integers(photograph.shape[1] - step * WIDTH + 1)
    part = photograph[row : row + step * HEIGHT : step, column : column + step * WIDTH : step]
    return part * rng.uniform(0.5, 1.0) + rng.uniform(0, 60)


def _free_place(placed: list[np.ndarray], rng: np.random.Generator) -> np.ndarray | None:
    """Left, top and side of a square that touches no other, or None where none was found."""
    for _ in range(TRIES):
        side = float(np.exp(rng.uniform(*np.log(SIZES))))
        place = np.array([rng.uniform(1, WIDTH - side - 1), rng.uniform(1, HEIGHT - side - 1), side])
        if all(_apart(place, other) for other in placed):
            return place
    return None


def _apart(place: np.ndarray, other: np.ndarray) -> bool:
    distances = np.maximum(other[:2] - (place[:2] + place[2]), place[:2] - (other[:2] + other[2]))
    return bool(distances.max() > 1)


def _paste(canvas: np.ndarray, face: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a face, mirrored or not, at its place, with edges that fade into the canvas."""
    from scipy.ndimage import affine_transform

    left, top, side = place
    if rng.random() < 0.5:
        face = face[:, ::-1]
    scale = SIDE / side  # pixels of the face per pixel of the canvas
    corner = np.array([top, left])

    def drawn(values: np.ndarray) -> np.ndarray:
        offset = (0.5 - corner) * scale - 0.5
        found: np.ndarray = affine_transform(
            values,
            (scale, scale),
            offset=offset,
            output_shape=canvas.shape,
            order=1,
            mode="nearest",
        )
        return found

    inside = np.zeros((SIDE, SIDE), np.float32)
    inside[1:-1, 1:-1] = 1
    weight = drawn(inside)
    canvas[:] = (1 - weight) * canvas + weight * drawn(face * rng.uniform(0.75, 1.1))


def _installed(package: str) -> Path:
    """The folder of an installed package. Raises ModuleNotFoundError."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed, and its pictures are this model's data")
    return Path(spec.origin).parent
