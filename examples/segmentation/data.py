"""Pictures of shapes over textures, drawn from a seed, and the class of every pixel.

Background and shapes are textures of a few waves in colours of their own, so that neither colour nor brightness tells
a shape; shapes cover each other, and the sensor is noisy. Training, calibration and test pictures have seeds of their
own.
"""

import numpy as np

SIDE = 48
CLASS_NAMES = ("background", "disc", "square", "triangle", "ring")
SEEDS = {"train": 1, "calibration": 2, "test": 3}
CALIBRATION_PICTURES, TEST_PICTURES = 200, 600
WAVES = 5
RADII = (8.0, 15.0)  # of shapes, in pixels


def calibration() -> dict[str, np.ndarray]:
    """Pictures uint8 [200, 48, 48, 3]."""
    return {"image": draw("calibration", CALIBRATION_PICTURES)[0]}


def evaluation() -> dict[str, np.ndarray]:
    """Pictures uint8 [600, 48, 48, 3] and classes int64 [600, 48, 48]."""
    pictures, masks = draw("test", TEST_PICTURES)
    return {"image": pictures, "mask": masks}


def draw(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures uint8 [count, 48, 48, 3] and the class of each pixel, int64 [count, 48, 48]."""
    rng = np.random.default_rng(SEEDS[split])
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.int64)
    for number in range(count):
        canvas = _texture(rng)
        for _ in range(int(rng.integers(1, 3))):
            kind = int(rng.integers(1, len(CLASS_NAMES)))
            inside = _shape(CLASS_NAMES[kind], rng)
            canvas[inside] = _texture(rng)[inside]
            masks[number][inside] = kind
        noisy = canvas + rng.normal(0, rng.uniform(0.01, 0.08), canvas.shape)
        pictures[number] = np.round(np.clip(noisy, 0, 1) * 255)
    return pictures, masks


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Waves of random direction, length and colour around a colour; float32 [48, 48, 3]."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    picture = np.broadcast_to(rng.uniform(0.05, 0.95, 3), (SIDE, SIDE, 3)).astype(np.float32)
    for _ in range(WAVES):
        frequency = rng.uniform(0.05, 0.9) * np.array([1, rng.choice([-1, 1])]) * rng.uniform(0.1, 1, 2)
        wave = np.sin(frequency[0] * rows + frequency[1] * columns + rng.uniform(0, 2 * np.pi))
        picture += wave[..., None] * rng.normal(0, 0.04, 3)
    return picture


def _shape(name: str, rng: np.random.Generator) -> np.ndarray:
    """Which pixels a shape of that name, at a random place, size and angle, covers; bool [48, 48]."""
    radius = rng.uniform(*RADII)
    centre = rng.uniform(radius / 2, SIDE - radius / 2, 2)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] - centre[:, None, None]
    distance = np.hypot(rows, columns)
    if name == "disc":
        return distance <= radius
    if name == "ring":
        return (distance <= radius) & (distance >= 0.55 * radius)
    x = np.cos(angle) * columns + np.sin(angle) * rows
    y = np.cos(angle) * rows - np.sin(angle) * columns
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85 * radius
    inside = np.ones((SIDE, SIDE), bool)
    for side in range(3):  # of a triangle: the half planes that all three sides leave
        normal = 2 * np.pi * side / 3
        inside &= np.cos(normal) * x + np.sin(normal) * y <= 0.5 * radius
    return inside
