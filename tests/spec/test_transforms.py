"""Preprocessing read from timm's data configs and from TorchVision's transforms, neither of which is installed."""

import enum
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_assets import ImagePreprocessing
from edge_assets.errors import InvalidSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": MEAN,
    "std": STD,
    "crop_pct": 0.9,
    "crop_mode": "center",
}


class InterpolationMode(enum.Enum):
    """TorchVision's."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def step(kind: str, **attributes: object) -> object:
    """A transform as TorchVision has it: an object of a class of that name."""
    made = type(kind, (SimpleNamespace,), {})
    return made(**attributes)


def compose(*steps: object) -> object:
    return step("Compose", transforms=list(steps))


def resize(size: int | Sequence[int], **attributes: object) -> object:
    said = {"interpolation": InterpolationMode.BILINEAR, "max_size": None, "antialias": True}
    return step("Resize", size=size, **(said | attributes))


CROP = step("CenterCrop", size=(224, 224))
TO_TENSOR = step("ToTensor")
NORMALIZE = step("Normalize", mean=MEAN, std=STD)
IMAGENET = ImagePreprocessing("image", 224, 224, 3, MEAN, STD, resize="crop", resize_to=(256,))


# --- timm ----------------------------------------------------------------------------------------------


def test_timms_center_crop_is_read() -> None:
    found = ImagePreprocessing.from_timm(VIT, input="pixels")
    expected = ImagePreprocessing("pixels", 224, 224, 3, MEAN, STD, resize="crop", resize_to=(248,), filter="bicubic")
    assert found == expected


def test_timms_other_crops_are_read() -> None:
    squashed = ImagePreprocessing.from_timm(VIT | {"crop_mode": "squash", "input_size": (3, 224, 192)})
    assert (squashed.resize, squashed.resize_to) == ("crop", (248, 213))
    bordered = ImagePreprocessing.from_timm(VIT | {"crop_mode": "border", "crop_pct": 1.0})
    assert (bordered.resize, bordered.fill) == ("letterbox", (124, 116, 104))
    plain = ImagePreprocessing.from_timm({name: VIT[name] for name in ("input_size", "interpolation", "mean", "std")})
    assert plain.resize_to == (256,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"interpolation": "lanczos"},
            "the interpolation 'lanczos' has no equal: evaluate with nearest, box",
        ),
        ({"crop_mode": "border"}, "crop_mode 'border' with crop_pct 0.9 has no equal: evaluate with crop_pct 1.0"),
        ({"crop_mode": "centre"}, r"crop_mode 'centre' is not known. Did you mean center\?"),
        (
            {"input_size": (3, 224, 192)},
            "crop_mode 'center' of 224 x 192 has no equal but for squares: use",
        ),
    ],
)
def test_a_config_without_equal_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        ImagePreprocessing.from_timm(VIT | change)
    with pytest.raises(InvalidSpec, match="config: has no interpolation, std: take that of resolve_data_config"):
        ImagePreprocessing.from_timm({"input_size": (3, 8, 8), "mean": MEAN})


# --- TorchVision ---------------------------------------------------------------------------------------


def test_the_usual_transforms_are_read() -> None:
    usual = compose(resize(256), CROP, TO_TENSOR, NORMALIZE)
    assert ImagePreprocessing.from_torchvision(usual) == IMAGENET
    # v2's way of saying it, nested
    to_float = compose(step("ToImage"), step("ToDtype", dtype="torch.float32", scale=True))
    assert ImagePreprocessing.from_torchvision(compose(resize([256]), CROP, to_float, NORMALIZE)) == IMAGENET
    # weights.transforms()
    said: dict[str, Any] = {"crop_size": [224], "resize_size": [256], "mean": list(MEAN), "std": list(STD)}
    preset = step("ImageClassification", **said, interpolation=InterpolationMode.BILINEAR, antialias=True)
    assert ImagePreprocessing.from_torchvision(preset) == IMAGENET


def test_a_transform_that_was_read_gives_the_transforms_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    found = ImagePreprocessing.from_torchvision(compose(resize(256), CROP, TO_TENSOR, NORMALIZE))
    resized = Image.fromarray(picture).resize((int(256 * 400 / 300), 256), Image.Resampling.BILINEAR)
    top, left = round((256 - 224) / 2.0), round((resized.width - 224) / 2.0)
    pixels = np.asarray(resized)[top : top + 224, left : left + 224].astype(np.float32) / 255
    expected = ((pixels - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    np.testing.assert_allclose(found.apply({"image": [picture]})["image"][0], expected, atol=1e-5)


def test_grey_stretched_and_unscaled_transforms_are_read() -> None:
    grey = compose(step("Grayscale", num_output_channels=1), resize((28, 20)), TO_TENSOR)
    assert ImagePreprocessing.from_torchvision(grey) == ImagePreprocessing(
        "image", 28, 20, 1, (0.0,), (1.0,), resize="stretch"
    )
    raw = compose(resize((28, 20)), step("PILToTensor"), step("ToDtype", dtype="torch.float32", scale=False))
    assert ImagePreprocessing.from_torchvision(raw).scale == 1.0
    one = compose(resize((28, 20)), TO_TENSOR, step("Normalize", mean=(0.5,), std=(0.25,)))
    assert ImagePreprocessing.from_torchvision(one, channels=3).std == (0.25,) * 3
    tensors = compose(step("ToImage"), resize((28, 20), antialias=False), step("ConvertImageDtype", dtype="float32"))
    assert not ImagePreprocessing.from_torchvision(tensors).antialias


NO_EQUAL = [
    (compose(resize(256), TO_TENSOR), "transforms: leave a picture's size to the picture: add a CenterCrop"),
    (compose(resize(256), CROP), "transforms: give bytes, and a model takes floats: add ToTensor"),
    (compose(step("Lambda", lambd=abs)), "TorchVision's Lambda: has no equal here: do it in the dataset function"),
    (compose(TO_TENSOR, resize((8, 8))), "Resize: has no equal for floats, because bytes are resized: put it before"),
    (compose(resize((8, 8), max_size=9), TO_TENSOR), r"Resize: has no equal with max_size: use Resize\(\(h, w\)\)"),
    (
        compose(resize((8, 8), interpolation=InterpolationMode.LANCZOS)),
        "Resize: the interpolation 'lanczos' .* box",
    ),
    (
        compose(step("ToImage"), resize((8, 8), interpolation=InterpolationMode.NEAREST), TO_TENSOR),
        "Resize: has no equal for tensors by 'nearest', which takes corners: use 'nearest-exact'",
    ),
    (compose(resize((8, 8)), step("Grayscale", num_output_channels=1)), "Grayscale: rounds otherwise .* put it first"),
    (compose(step("Grayscale", num_output_channels=3)), "Grayscale: has no equal with 3 channels: take 1"),
    (compose(CROP, TO_TENSOR), "CenterCrop: has no equal without a Resize before it: add one"),
    (compose(resize((8, 8)), step("ToDtype", dtype="torch.float16")), "ToDtype: has no equal .*: convert to float32"),
    (compose(resize((8, 8)), NORMALIZE), "Normalize: needs floats: put ToTensor before it"),
    (compose(resize((8, 8)), TO_TENSOR, step("Normalize", mean=(0.5,), std=(0.5,))), "say channels=1 or channels=3"),
    (compose(resize((200, 200)), CROP, TO_TENSOR), r"resize_to \(200, 200\) must hold the crop of 224 x 224"),
]


@pytest.mark.parametrize(("transform", "reason"), NO_EQUAL)
def test_a_transform_without_equal_is_refused(transform: object, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        ImagePreprocessing.from_torchvision(transform)
