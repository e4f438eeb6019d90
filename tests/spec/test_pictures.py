"""Pictures of any size, order and channels as the model's pixels: what `preprocess.py` computes, against Pillow."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from edge_assets import ImagePreprocessing, read_picture
from edge_assets.errors import InvalidSpec
from edge_assets.spec.attributes import model_spec, parsed
from edge_assets.spec.preprocess import from_dict
from examples.digits.spec import DIGITS

Filter = Literal["nearest", "box", "bilinear", "bicubic"]
FILTERS: tuple[Filter, ...] = ("nearest", "box", "bilinear", "bicubic")
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
COLOUR = ImagePreprocessing("image", 24, 32, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture of every value: half of it black or white, where filters overshoot."""
    rng = np.random.default_rng(height * 1000 + width)
    picture = rng.integers(0, 256, (height, width, channels), np.uint8)
    picture[: height // 2] = (picture[: height // 2] > 127) * np.uint8(255)
    return picture


def pillow(picture: np.ndarray, height: int, width: int, name: str) -> np.ndarray:
    """Pillow's resize, along the rows first: what one call does, but for tall pictures since Pillow 13."""
    image = Image.fromarray(picture)
    narrow = image.resize((width, image.height), PILLOW[name])
    return np.asarray(narrow.resize((width, height), PILLOW[name]))


# --- size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILTERS)
def test_resizing_is_pillows_bit_for_bit(name: Filter) -> None:
    rng = np.random.default_rng(0)
    for _ in range(120):
        before_height, before_width, height, width = rng.integers(1, 80, 4).tolist()
        picture = noise(before_height, before_width)
        stretched = replace(COLOUR, height=height, width=width, resize="stretch", filter=name)
        found = stretched.fitted(picture)
        assert np.array_equal(found, pillow(picture, height, width, name)), (picture.shape, height, width)


def test_a_photo_is_resized_as_pillow_does_it_in_one_call() -> None:
    picture = noise(375, 500)
    stretched = replace(COLOUR, height=192, width=256, resize="stretch", filter="bicubic")
    expected = np.asarray(Image.fromarray(picture).resize((256, 192), PILLOW["bicubic"]))
    assert np.array_equal(stretched.fitted(picture), expected)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_without_antialias_pixels_are_those_of_opencv_and_torch(name: Filter) -> None:
    smooth = np.asarray(Image.fromarray(noise(9, 9)).resize((61, 47), PILLOW["bilinear"]))
    picture = (smooth * 0.5 + 64).astype(np.uint8)  # far from 0 and 255, where bytes end and floats do not
    for height, width in ((20, 90), (70, 33), (11, 13)):
        found = replace(COLOUR, height=height, width=width, resize="stretch", filter=name, antialias=False)
        floats = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(floats, (height, width), mode=name, align_corners=False)[0]
        difference = np.abs(found.fitted(picture) - expected.permute(1, 2, 0).numpy())
        assert difference.max() < 1.5, "at most 1, once rounded"


@pytest.mark.parametrize(("height", "width"), [(96, 32), (33, 97), (50, 50), (41, 40)])
def test_a_crop_is_the_middle_of_a_picture_with_that_shorter_side(height: int, width: int) -> None:
    """As TorchVision's Resize(37) and CenterCrop: the longer side cut to a whole number, a half rounded to even."""
    picture = noise(height, width)
    cropped = replace(COLOUR, height=32, width=30, resize="crop", resize_to=(37,), filter="bicubic")
    longer = int(37 * max(height, width) / min(height, width))
    resized = pillow(picture, longer, 37, "bicubic") if width <= height else pillow(picture, 37, longer, "bicubic")
    top, left = round((resized.shape[0] - 32) / 2.0), round((resized.shape[1] - 30) / 2.0)
    assert np.array_equal(cropped.fitted(picture), resized[top : top + 32, left : left + 30])


def test_a_crop_may_come_from_a_stretched_picture() -> None:
    picture = noise(96, 32)
    cropped = replace(COLOUR, resize="crop", resize_to=(30, 40))
    assert np.array_equal(cropped.fitted(picture), pillow(picture, 30, 40, "bilinear")[3:27, 4:36])


@pytest.mark.parametrize(("height", "width", "inner"), [(96, 32, (24, 8)), (32, 96, (11, 32)), (500, 1, (24, 1))])
@pytest.mark.parametrize("align", ["center", "start"])
def test_a_letterbox_holds_the_whole_picture(
    height: int, width: int, inner: tuple[int, int], align: Literal["center", "start"]
) -> None:
    picture = noise(height, width)
    boxed = replace(COLOUR, resize="letterbox", fill=(1, 2, 3), align=align)
    expected = np.empty((24, 32, 3), np.uint8)
    expected[:] = (1, 2, 3)
    top, left = ((24 - inner[0]) // 2, (32 - inner[1]) // 2) if align == "center" else (0, 0)
    expected[top : top + inner[0], left : left + inner[1]] = pillow(picture, *inner, "bilinear")
    assert np.array_equal(boxed.fitted(picture), expected)


def test_without_resize_another_size_is_an_error_that_says_what_would_help() -> None:
    with pytest.raises(ValueError, match=r"must have 24 x 32 pixels .* got 96 x 32; `resize` of the preprocessing"):
        COLOUR.fitted(noise(96, 32))
    with pytest.raises(ValueError, match=r"must be uint8 \(h, w, c\), got float64"):
        COLOUR.fitted(noise(24, 32) / 255)


def test_pictures_of_several_sizes_become_one_input() -> None:
    stretched = replace(COLOUR, resize="stretch")
    pictures = [noise(96, 32), noise(24, 32), noise(7, 9)]
    found = stretched.apply({"image": pictures})["image"]
    assert found.shape == (3, 3, 24, 32)
    for one, picture in zip(found, pictures, strict=True):
        assert np.array_equal(one, stretched.apply({"image": picture[None]})["image"][0])
    assert stretched.apply({"image": np.empty((0, 9, 9, 3), np.uint8)})["image"].shape == (0, 3, 24, 32)


def test_arrays_of_the_models_size_are_fitted_already_and_files_never() -> None:
    cropped = replace(COLOUR, resize="crop", resize_to=(48,))
    photo = noise(96, 70)
    fitted = cropped.fitted(photo)
    assert np.array_equal(cropped.apply({"image": fitted[None]})["image"], cropped.apply({"image": [photo]})["image"])
    small = noise(24, 32)
    expected = pillow(small, 48, 64, "bilinear")[12:36, 16:48]
    found = cropped.apply({"image": [small]})["image"]
    assert np.array_equal(found, cropped.apply({"image": expected[None]})["image"])


# --- a range of sizes ----------------------------------------------------------------------------------

RANGE = replace(COLOUR, height=64, width=96, least=(16, 24))
RANGES = [  # a picture, what it is resized to, and the model's size by letterbox and by stretch in multiples of 8
    ((16, 24), (16, 24), (16, 24), (16, 24)),
    ((64, 96), (64, 96), (64, 96), (64, 96)),
    ((37, 45), (37, 45), (40, 48), (40, 48)),
    ((36, 44), (36, 44), (40, 48), (32, 48)),  # halves become even numbers of eights
    ((128, 96), (64, 48), (64, 48), (64, 48)),
    ((128, 250), (49, 96), (56, 96), (48, 96)),
    ((8, 8), (24, 24), (24, 24), (24, 24)),
    ((90, 10), (64, 7), (64, 24), (64, 24)),  # no size of these proportions is in the range
    ((1, 500), (1, 96), (16, 96), (16, 96)),
]


@pytest.mark.parametrize(("given", "scaled", "boxed", "stretched"), RANGES)
def test_a_picture_keeps_its_size_within_a_range(
    given: tuple[int, int], scaled: tuple[int, int], boxed: tuple[int, int], stretched: tuple[int, int]
) -> None:
    picture = noise(*given)
    letterbox = replace(RANGE, resize="letterbox", multiple=8, align="start", fill=(7,))
    found = letterbox.fitted(picture)
    expected = np.full((*boxed, 3), 7, np.uint8)
    expected[: scaled[0], : scaled[1]] = pillow(picture, *scaled, "bilinear")
    assert np.array_equal(found, expected)
    found = replace(RANGE, resize="stretch", multiple=8).fitted(picture)
    assert np.array_equal(found, pillow(picture, *stretched, "bilinear"))
    assert letterbox.apply({"image": [picture] * 2})["image"].shape == (2, 3, *boxed)


def test_without_resize_a_picture_must_lie_in_the_range() -> None:
    assert RANGE.apply({"image": noise(17, 95)[None]})["image"].shape == (1, 3, 17, 95)
    eights = replace(RANGE, multiple=8)
    reason = r"must have 16 x 24 to 64 x 96, in multiples of 8, pixels \(height x width\), got 17 x 95"
    with pytest.raises(ValueError, match=reason):
        eights.fitted(noise(17, 95))
    with pytest.raises(ValueError, match=r"must have 16 x 24 to 64 x 96 pixels .* got 65 x 90"):
        RANGE.fitted(noise(65, 90))


def test_pictures_of_a_batch_become_one_size() -> None:
    with pytest.raises(ValueError, match="pictures of 'image' become 17 x 24 and 18 x 24 pixels, and one batch has"):
        RANGE.apply({"image": [noise(17, 24), noise(18, 24)]})


def test_an_artifact_of_one_size_gets_pictures_of_that_size() -> None:
    boxed = replace(RANGE, resize="letterbox", multiple=8)
    assert boxed.of_size(24, 32) == replace(COLOUR, resize="letterbox")
    assert COLOUR.of_size(1, 2) == COLOUR


# --- channels ------------------------------------------------------------------------------------------


def test_a_red_picture_is_red_for_a_model_that_takes_blue_first() -> None:
    red = np.zeros((1, 24, 32, 3), np.uint8)
    red[..., 0] = 255
    found = replace(COLOUR, order="BGR").apply({"image": red})["image"][0, :, 0, 0]
    expected = (np.array([0.0, 0.0, 1.0]) - COLOUR.mean) / COLOUR.std
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    alpha = replace(COLOUR, channels=4, mean=(0.0,) * 4, std=(1.0,) * 4, order="BGR")
    assert alpha.apply({"image": red})["image"][0, :, 0, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("given", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize(("channels", "wanted"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_other_channels_are_converted_as_pillow_does_it(given: int, mode: str, channels: int, wanted: str) -> None:
    picture = noise(24, 32, given)
    made = replace(COLOUR, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    image = Image.fromarray(picture[..., 0] if given == 1 else picture, mode)
    expected = np.asarray(image.convert(wanted)).reshape(24, 32, channels)
    assert np.array_equal(made.fitted(picture), expected)
    if given != channels:
        with pytest.raises(ValueError, match=f"must have {channels} channels, got {given}"):
            replace(made, other_channels="refuse").fitted(picture)


@pytest.mark.parametrize("given", [2, 4])
def test_what_is_transparent_shows_the_background(given: int) -> None:
    picture = noise(24, 32, given)
    over = replace(COLOUR, other_channels="composite", background=(10, 20, 30)).fitted(picture)
    image = Image.fromarray(picture, "LA" if given == 2 else "RGBA")
    expected = Image.new("RGB", image.size, (10, 20, 30))
    expected.paste(image.convert("RGB"), mask=image.getchannel("A"))
    assert np.array_equal(over, np.asarray(expected))


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_orientation_tag(orientation: int, tmp_path: Path) -> None:
    upright = noise(5, 9)
    # how a camera stores what is to be shown by each of EXIF's eight orientations
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "photo.png"), upright)


def test_files_have_the_channels_that_they_say(tmp_path: Path) -> None:
    picture = noise(6, 7)
    grey = Image.fromarray(picture).convert("L")
    for name, image, channels in (
        ("grey", grey, 1),
        ("grey_alpha", Image.fromarray(noise(6, 7, 2), "LA"), 2),
        ("palette", Image.fromarray(picture).convert("P"), 3),
        ("bits", grey.convert("1"), 1),
    ):
        image.save(tmp_path / f"{name}.png")
        assert read_picture(tmp_path / f"{name}.png").shape == (6, 7, channels), name
    grey.save(tmp_path / "key.png", transparency=int(np.asarray(grey)[0, 0]))
    assert read_picture(tmp_path / "key.png")[0, 0, 3] == 0
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png has Pillow's mode I;16, not 8 bits per channel"):
        read_picture(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.png is no picture that Pillow can read"):
        read_picture(tmp_path / "text.png")


# --- what is declared ----------------------------------------------------------------------------------


def test_recipes_hold_only_what_differs_from_a_default() -> None:
    before = {
        "input": "image",
        "height": 24,
        "width": 32,
        "channels": 3,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    assert COLOUR.to_dict() == {"kind": "image", **before, "scale": 1 / 255}
    told = replace(COLOUR, resize="crop", resize_to=(40,), order="BGR").to_dict()
    assert {name: told[name] for name in told.keys() - before.keys() - {"kind", "scale"}} == {
        "resize": "crop",
        "resize_to": (40,),
        "order": "BGR",
    }


def test_json_says_a_preprocessing_whole() -> None:
    whole = replace(COLOUR, resize="letterbox", fill=(9, 8, 7), align="start", filter="box", antialias=False)
    for one in (whole, replace(whole, least=(12, 16), multiple=4)):
        assert from_dict(json.loads(json.dumps(one.to_dict()))) == one


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"resize": "crop", "resize_to": (30,)}, r"resize_to \(30,\) must hold the crop of 24 x 32"),
    ({"resize": "crop", "resize_to": 40}, r"resize_to: 40 must be a list: write \[40\]"),
    ({"resize_to": (40,)}, "resize_to is of resize='crop', not of 'none'"),
    ({"fill": (1, 2)}, r"fill needs one value, or one per channel \(3\)"),
    ({"channels": 1, "mean": (0.5,), "std": (0.5,), "order": "BGR"}, "order BGR is of 3 or 4 channels, not 1"),
    ({"background": (0,)}, "background needs three values"),
    ({"least": (24, 33)}, r"least needs a height and a width up to \(24, 32\), not \(24, 33\)"),
    ({"least": (16, 16), "multiple": 16}, r"sizes from \(16, 16\) to \(24, 32\) must be multiples of 16"),
    ({"least": (16, 16), "resize": "crop"}, "resize='crop' has one size"),
    ({"multiple": 8}, "multiple is of a range of sizes"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_what_cannot_be_is_refused_where_it_is_written(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        replace(COLOUR, **change)


def test_a_spec_names_the_field_of_a_wrong_value() -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(COLOUR, resize="fit", filter="lanczos", fill=(300,), antialias=1)  # type: ignore[arg-type]
    assert str(error.value).splitlines() == [
        "preprocessing.resize: fit must be 'none', 'stretch', 'crop' or 'letterbox'",
        "preprocessing.filter: lanczos must be 'nearest', 'box', 'bilinear' or 'bicubic'",
        "preprocessing.antialias: 1 must be true or false",
        "preprocessing.fill.0: 300 must be less than or equal to 255",
    ]


def test_yaml_says_the_same_preprocessing() -> None:
    colour = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "channels": 3, "height": 24, "width": 32}
    data = {"load": "examples.digits.data:calibration"}
    written = {
        "name": "by_hand",
        "architecture": DIGITS.architecture,
        "checkpoints": "checkpoints",
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 24, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "preprocessing": {
            "kind": "image",
            "input": "image",
            **colour,
            "resize": "crop",
            "resize_to": [40],
            "order": "BGR",
        },
        "calibration": {"data": data},
        "evaluation": {"data": {"load": "examples.digits.data:evaluation"}},
        "targets": ["graviton3"],
    }
    assert model_spec(parsed(written)).preprocess == replace(COLOUR, resize="crop", resize_to=(40,), order="BGR")
    with pytest.raises(InvalidSpec, match=r"preprocessing.filter: lanczos must be 'nearest'"):
        parsed(written | {"preprocessing": {**written["preprocessing"], "filter": "lanczos"}})  # type: ignore[dict-item]
