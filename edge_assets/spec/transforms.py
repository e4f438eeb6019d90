"""What timm and TorchVision say of preprocessing, as an `ImagePreprocessing`; a ValueError where that has no equal.

Both are read by the names of classes and attributes, so neither needs to be installed. `crop_pct` and `crop_mode` mean
what timm's `transforms_imagenet_eval` does with them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_assets.errors import InvalidSpec
from edge_assets.spec.preprocess import ImagePreprocessing

Filter = Literal["nearest", "box", "bilinear", "bicubic"]
FILTERS: Mapping[str, Filter] = {"nearest": "nearest", "box": "box", "bilinear": "bilinear", "bicubic": "bicubic"}
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # its numbers of filters
DEFAULT_CROP_PCT = 0.875  # timm's


# --- timm ----------------------------------------------------------------------------------------------


def from_timm(config: Mapping[str, Any], name: str = "image") -> ImagePreprocessing:
    """The evaluation transform of a data config of timm's (`resolve_data_config`, `model.pretrained_cfg`).

    Raises ValueError for what has no equal.
    """
    missing = [key for key in ("input_size", "interpolation", "mean", "std") if key not in config]
    if missing:
        raise ValueError(f"timm's data config has no {', '.join(missing)}: take that of resolve_data_config()")
    channels, height, width = config["input_size"]
    share = config.get("crop_pct") or DEFAULT_CROP_PCT
    mode = config.get("crop_mode") or "center"
    mean = tuple(float(value) for value in config["mean"])
    std = tuple(float(value) for value in config["std"])
    resize: Literal["crop", "letterbox"] = "crop"
    resize_to: tuple[int, ...] = ()
    fill: tuple[int, ...] = (0,)
    before = (math.floor(height / share), math.floor(width / share))
    if mode == "squash":
        resize_to = before
    elif mode == "border":
        if share != 1.0:
            raise ValueError(f"timm's crop_mode 'border' with crop_pct {share} has no equal: only with 1.0")
        resize = "letterbox"
        fill = tuple(round(255 * value) for value in mean)
    elif mode == "center":
        if height != width:
            raise ValueError(f"timm's crop_mode 'center' of {height} x {width} has no equal: only squares")
        resize_to = before[:1]
    else:
        raise ValueError(f"timm's crop_mode '{mode}' is not known")
    return _made(
        input=name,
        height=height,
        width=width,
        channels=channels,
        mean=mean,
        std=std,
        resize=resize,
        resize_to=resize_to,
        filter=_filter(config["interpolation"]),
        fill=fill,
    )


def _made(**fields: Any) -> ImagePreprocessing:
    try:
        return ImagePreprocessing(**fields)
    except InvalidSpec as error:
        raise ValueError(str(error)) from None


def _filter(interpolation: object) -> Filter:
    """Of an interpolation by name, Pillow's number, or TorchVision's enumeration. Raises ValueError."""
    value = getattr(interpolation, "value", interpolation)
    if isinstance(value, int):
        value = PILLOW.get(value, value)
    if value == "nearest-exact":
        return "nearest"
    if value not in FILTERS:
        raise ValueError(f"the interpolation '{value}' has no equal: there are {', '.join(FILTERS)}")
    return FILTERS[str(value)]


# --- TorchVision ---------------------------------------------------------------------------------------


@dataclass
class _Read:
    """What the transforms said so far."""

    height: int | None = None
    width: int | None = None
    resize: Literal["none", "stretch", "crop"] = "none"
    resize_to: tuple[int, ...] = ()
    filter: Filter = "bilinear"
    antialias: bool = True
    is_grey: bool = False
    is_tensor: bool = False
    scale: float | None = None  # once values are floats
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def from_torchvision(
    transform: object,
    name: str = "image",
    channels: int | None = None,
) -> ImagePreprocessing:
    """A Compose of Resize, CenterCrop, Grayscale, ToTensor, Normalize and their like, or `weights.transforms()`.

    Raises ValueError for what has no equal, naming the transform.
    """
    read = _Read()
    for step in _steps(transform):
        kind = type(step).__name__
        if kind not in READERS:
            raise ValueError(f"TorchVision's {kind} has no equal here: there are {', '.join(sorted(READERS))}")
        READERS[kind](step, read)
    if read.height is None or read.width is None:
        raise ValueError("the transforms leave a picture's size to the picture: add a CenterCrop, or Resize((h, w))")
    if read.scale is None:
        raise ValueError("the transforms give bytes, and a model takes floats: add ToTensor, or ToDtype")
    count = channels or _channels(read)
    mean = read.mean or (0.0,)
    std = read.std or (1.0,)
    return _made(
        input=name,
        height=read.height,
        width=read.width,
        channels=count,
        mean=mean * count if len(mean) == 1 else mean,
        std=std * count if len(std) == 1 else std,
        scale=read.scale,
        resize=read.resize,
        resize_to=read.resize_to,
        filter=read.filter,
        antialias=read.antialias,
    )


def _steps(transform: object) -> Iterator[object]:
    """The transforms one by one, those inside of others too."""
    inner = getattr(transform, "transforms", None)
    if type(transform).__name__ == "Sequential":
        inner = list(transform)  # type: ignore[call-overload]  # a module of modules
    if isinstance(inner, Sequence):
        for step in inner:
            yield from _steps(step)
    else:
        yield transform


def _channels(read: _Read) -> int:
    if read.is_grey:
        return 1
    if read.mean is None:
        return 3
    if len(read.mean) == 1:
        raise ValueError("one mean may be of grey or of every channel: say channels=1 or channels=3")
    return len(read.mean)


def _read_resize(step: Any, read: _Read) -> None:
    if read.resize != "none" or read.height is not None:
        raise ValueError("a second Resize, or one behind a crop, has no equal")
    if read.scale is not None:
        raise ValueError("Resize of floats has no equal, because bytes are resized: put it before ToTensor")
    if getattr(step, "max_size", None) is not None:
        raise ValueError("Resize with max_size has no equal")
    _set_filter(step, read)
    size = _sizes(step.size)
    if len(size) == 1:
        read.resize, read.resize_to = "crop", size
        return
    read.resize = "stretch"
    read.height, read.width = size


def _set_filter(step: Any, read: _Read) -> None:
    interpolation = getattr(step.interpolation, "value", step.interpolation)
    if read.is_tensor and interpolation == "nearest":
        raise ValueError("Resize of tensors by 'nearest' has no equal: it is 'nearest-exact' that means pixel centers")
    read.filter = _filter(interpolation)
    # Pillow's images are always resized with antialias, whatever the transform says
    read.antialias = not read.is_tensor or getattr(step, "antialias", True) is not False


def _read_crop(step: Any, read: _Read) -> None:
    size = _sizes(step.size)
    height, width = size[0], size[-1]
    if read.resize == "none":
        raise ValueError("CenterCrop without a Resize before it has no equal")
    if read.resize == "stretch":
        assert read.height is not None
        assert read.width is not None
        read.resize, read.resize_to = "crop", (read.height, read.width)
    read.height, read.width = height, width


def _sizes(size: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(size, int):
        return (size,)
    return tuple(size)


def _read_grey(step: Any, read: _Read) -> None:
    if step.num_output_channels != 1:
        raise ValueError(f"Grayscale of {step.num_output_channels} channels has no equal: only of 1")
    if read.resize != "none" or read.is_tensor:
        raise ValueError("Grayscale behind Resize or ToTensor rounds otherwise than before it: put it first")
    read.is_grey = True


def _read_to_float(_step: Any, read: _Read) -> None:
    read.is_tensor = True
    read.scale = 1 / 255


def _read_to_tensor(_step: Any, read: _Read) -> None:
    read.is_tensor = True


def _read_dtype(step: Any, read: _Read) -> None:
    """ConvertImageDtype scales; v2's ToDtype does where it says so."""
    if not str(step.dtype).endswith("float32"):
        raise ValueError(f"{type(step).__name__} to {step.dtype} has no equal: only to float32")
    scales = getattr(step, "scale", True)
    if read.scale is None:
        read.scale = 1 / 255 if scales else 1.0


