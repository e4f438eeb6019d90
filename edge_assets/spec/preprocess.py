"""Preprocessing, declared once per model and applied by every runtime.

Most "the export lost accuracy" reports are preprocessing that differs between runtimes. So a model's
preprocessing is data: the same object feeds PyTorch, every exported format and the calibrator, and this
file itself (NumPy only, no other import from the product) is copied into each release.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HERE = Path(__file__).parent


class Preprocessing(Protocol):
    """Turns raw fields, as a dataset yields them, into the model's inputs."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What `apply` reads: goes into every release, beside this file."""
        ...

    @property
    def tools(self) -> tuple[str, ...]:
        """Distributions that `apply` imports, besides NumPy: their versions shape the inputs."""
        ...

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's inputs by name. Raises ValueError for a missing field, shape or dtype."""
        ...

    def to_dict(self) -> dict[str, object]:
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

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @property
    def tools(self) -> tuple[str, ...]:
        return ()

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = _field(raw, self.input)
        expected = (self.height, self.width, self.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            shape = ", ".join(map(str, ("batch", *expected)))
            raise ValueError(f"'{self.input}' must be uint8 of shape ({shape}), got {images.dtype} {images.shape}")
        scaled = images.astype(np.float32) * np.float32(self.scale)
        normalized = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return {self.input: np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))}

    def to_dict(self) -> dict[str, object]:
        return {"kind": "image", **asdict(self)}


@dataclass(frozen=True)
class Passthrough:
    """For models whose datasets already yield their inputs."""

    inputs: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @property
    def tools(self) -> tuple[str, ...]:
        return ()

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(_field(raw, name)) for name in self.inputs}

    def to_dict(self) -> dict[str, object]:
        return {"kind": "passthrough", **asdict(self)}


@dataclass(frozen=True)
class TextPreprocessing:
    """Texts (NumPy strings [batch]) to token ids, attention mask and token types, int64 [batch, max_length].

    `tokenizer` is the path of a tokenizer.json, as Hugging Face's libraries have it; a relative one is relative to the
    project. `inputs` are the model's names of the three, in this order; a model without token types names two. Longer
    texts are cut at the end, shorter ones padded to `max_length`, never to the longest of a batch: so the inputs of a
    text depend on that text alone, and fit programs with static shapes.
    """

    field: str
    tokenizer: str
    max_length: int
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    sha256: str | None = None  # of the tokenizer's file: in a release, what it must be

    def __post_init__(self) -> None:
        if not 2 <= len(self.inputs) <= len(ENCODED):
            raise ValueError(f"inputs must name token ids, attention mask and, if any, token types, not {self.inputs}")
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {self.max_length}")

    @property
    def files(self) -> tuple[Path, ...]:
        return (Path(self.tokenizer),)

    @property
    def tools(self) -> tuple[str, ...]:
        return ("tokenizers",)

    def apply(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = _field(raw, self.field)
        if texts.dtype.kind != "U" or texts.ndim != 1:
            raise ValueError(f"'{self.field}' must be strings of shape (batch,), got {texts.dtype} {texts.shape}")
        encodings = _tokenizer(self.tokenizer, self.max_length, self.sha256).encode_batch(texts.tolist())
        inputs = {}
        for name, part in zip(self.inputs, ENCODED, strict=False):
            numbers = [getattr(encoding, part) for encoding in encodings]
            inputs[name] = np.array(numbers, np.int64).reshape(-1, self.max_length)
        return inputs

    def to_dict(self) -> dict[str, object]:
        """Without the file's place, which differs between machines: its name and what is in it."""
        own = {"tokenizer": Path(self.tokenizer).name, "sha256": self.sha256 or _sha256(self.tokenizer)}
        return {"kind": "text", **asdict(self), **own}


ENCODED = ("ids", "attention_mask", "type_ids")  # attributes of an encoding


@cache
def _tokenizer(path: str, max_length: int, sha256: str | None) -> "Tokenizer":
    """A tokenizer that cuts and pads to `max_length`. Raises ValueError for another file than expected."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModuleNotFoundError("texts need tokenizers: pip install 'edge-assets[text]', or tokenizers") from None
    if sha256 and _sha256(path) != sha256:
        raise ValueError(f"{path} is not the released tokenizer: sha256 {_sha256(path)}, expected {sha256}")
    tokenizer = Tokenizer.from_file(path)
    padding = {"length": max_length, "pad_to_multiple_of": None}
    for name, value in (tokenizer.padding or {}).items():
        if name.startswith("pad_"):
            padding.setdefault(name, value)
    tokenizer.enable_padding(**padding)
    tokenizer.enable_truncation(max_length)
    return tokenizer


@cache
def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _field(raw: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in raw:
        raise ValueError(f"no field '{name}' in the data, which has {sorted(raw)}")
    return raw[name]


KINDS: dict[str, type[ImagePreprocessing] | type[Passthrough] | type[TextPreprocessing]] = {
    "image": ImagePreprocessing,
    "passthrough": Passthrough,
    "text": TextPreprocessing,
}


def from_dict(data: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that `to_dict` described, its files beside this one. Raises KeyError for an unknown kind."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        kept[name] = tuple(value) if isinstance(value, list) else value
    kind = KINDS[kept.pop("kind")]
    if "tokenizer" in kept:
        kept["tokenizer"] = str(HERE / kept["tokenizer"])
    return kind(**kept)
