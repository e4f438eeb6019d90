"""Preprocessing, declared once per model and applied by every runtime.

Most "the export lost accuracy" reports are preprocessing that differs between runtimes. So a model's
preprocessing is data: the same object feeds PyTorch, every exported format and the calibrator, and this
file itself is copied into each release. So it imports NumPy alone, Pillow where a picture is opened, and of the product
nothing but what reads the declarations of others, in `from_timm` and `from_torchvision`.
"""

from __future__ import annotations

import hashlib
import math
import wave
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from tokenizers import Tokenizer

    Size: TypeAlias = tuple[int, int]  # height and width
else:

    class _NumPy:
        """NumPy, imported when something of it is first asked for: who only declares a preprocessing needs none."""

        def __getattr__(self, name):
            import numpy

            return getattr(numpy, name)

    np = _NumPy()

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
    """Pictures uint8 [batch, h, w, c], red first, to float32 [batch, channels, height, width].

    A picture gets the model's channels, then its size, then the model's order of channels; then
    `(pixel * scale - mean) / std` per channel. `mean` and `std` are in scaled units and in the model's order. All up to
    the last step is done in whole numbers, so that other languages compute the same pixels bit for bit.

    resize          none: pictures have the model's size. stretch: to the model's size. crop: resized by `resize_to`,
                    then the middle. letterbox: the whole picture, with `fill` around it
    least           height and width from which on a picture keeps its own size, up to `height` and `width`; outside of
                    that range it is resized as a whole, as little as can be. none: it must lie within. stretch: each
                    side becomes the nearest `multiple`. letterbox: `fill` up to the next `multiple`. Left out: one size
    resize_to       of crop: the shorter side, or height and width; left out, the larger side of the model's size
    filter          nearest, box, bilinear or bicubic
    antialias       True: a smaller picture is averaged from all pixels, along its rows and then its columns, bit for
                    bit as Pillow's `Image.resize` (Pillow 13 takes the columns of tall pictures first, and rounds
                    otherwise). False: the filter never grows, as in OpenCV and in TorchVision without antialias
    fill            of letterbox: one value, or one for each channel, red first
    align           of letterbox: where the picture lies
    order           BGR: the model takes blue first
    other_channels  what becomes of a picture with other channels than the model's. convert: grey from and to colour by
                    ITU-R 601 luma, alpha dropped, a missing alpha opaque. composite: the same, over `background` where
                    it is transparent. refuse: ValueError
    """

    input: str
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    resize: Literal["none", "stretch", "crop", "letterbox"] = "none"
    resize_to: tuple[int, ...] = ()
    filter: Literal["nearest", "box", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    fill: tuple[int, ...] = (0,)
    align: Literal["center", "start"] = "center"
    order: Literal["RGB", "BGR"] = "RGB"
    other_channels: Literal["convert", "composite", "refuse"] = "convert"
    background: tuple[int, ...] = (255, 255, 255)
    least: tuple[int, ...] = ()
    multiple: int = 1

    def __post_init__(self) -> None:
        lengths = {len(self.mean), len(self.std)}
        if lengths != {self.channels}:
            raise ValueError(f"mean and std need one value per channel ({self.channels})")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        for name in ("resize_to", "fill", "background"):
            value = getattr(self, name)
            if isinstance(value, int):
                raise ValueError(f"{name} is a list of values: write ({value},)")
        if self.order == "BGR" and self.channels not in (3, 4):
            raise ValueError(f"order BGR is of 3 or 4 channels, not {self.channels}")
        if self.resize == "crop" and self.resize_to:
            _check_crop(self.resize_to, self.height, self.width)
        if self.resize != "crop" and self.resize_to:
            raise ValueError(f"resize_to is of resize='crop', not of '{self.resize}'")
        if len(self.fill) not in (1, self.channels):
            raise ValueError(f"fill needs one value, or one per channel ({self.channels})")
        if len(self.background) != 3:
            raise ValueError("background needs three values: red, green and blue")
        if self.least:
            _check_range(self.least, (self.height, self.width), self.multiple, self.resize)
        elif self.multiple != 1:
            raise ValueError("multiple is of a range of sizes: say its `least` height and width")

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], input: str = "image") -> ImagePreprocessing:
        """What a data config of timm's says. Raises InvalidSpec where that has no equal. Needs edge-assets itself."""
        from edge_assets.spec.transforms import from_timm

        return from_timm(config, input)

    @classmethod
    def from_torchvision(
        cls,
        transform: object,
        input: str = "image",
        channels: int | None = None,
    ) -> ImagePreprocessing:
        """What TorchVision's transforms do. Raises InvalidSpec where that has no equal. Needs edge-assets itself.

        `channels` is for transforms that do not tell: the least they say of it is one mean per channel.
        """
        from edge_assets.spec.transforms import from_torchvision

        return from_torchvision(transform, input, channels)

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @property
    def tools(self) -> tuple[str, ...]:
        return ()

    def of_size(self, height: int, width: int) -> ImagePreprocessing:
        """The same for a program of that size alone: what has a range of sizes is resized to it."""
        if not self.least:
            return self
        return replace(self, height=height, width=width, least=(), multiple=1)

    @property
    def cropped_from(self) -> tuple[int, int]:
        """Height and width before the crop; where the width is 0, the other is of the shorter side."""
        if len(self.resize_to) == 2:
            height, width = self.resize_to
            return height, width
        if self.resize_to:
            return self.resize_to[0], 0
        return max(self.height, self.width), 0

    def apply(self, raw: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's input of an array, or of a sequence of pictures [h, w, c] of any sizes.

        An array of exactly the model's size and channels counts as fitted already, as `fitted` or the training's own
        transforms leave pictures; in a sequence, and in an array of any other size, each picture is fitted. In a range
        of sizes they must all become the same.
        """
        fitted = _field(raw, self.input)
        size = (self.height, self.width, self.channels)
        if not isinstance(fitted, np.ndarray) or fitted.dtype != np.uint8 or fitted.shape[1:] != size:
            fitted = self._each_fitted(fitted)
        placed = _in_order(fitted, self.order)
        scaled = placed.astype(np.float32) * np.float32(self.scale)
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        normalized = (scaled - mean) / std
        channels_first = normalized.transpose(0, 3, 1, 2)
        return {self.input: np.ascontiguousarray(channels_first)}

    def _each_fitted(self, pictures: Any) -> np.ndarray:
        if isinstance(pictures, np.ndarray) and pictures.dtype != object and pictures.ndim != 4:
            found = f"{pictures.dtype} {pictures.shape}"
            raise ValueError(f"'{self.input}' must be uint8 of shape (batch, h, w, c), got {found}")
        fitted: list[np.ndarray] = []
        for picture in pictures:
            fitted.append(self.fitted(np.asarray(picture)))
            if fitted[-1].shape != fitted[0].shape:
                sizes = [f"{one.shape[0]} x {one.shape[1]}" for one in (fitted[0], fitted[-1])]
                raise ValueError(
                    f"pictures of '{self.input}' become {' and '.join(sizes)} pixels, and one batch has one size: "
                    f"give those of one size together"
                )
        if not fitted:
            return np.empty((0, self.height, self.width, self.channels), np.uint8)
        return np.stack(fitted)

    def fitted(self, picture: np.ndarray) -> np.ndarray:
        """One picture uint8 [h, w, c] of any size as uint8 [height, width, channels], red still first.

        With `least` the result has a size of the range. Raises ValueError for another dtype or shape, for channels that
        are refused, and for a size without `resize`.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.size == 0:
            raise ValueError(
                f"a picture of '{self.input}' must be uint8 (h, w, c), got {picture.dtype} {picture.shape}"
            )
        height, width = picture.shape[:2]
        size, scaled, offset = self._placed(height, width)
        if self.resize == "none" and (height, width) != size:
            raise ValueError(
                f"a picture of '{self.input}' must have {self._sizes} pixels (height x width), "
                f"got {height} x {width}; `resize` of the preprocessing would say how others are made so"
            )
        pixels = self._with_channels(picture)
        if self.resize == "none":
            return pixels
        rows = _Window(scaled[0], offset[0], size[0])
        columns = _Window(scaled[1], offset[1], size[1])
        for axis, window in ((1, columns), (0, rows)):  # along each row first
            positions, weights = _weights(
                size=pixels.shape[axis],
                scaled=scaled[axis],
                name=self.filter,
                antialias=self.antialias,
            )
            pixels = _resampled(
                pixels,
                axis,
                positions=positions[window.seen],
                weights=weights[window.seen],
            )
        whole = np.empty((*size, self.channels), np.uint8)
        whole[:] = np.asarray(self.fill, np.uint8)
        whole[rows.covered, columns.covered] = pixels
        return whole

    @property
    def _sizes(self) -> str:
        """The sizes that the model takes, in words."""
        largest = f"{self.height} x {self.width}"
        if not self.least:
            return largest
        told = f"{self.least[0]} x {self.least[1]} to {largest}"
        return told if self.multiple == 1 else f"{told}, in multiples of {self.multiple},"

    def _placed(self, height: int, width: int) -> tuple[Size, Size, Size]:
        """Where a picture goes: the model's size, that to which it is resized, and where in that the model's begins.

        Each is of rows and of columns; what begins below 0 begins before the picture.
        """
        size = (self.height, self.width)
        if self.resize == "crop":
            scaled = _before_crop(height, width, self.cropped_from)
            above = _half(scaled[0] - self.height)
            left = _half(scaled[1] - self.width)
            return size, scaled, (above, left)
        if self.least:
            size, scaled = self._within_range(height, width)
        else:
            scaled = _inside(height, width, self.height, self.width)
        if self.resize != "letterbox":
            return size, size, (0, 0)
        if self.align == "start":
            return size, scaled, (0, 0)
        filled_above = (size[0] - scaled[0]) // 2
        filled_left = (size[1] - scaled[1]) // 2
        return size, scaled, (-filled_above, -filled_left)

    def _within_range(self, height: int, width: int) -> tuple[Size, Size]:
        """The model's size for a picture, and the size of the same proportions that it has in the range."""
        least, largest = self.least, (self.height, self.width)
        scaled = (height, width)
        if height < least[0] or width < least[1]:
            scaled = _around(height, width, least[0], least[1])
        if scaled[0] > largest[0] or scaled[1] > largest[1]:
            scaled = _inside(height, width, *largest)
        has_room = self.resize == "letterbox"
        size = (
            _stepped(scaled[0], self.multiple, least[0], largest[0], has_room),
            _stepped(scaled[1], self.multiple, least[1], largest[1], has_room),
        )
        return size, scaled

    def _with_channels(self, picture: np.ndarray) -> np.ndarray:
        """The picture with the model's channels. Raises ValueError where they are refused or have no meaning."""
        given = picture.shape[2]
        if given == self.channels:
            return picture
        if self.other_channels == "refuse" or given not in (1, 2, 3, 4) or self.channels not in (1, 3, 4):
            raise ValueError(f"a picture of '{self.input}' must have {self.channels} channels, got {given}")
        background = self.background if self.other_channels == "composite" else None
        return with_channels(picture, self.channels, background)

    def to_dict(self) -> dict[str, object]:
        """What differs from its default, beside the fields that recipes always held."""
        return _told("image", self, always=("input", "height", "width", "channels", "mean", "std", "scale"))


# --- pictures: whole numbers, as every language has them -----------------------------------------------

BITS = 22  # of a weight's fraction: 255 times the sum of weights fits 32 bits
REACH = {"nearest": 0.5, "box": 0.5, "bilinear": 1.0, "bicubic": 2.0}  # of a filter, in pixels to each side


class _Window:
    """What of a resized axis the model's picture has."""

    def __init__(self, scaled: int, offset: int, size: int) -> None:
        begin = max(offset, 0)
        end = min(offset + size, scaled)
        self.seen = slice(begin, end)  # of the resized axis
        self.covered = slice(begin - offset, end - offset)  # of the model's


def _check_range(least: tuple[int, ...], largest: Size, multiple: int, resize: str) -> None:
    if resize == "crop":
        raise ValueError("resize='crop' has one size: leave `least` out, or take stretch or letterbox")
    if len(least) != 2 or least[0] > largest[0] or least[1] > largest[1]:
        raise ValueError(f"least needs a height and a width up to {largest}, not {least}")
    if any(side % multiple for side in (*least, *largest)):
        raise ValueError(f"sizes from {least} to {largest} must be multiples of {multiple}")


def _check_crop(resize_to: tuple[int, ...], height: int, width: int) -> None:
    if len(resize_to) > 2:
        raise ValueError(f"resize_to needs the shorter side, or height and width, not {resize_to}")
    if resize_to[0] < height or resize_to[-1] < width:
        raise ValueError(f"resize_to {resize_to} must hold the crop of {height} x {width}")


def _before_crop(height: int, width: int, cropped_from: tuple[int, int]) -> tuple[int, int]:
    """Height and width before the crop: the given ones, or those with that shorter side."""
    shorter, other = cropped_from
    if other:
        return cropped_from
    if width <= height:
        return shorter * height // width, shorter
    return shorter, shorter * width // height


def _inside(height: int, width: int, largest_height: int, largest_width: int) -> tuple[int, int]:
    """The largest size of the same proportions, at least 1, that fits into another."""
    if largest_height * width <= largest_width * height:
        fitting_width = _rounded(width * largest_height, height)
        return largest_height, max(fitting_width, 1)
    fitting_height = _rounded(height * largest_width, width)
    return max(fitting_height, 1), largest_width


def _around(height: int, width: int, least_height: int, least_width: int) -> Size:
    """The smallest size of the same proportions into which another fits."""
    if least_height * width >= least_width * height:
        return least_height, _rounded(width * least_height, height)
    return _rounded(height * least_width, width), least_width


def _stepped(side: int, multiple: int, least: int, largest: int, has_room: bool) -> int:
    """The model's side for one of a picture: a multiple, and in its range; with room for all of it, or the nearest."""
    steps = -(-side // multiple) if has_room else _rounded(side, multiple)
    return min(max(steps * multiple, least), largest)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number of a fraction; of a half, the even one."""
    whole, rest = divmod(numerator, denominator)
    if 2 * rest == denominator:
        return whole + whole % 2
    if 2 * rest > denominator:
        return whole + 1
    return whole


def _half(excess: int) -> int:
    """What is cut before the middle; of an odd excess, whichever is even, as TorchVision has it."""
    return _rounded(excess, 2)


def _weights(size: int, scaled: int, name: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of which pixels of an axis each resized one is made, and how much of each in 22-bit fractions.

    Both are int [scaled, n]. Computed in IEEE double precision, each sum in the order of the pixels.
    """
    step = size / scaled
    if name == "nearest":
        steps = np.full((scaled, 1), step)
        steps[0] = 0.5 * step
        positions = np.add.accumulate(steps).astype(np.int64)
        weights = np.full((scaled, 1), 1 << BITS)
        return np.minimum(positions, size - 1), weights
    widened = 1.0
    if antialias:
        widened = max(step, 1.0)
    reach = REACH[name] * widened
    centers = (np.arange(scaled)[:, None] + 0.5) * step
    first = np.floor(centers - reach + 0.5).astype(np.int64)
    behind = np.floor(centers + reach + 0.5).astype(np.int64)
    taps = int(np.ceil(reach)) * 2 + 1
    positions = first + np.arange(taps)
    distances = (positions - centers + 0.5) * (1.0 / widened)
    amounts = _amounts(name, distances, antialias)
    amounts[positions >= behind] = 0.0
    if antialias:  # else what lies outside is the pixel at the edge
        is_outside = (positions < 0) | (positions >= size)
        amounts[is_outside] = 0.0
    total = np.add.accumulate(amounts, axis=1)[:, -1:]
    shares = amounts / total * (1 << BITS)
    halves = np.where(shares < 0, -0.5, 0.5)
    weights = np.trunc(shares + halves).astype(np.int64)
    return np.clip(positions, 0, size - 1), weights


def _amounts(name: str, distance: np.ndarray, antialias: bool) -> np.ndarray:
    """A filter's value at a distance in pixels."""
    if name == "box":
        is_inside = (distance > -0.5) & (distance <= 0.5)
        return is_inside.astype(np.float64)
    x: np.ndarray = np.abs(distance)
    if name == "bilinear":
        triangle: np.ndarray = np.maximum(1.0 - x, 0.0)
        return triangle
    a = -0.75  # of Keys's cubic, as in OpenCV and PyTorch
    if antialias:
        a = -0.5  # Pillow's
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.select([x < 1.0, x < 2.0], [near, far], 0.0)


def _resampled(
    pixels: np.ndarray,
    axis: int,
    positions: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Pixels uint8 with one axis resized, each value rounded to a byte."""
    moved = np.moveaxis(pixels, axis, 0)
    lines = np.ascontiguousarray(moved).astype(np.int32)
    count, taps = positions.shape
    one_per_line = (count,) + (1,) * (lines.ndim - 1)
    half = 1 << (BITS - 1)
    total = np.full((count, *lines.shape[1:]), half, np.int32)
    for tap in range(taps):
        weight = weights[:, tap].astype(np.int32)
        total += lines[positions[:, tap]] * weight.reshape(one_per_line)
    whole = total >> BITS
    rounded = np.clip(whole, 0, 255).astype(np.uint8)
    return np.moveaxis(rounded, 0, axis)


def with_channels(picture: np.ndarray, channels: int, background: tuple[int, ...] | None = None) -> np.ndarray:
    """A picture uint8 [h, w, 1 to 4] with 1, 3 or 4 channels.

    Grey is made from and to colour by ITU-R 601 luma, a missing alpha is opaque, and one too many is dropped, or with a
    `background` blended over that.
    """
    given = picture.shape[2]
    if given == channels:
        return picture
    has_alpha = given in (2, 4)
    colour = picture[..., : given - has_alpha]
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if channels == 4:
        alpha = picture[..., -1:] if has_alpha else np.full_like(picture[..., :1], 255)
        return np.concatenate([colour, alpha], axis=2)
    if background is not None and has_alpha:
        colour = _over(colour, picture[..., -1:], background)
    return _luma(colour) if channels == 1 else colour


def _over(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """Colour by its alpha over another, rounded to the nearest byte."""
    opaque = alpha.astype(np.int32)
    behind = np.asarray(background, np.int32)
    before = colour.astype(np.int32)
    mixed = before * opaque + behind * (255 - opaque)
    rounded: np.ndarray = (2 * mixed + 255) // 510
    return rounded.astype(np.uint8)


def _luma(colour: np.ndarray) -> np.ndarray:
    """Grey of red, green and blue by ITU-R 601: 0.299, 0.587 and 0.114 in 16-bit fractions, rounded."""
    red, green, blue = np.moveaxis(colour.astype(np.int64), 2, 0)
    weighted = red * 19595 + green * 38470 + blue * 7471
    grey: np.ndarray = (weighted + 0x8000) >> 16
    return grey.astype(np.uint8)[..., None]


def _in_order(pixels: np.ndarray, order: str) -> np.ndarray:
    """Pixels [..., channels] in the model's order: an alpha stays last."""
    if order == "RGB":
        return pixels
    alpha = range(3, pixels.shape[-1])
    return pixels[..., [2, 1, 0, *alpha]]


DEPTH = {  # modes of Pillow's that are read as another
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "RGBX": "RGB",
}


def read_picture(path: str | Path) -> np.ndarray:
    """A file as `fitted` and `apply` take it: uint8 [h, w, c] of 1 to 4 channels, its EXIF orientation applied.

    Needs Pillow. Colour profiles are not applied. Raises ValueError for a file that is no picture of 8 bits.
    """
    return decoded_picture(path, str(path))


def decoded_picture(file: str | Path | BinaryIO, where: str) -> np.ndarray:
    """`read_picture` of what may be no file of its own; `where` names it in errors."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ModuleNotFoundError("pictures need Pillow: pip install pillow") from None
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ValueError(f"{where} is no picture that Pillow can read") from None
    except OSError as error:
        if error.errno is not None:  # of the file, not of what is in it
            raise
        raise ValueError(f"{where} cannot be read as a picture: {error}") from None
    mode = DEPTH.get(upright.mode, upright.mode)
    if "transparency" in upright.info and mode in ("L", "RGB"):
        mode = "RGBA"
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(f"{where} has Pillow's mode {upright.mode}, not 8 bits per channel: convert it first")
    pixels = np.array(upright.convert(mode), np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


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
        tokenizer = _tokenizer(self.tokenizer, self.max_length, self.sha256)
        encodings = tokenizer.encode_batch(texts.tolist())
        inputs = {}
        for name, part in zip(self.inputs, ENCODED, strict=False):
            numbers = [getattr(encoding, part) for encoding in encodings]
            inputs[name] = np.array(numbers, np.int64).reshape(-1, self.max_length)
        return inputs

    def to_dict(self) -> dict[str, object]:
        """Without the file's place, which differs between machines: its name and what is in it."""
        told = {"kind": "text", **asdict(self)}
        told["tokenizer"] = Path(self.tokenizer).name
        told["sha256"] = self.sha256 or _sha256(self.tokenizer)
        return told


ENCODED = ("ids", "attention_mask", "type_ids")  # attributes of an encoding


@cache
def _tokenizer(path: str, max_length: int, sha256: str | None) -> Tokenizer:
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


# --- sound ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AudioPreprocessing:
    """Waveforms [batch, samples], float32 from -1 to 1 or int16, to float32 features, each of its own sound alone.

    With `n_fft` the features are a spectrogram, with `n_mels` a mel spectrogram. Computed in float64, rounded once.

    sampling_rate   Hz; a waveform must have it, nothing is resampled
    samples         a waveform is cut at the end, or padded with zeros, to so many
    window          Hann's, periodic, of `window_length` samples (`n_fft` if left out) in the middle of `n_fft`
    center          True: frame i is around sample i * hop, the ends reflected. False: frames begin there, inside
    power           of the magnitudes: 2.0 energy, 1.0 amplitude
    mel_scale       htk: 2595 log10(1 + f / 700). slaney: linear below 1 kHz, logarithmic above
    mel_norm        slaney: triangles of area 1. none: of height 1
    log             none, ln, log10, or db: 10 log10. Values below `floor` are raised to it before
    below_peak      values that far below the sound's largest, after the logarithm, are raised to that
    frames          cut at the end, or padded with silence, to so many
    mean, std       (value - mean) / std, last
    axes            order of the output's axes behind the batch: mel (or bins), time, and channel, of size 1
    """

    input: str
    sampling_rate: int
    samples: int | None = None
    n_fft: int | None = None
    hop: int | None = None
    window_length: int | None = None
    center: bool = True
    power: float = 2.0
    n_mels: int | None = None
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    log: Literal["none", "ln", "log10", "db"] = "none"
    floor: float = 1e-10
    below_peak: float | None = None
    frames: int | None = None
    mean: float = 0.0
    std: float = 1.0
    axes: tuple[Literal["mel", "time", "channel"], ...] = ("mel", "time")

    def __post_init__(self) -> None:
        if self.n_fft is None and (self.n_mels or self.frames or self.hop or self.log != "none"):
            raise ValueError("hop, n_mels, log and frames are of a spectrogram: say n_fft")
        if self.n_fft is not None and self.hop is None:
            raise ValueError("a spectrogram needs its hop, in samples")
        if self.n_fft is not None and (self.window_length or self.n_fft) > self.n_fft:
            raise ValueError(f"window_length {self.window_length} is longer than n_fft {self.n_fft}")
        if sorted({"mel", "time", *self.axes}) != sorted(self.axes):
            raise ValueError(f"axes are mel and time, and channel where the model has one, each once: not {self.axes}")
        if self.floor <= 0 or self.std <= 0:
            raise ValueError("floor and std must be positive")

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @property
    def tools(self) -> tuple[str, ...]:
        return ()

    def apply(self, raw: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's input. The field is one array, or, with `samples` or `frames`, waveforms of any lengths."""
        features = [self.features(np.asarray(waveform)) for waveform in _field(raw, self.input)]
        if len({feature.shape for feature in features}) > 1:
            raise ValueError(f"'{self.input}' has waveforms of several lengths: say `samples` or `frames`")
        return {self.input: np.stack(features)}

    def features(self, waveform: np.ndarray) -> np.ndarray:
        """What one waveform [samples] becomes. Raises ValueError for another dtype or shape, and for one too short."""
        if waveform.ndim != 1 or waveform.dtype not in (np.float32, np.float64, np.int16):
            raise ValueError(
                f"a waveform of '{self.input}' must be float32 or int16 of shape (samples,), mono, "
                f"got {waveform.dtype} {waveform.shape}"
            )
        signal = waveform.astype(np.float64)
        if waveform.dtype == np.int16:
            signal /= 1 << 15
        if self.samples is not None:
            signal = _cut_or_padded(signal, self.samples)
        if self.n_fft is None:
            return ((signal - self.mean) / self.std).astype(np.float32)
        energies = self._spectrogram(signal)
        if self.n_mels is not None:
            energies = self.filterbank() @ energies
        values = self._logarithm(energies)
        normalized = (values - self.mean) / self.std
        present = ["mel", "time"]
        if "channel" in self.axes:
            present = ["mel", "time", "channel"]
            normalized = normalized[..., None]
        order = [present.index(axis) for axis in self.axes]
        return np.ascontiguousarray(normalized.transpose(order), np.float32)

    def _spectrogram(self, signal: np.ndarray) -> np.ndarray:
        """Magnitudes to the power, float64 [bins, frames]."""
        assert self.n_fft is not None
        assert self.hop is not None
        if self.center:
            if len(signal) <= self.n_fft // 2:
                raise ValueError(f"{len(signal)} samples of '{self.input}' are too few to reflect {self.n_fft // 2}")
            signal = np.pad(signal, self.n_fft // 2, mode="reflect")
        if len(signal) < self.n_fft:
            raise ValueError(f"{len(signal)} samples of '{self.input}' are less than one frame of {self.n_fft}")
        every = np.lib.stride_tricks.sliding_window_view(signal, self.n_fft)
        spectrum = np.fft.rfft(every[:: self.hop] * self.window(), axis=1)
        energies = np.abs(spectrum).T ** self.power
        if self.frames is None:
            return energies
        return _cut_or_padded(energies, self.frames)

    def window(self) -> np.ndarray:
        """What the samples of a frame are multiplied by, float64 [n_fft]; of a spectrogram alone."""
        assert self.n_fft is not None
        return _hann(self.window_length or self.n_fft, self.n_fft)

    def filterbank(self) -> np.ndarray:
        """How much of each bin a mel band has, float64 [n_mels, n_fft // 2 + 1]; of a mel spectrogram alone."""
        assert self.n_fft is not None
        assert self.n_mels is not None
        highest = self.f_max
        if highest is None:
            highest = self.sampling_rate / 2
        return _mel_filterbank(
            n_mels=self.n_mels,
            n_fft=self.n_fft,
            sampling_rate=self.sampling_rate,
            band=(self.f_min, highest),
            scale=self.mel_scale,
            norm=self.mel_norm,
        )

    def _logarithm(self, energies: np.ndarray) -> np.ndarray:
        if self.log == "none":
            return energies
        raised = np.maximum(energies, self.floor)
        values: np.ndarray = np.log(raised) if self.log == "ln" else np.log10(raised)
        if self.log == "db":
            values = 10.0 * values
        if self.below_peak is not None:
            values = np.maximum(values, values.max() - self.below_peak)
        return values

    def to_dict(self) -> dict[str, object]:
        return _told("audio", self, always=("input", "sampling_rate"))


def _cut_or_padded(values: np.ndarray, length: int) -> np.ndarray:
    """Values with a last axis of that length, zeros added at its end."""
    missing = max(length - values.shape[-1], 0)
    nothing = [(0, 0)] * (values.ndim - 1)
    return np.pad(values[..., :length], [*nothing, (0, missing)])


def _hann(length: int, n_fft: int) -> np.ndarray:
    """A periodic Hann window in the middle of `n_fft` samples."""
    angles = 2 * np.pi * np.arange(length) / length
    window = 0.5 - 0.5 * np.cos(angles)
    missing = n_fft - length
    before = missing // 2
    return np.pad(window, (before, missing - before))


def _mel_filterbank(
    n_mels: int,
    n_fft: int,
    sampling_rate: int,
    band: tuple[float, float],
    scale: str,
    norm: str,
) -> np.ndarray:
    """Triangles in frequency whose corners are equally spaced in mel, float64 [n_mels, bins].

    HTK's scale: Young et al., The HTK Book, section 5.4. Slaney's scale and norm: Auditory Toolbox, Interval Research
    technical report 1998-010.
    """
    to_mel, to_hertz = MEL_SCALES[scale]
    lowest, highest = to_mel(np.array(band, np.float64))
    equally_spaced = np.linspace(lowest, highest, n_mels + 2)
    corners = to_hertz(equally_spaced)[:, None]
    bins = np.arange(n_fft // 2 + 1) * (sampling_rate / n_fft)
    left = corners[:-2]
    peak = corners[1:-1]
    right = corners[2:]
    rising = (bins - left) / (peak - left)
    falling = (right - bins) / (right - peak)
    triangles: np.ndarray = np.maximum(np.minimum(rising, falling), 0.0)
    if norm == "slaney":
        triangles = triangles * (2.0 / (right - left))
    return triangles


def _htk_mel(hertz: np.ndarray) -> np.ndarray:
    mel: np.ndarray = 2595.0 * np.log10(1.0 + hertz / 700.0)
    return mel


def _htk_hertz(mel: np.ndarray) -> np.ndarray:
    hertz: np.ndarray = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return hertz


SLANEY_LINEAR = 200.0 / 3.0  # Hz per mel, up to 1000 Hz, which are 15 mel
SLANEY_LOG = math.log(6.4) / 27.0  # of the frequency, per mel above


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    above = 15.0 + np.log(np.maximum(hertz, 1000.0) / 1000.0) / SLANEY_LOG
    return np.where(hertz < 1000.0, hertz / SLANEY_LINEAR, above)


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    above = 1000.0 * np.exp(SLANEY_LOG * (np.maximum(mel, 15.0) - 15.0))
    return np.where(mel < 15.0, mel * SLANEY_LINEAR, above)


MEL_SCALES = {"htk": (_htk_mel, _htk_hertz), "slaney": (_slaney_mel, _slaney_hertz)}


def read_wav(path: str | Path, sampling_rate: int) -> np.ndarray:
    """A .wav file of whole numbers as float32 [samples] from -1 to 1, its channels averaged.

    Raises ValueError for another sampling rate, and for what the standard library's `wave` cannot read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            rate = file.getframerate()
            channels = file.getnchannels()
            size = file.getsampwidth()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no .wav file of whole numbers: {error}") from None
    if rate != sampling_rate:
        raise ValueError(f"{path} has {rate} samples per second, the model takes {sampling_rate}: resample it first")
    own = np.frombuffer(content, np.uint8).reshape(-1, size)
    raised = np.zeros((len(own), 4), np.uint8)  # as the upper bytes of 32 bits
    raised[:, 4 - size :] = own
    if size == 1:
        raised[:, 3] ^= 128  # bytes have no sign there
    numbers = raised.view("<i4").reshape(-1, channels)
    values = numbers.astype(np.float64) / (1 << 31)
    mono: np.ndarray = values.mean(axis=1)
    return mono.astype(np.float32)


# --- any kind ------------------------------------------------------------------------------------------


def _told(
    kind: str,
    preprocessing: ImagePreprocessing | AudioPreprocessing,
    always: tuple[str, ...],
) -> dict[str, object]:
    """A preprocessing as JSON has it. A field at its default is left out, so that a new field changes no recipe."""
    told: dict[str, object] = {"kind": kind}
    for field in fields(preprocessing):
        value = getattr(preprocessing, field.name)
        if field.name in always or value != field.default:
            told[field.name] = value
    return told


def _field(raw: Mapping[str, Any], name: str) -> Any:
    if name not in raw:
        raise ValueError(f"no field '{name}' in the data, which has {sorted(raw)}")
    return raw[name]


KINDS: dict[
    str,
    type[ImagePreprocessing] | type[AudioPreprocessing] | type[Passthrough] | type[TextPreprocessing],
] = {
    "image": ImagePreprocessing,
    "audio": AudioPreprocessing,
    "passthrough": Passthrough,
    "text": TextPreprocessing,
}


def from_dict(data: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that `to_dict` described, its files beside this one. Raises KeyError for an unknown kind."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        kept[name] = value
        if isinstance(value, list):
            kept[name] = tuple(value)
    kind = KINDS[kept.pop("kind")]
    if "tokenizer" in kept:
        kept["tokenizer"] = str(HERE / kept["tokenizer"])
    return kind(**kept)