def _read_normalize(step: Any, read: _Read) -> None:
    if read.mean is not None:
        raise ValueError("a second Normalize has no equal")
    if read.scale is None:
        raise ValueError("Normalize needs floats: put ToTensor before it")
    read.mean = tuple(float(value) for value in step.mean)
    read.std = tuple(float(value) for value in step.std)


def _read_preset(step: Any, read: _Read) -> None:
    """ImageClassification, which `weights.transforms()` gives: Resize, CenterCrop, to float, Normalize."""
    read.filter = _filter(step.interpolation)
    read.resize, read.resize_to = "crop", _sizes(step.resize_size)
    size = _sizes(step.crop_size)
    read.height, read.width = size[0], size[-1]
    read.scale = 1 / 255
    _read_normalize(step, read)


def _read_nothing(_step: Any, _read: _Read) -> None:
    pass


READERS = {
    "CenterCrop": _read_crop,
    "ConvertImageDtype": _read_dtype,
    "Grayscale": _read_grey,
    "Identity": _read_nothing,
    "ImageClassification": _read_preset,
    "MaybeToTensor": _read_to_float,  # timm's
    "Normalize": _read_normalize,
    "PILToTensor": _read_to_tensor,
    "RGB": _read_nothing,
    "Resize": _read_resize,
    "ToDtype": _read_dtype,
    "ToImage": _read_to_tensor,
    "ToPureTensor": _read_nothing,
    "ToTensor": _read_to_float,
}
