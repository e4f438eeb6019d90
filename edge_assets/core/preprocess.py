"""Preprocessing, declared once per model and applied by every runtime.

Most "the export lost accuracy" reports are preprocessing that differs between runtimes. So a model's
preprocessing is data: the same object feeds PyTorch, every exported format and the calibrator, and this
file itself (NumPy only, no other import from the product) is copied into each release.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np


class Preprocessing(Protocol):
    """Turns raw fields, as a dataset yields them, into the model's inputs."""

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's inputs by name. Raises ValueError for a missing field, shape or dtype."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """A JSON form that `from_dict` reads back."""
        ...


@dataclass(frozen=True)
class ImagePreprocessing:
    """Images uint8 [batch, height, width, channels] to float32 [batch, channels, height, width].

    Computes `(pixel * scale - mean) / std` per channel; `mean` and `std` are in scaled units.
    """

    input: str
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need one value per channel ({self.channels})")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = _field(raw, self.input)
        expected = (self.height, self.width, self.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"'{self.input}' must be uint8 of shape (batch, {', '.join(map(str, expected))}), "
                f"got {images.dtype} {images.shape}"
            )
        scaled = images.astype(np.float32) * np.float32(self.scale)
        normalized = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return {self.input: np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "image", **asdict(self)}


@dataclass(frozen=True)
class Passthrough:
    """For models whose datasets already yield their inputs."""

    inputs: tuple[str, ...]

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(_field(raw, name)) for name in self.inputs}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "passthrough", **asdict(self)}


def _field(raw: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in raw:
        raise ValueError(f"no field '{name}' in the data, which has {sorted(raw)}")
    return raw[name]


KINDS: dict[str, type[ImagePreprocessing] | type[Passthrough]] = {
    "image": ImagePreprocessing,
    "passthrough": Passthrough,
}


def from_dict(data: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that `to_dict` described. Raises KeyError for an unknown kind."""
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items() if key != "kind"}
    return KINDS[data["kind"]](**fields)
