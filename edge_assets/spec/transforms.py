"""What timm and TorchVision say of preprocessing, as an `ImagePreprocessing`, refused where that has no equal.

Both are read by the names of classes and attributes, so neither needs to be installed. `crop_pct` and `crop_mode` mean
what timm's `transforms_imagenet_eval` does with them. An InvalidSpec names the transform, why it has no equal, and what
to do.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_assets.errors import InvalidSpec, printable, with_nearest
from edge_assets.spec.preprocess import ImagePreprocessing

Filter = Literal["nearest", "box", "bilinear", "bicubic"]
FILTERS: Mapping[str, Filter] = {"nearest": "nearest", "box": "box", "bilinear": "bilinear", "bicubic": "bicubic"}
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # its numbers of filters
CROP_MODES = ("center", "squash", "border")  # timm's
DEFAULT_CROP_PCT = 0.875  # timm's
TIMM = "timm's data config"
TRANSFORMS = "TorchVision's transforms"
RESIZE, CROP, GREY, NORMALIZE = (f"TorchVision's {name}" for name in ("Resize", "CenterCrop", "Grayscale", "Normalize"))
# where what a picture cannot be declared to go through is done instead
ELSEWHERE = "do it in the dataset function, before ImagePreprocessing, and in the application"


# --- timm ----------------------------------------------------------------------------------------------


def from_timm(config: Mapping[str, Any], name: str = "image") -> ImagePreprocessing:
    """The evaluation transform of a data config of timm's (`resolve_data_config`, `model.pretrained_cfg`).

    Raises InvalidSpec for what has no equal.
    """
    missing = [key for key in ("input_size", "interpolation", "mean", "std") if key not in config]
    if missing:
        raise InvalidSpec(TIMM, f"has no {', '.join(missing)}: take that of resolve_data_config()")
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
            reason = f"crop_mode 'border' with crop_pct {share} has no equal: evaluate with crop_pct 1.0"
            raise InvalidSpec(TIMM, reason)
        resize = "letterbox"
        fill = tuple(round(255 * value) for value in mean)
    elif mode == "center":
        if height != width:
            reason = f"crop_mode 'center' of {height} x {width} has no equal but for squares: use crop_mode 'squash'"
            raise InvalidSpec(TIMM, reason)
        resize_to = before[:1]
    else:
        raise InvalidSpec(TIMM, with_nearest(f"crop_mode '{printable(mode)}' is not known", str(mode), CROP_MODES))
    return _made(
        TIMM,
        input=name,
        height=height,
        width=width,
        channels=channels,
        mean=mean,
        std=std,
        resize=resize,
        resize_to=resize_to,
        filter=_filter(TIMM, config["interpolation"]),
        fill=fill,
    )


def _made(where: str, **fields: Any) -> ImagePreprocessing:
    """The preprocessing. Raises InvalidSpec where the fields that were read contradict each other."""
    try:
        return ImagePreprocessing(**fields)
    except InvalidSpec as error:
        raise InvalidSpec(where, f"together they make no preprocessing: {error}") from None


def _filter(where: str, interpolation: object) -> Filter:
    """Of an interpolation by name, Pillow's number, or TorchVision's enumeration. Raises InvalidSpec."""
    value = getattr(interpolation, "value", interpolation)
    if isinstance(value, int):
        value = PILLOW.get(value, value)
    if value == "nearest-exact":
        return "nearest"
    if value not in FILTERS:
        reason = f"the interpolation '{printable(value)}' has no equal: evaluate with {', '.join(FILTERS)}"
        raise InvalidSpec(where, reason)
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

    Raises InvalidSpec for what has no equal, naming the transform.
    """
    read = _Read()
    for step in _steps(transform):
        kind = type(step).__name__
        if kind not in READERS:
            known = ", ".join(sorted(READERS))
            raise InvalidSpec(f"TorchVision's {kind}", f"has no equal here: {ELSEWHERE}. Read are {known}")
        READERS[kind](step, read)
    if read.height is None or read.width is None:
        raise InvalidSpec(TRANSFORMS, "leave a picture's size to the picture: add a CenterCrop, or Resize((h, w))")
    if read.scale is None:
        raise InvalidSpec(TRANSFORMS, "give bytes, and a model takes floats: add ToTensor, or ToDtype")
    count = channels or _channels(read)
    mean = read.mean or (0.0,)
    std = read.std or (1.0,)
    return _made(
        TRANSFORMS,
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
        raise InvalidSpec(NORMALIZE, "one mean may be of grey or of every channel: say channels=1 or channels=3")
    return len(read.mean)


def _read_resize(step: Any, read: _Read) -> None:
    if read.resize != "none" or read.height is not None:
        raise InvalidSpec(RESIZE, "a second one, or one behind a crop, has no equal: resize once, before the crop")
    if read.scale is not None:
        raise InvalidSpec(RESIZE, "has no equal for floats, because bytes are resized: put it before ToTensor")
    if getattr(step, "max_size", None) is not None:
        raise InvalidSpec(RESIZE, "has no equal with max_size: use Resize((h, w)), or ImagePreprocessing's letterbox")
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
        reason = "has no equal for tensors by 'nearest', which takes corners: use 'nearest-exact', which takes centers"
        raise InvalidSpec(RESIZE, reason)
    read.filter = _filter(RESIZE, interpolation)
    # Pillow's images are always resized with antialias, whatever the transform says
    read.antialias = not read.is_tensor or getattr(step, "antialias", True) is not False


def _read_crop(step: Any, read: _Read) -> None:
    size = _sizes(step.size)
    height, width = size[0], size[-1]
    if read.resize == "none":
        raise InvalidSpec(CROP, "has no equal without a Resize before it: add one, so that each picture holds the crop")
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
        found = f"has no equal with {step.num_output_channels} channels"
        raise InvalidSpec(GREY, f"{found}: take 1, and repeat it in the model's graph")
    if read.resize != "none" or read.is_tensor:
        raise InvalidSpec(GREY, "rounds otherwise behind Resize or ToTensor than before them: put it first")
    read.is_grey = True


def _read_to_float(_step: Any, read: _Read) -> None:
    read.is_tensor = True
    read.scale = 1 / 255


def _read_to_tensor(_step: Any, read: _Read) -> None:
    read.is_tensor = True


def _read_dtype(step: Any, read: _Read) -> None:
    """ConvertImageDtype scales; v2's ToDtype does where it says so."""
    if not str(step.dtype).endswith("float32"):
        where = f"TorchVision's {type(step).__name__}"
        raise InvalidSpec(where, f"has no equal to {printable(step.dtype)}: convert to float32")
    scales = getattr(step, "scale", True)
    if read.scale is None:
        read.scale = 1 / 255 if scales else 1.0


def _read_normalize(step: Any, read: _Read) -> None:
    if read.mean is not None:
        raise InvalidSpec(NORMALIZE, "a second one has no equal: join both, as mean and std of the whole")
    if read.scale is None:
        raise InvalidSpec(NORMALIZE, "needs floats: put ToTensor before it")
    read.mean = tuple(float(value) for value in step.mean)
    read.std = tuple(float(value) for value in step.std)


def _read_preset(step: Any, read: _Read) -> None:
    """ImageClassification, which `weights.transforms()` gives: Resize, CenterCrop, to float, Normalize."""
    read.filter = _filter("TorchVision's ImageClassification", step.interpolation)
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
