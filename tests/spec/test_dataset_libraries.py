"""Data sets of other libraries, as their own code gives them: Hugging Face `datasets` and WebDataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edge_assets
from edge_assets.core import data
from edge_assets.core.datasets.kept import KeptStream, keep_stream
from edge_assets.core.datasets.npz import Arrays
from edge_assets.core.datasets.stream import as_stream, samples
from edge_assets.errors import DataError

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(6) % 2


def read(stream: object) -> list[Arrays]:
    return list(samples(as_stream(stream, "evaluation data"), "evaluation data"))


def check(stream: object, tmp_path: Path) -> None:
    """The samples are the pictures with their labels, each time, and all are counted."""
    for _ in range(2):
        found = read(stream)
        assert np.array_equal(np.stack([sample["image"] for sample in found]), PICTURES)
        assert np.array_equal([sample["label"] for sample in found], LABELS)
    assert keep_stream(as_stream(stream, "evaluation data"), tmp_path, "evaluation data", lambda _line: None) == 6
    manifest = KeptStream(tmp_path, "any:function", "evaluation").manifest
    assert {"image", "label"} <= {field.name for field in manifest.fields}


# --- Pillow's images as fields, which such libraries give ------------------------------------------------


def test_pictures_as_fields_are_upright_and_in_red_green_and_blue(tmp_path: Path) -> None:
    stored = Image.fromarray(PICTURES[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    stored.save(tmp_path / "lying.png", exif=exif)
    with Image.open(tmp_path / "lying.png") as lying:
        (sample,) = read([{"image": lying}])
    assert np.array_equal(sample["image"], edge_assets.read_picture(tmp_path / "lying.png"))
    (printed,) = read([{"image": stored.convert("CMYK")}])
    assert np.array_equal(printed["image"], PICTURES[0]), "ink is no alpha"
    mask = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    (masked,) = read([{"mask": mask}])
    assert np.array_equal(masked["mask"], np.asarray(mask)), "a palette's numbers are classes"


# --- Hugging Face ---------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    library = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    images = [Image.fromarray(picture) for picture in PICTURES]
    return library.Dataset.from_dict({"image": images, "label": LABELS.tolist(), "name": ["a", "bc"] * 3})


@pytest.mark.parametrize("kind", ["map", "numpy", "iterable", "sharded"])
def test_a_hugging_face_data_set(kind: str, hugging_face: Any, tmp_path: Path) -> None:
    kinds = {
        "map": hugging_face,
        "numpy": hugging_face.with_format("numpy"),
        "iterable": hugging_face.to_iterable_dataset(),
        "sharded": hugging_face.to_iterable_dataset(num_shards=3).with_format("numpy"),
    }
    check(kinds[kind], tmp_path)


SPLITS: dict[str, object] = {}


def splits() -> dict[str, object]:
    return SPLITS


def test_of_several_splits_one_is_to_be_returned(hugging_face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("datasets")
    found = library.DatasetDict({"train": hugging_face, "test": hugging_face})
    monkeypatch.setattr("tests.spec.test_dataset_libraries.SPLITS", found)
    with pytest.raises(DataError, match=r"splits returns several data sets \(train, test\): return one of them"):
        data.load("tests.spec.test_dataset_libraries:splits", "evaluation")


# --- WebDataset -----------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, written by the library itself."""
    library = pytest.importorskip("webdataset", reason="webdataset is not installed")
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, part in enumerate((range(4), range(4, 6))):
        with library.TarWriter(str(folder / f"part-{number:03}.tar")) as writer:
            for position in part:
                sample = {"png": PICTURES[position], "cls": int(LABELS[position]), "x.npy": np.full(3, position)}
                writer.write({"__key__": f"sample{position:04}", **sample})
    return folder


def test_shards_that_webdataset_wrote(shards: Path, tmp_path: Path) -> None:
    fields = (("png", "image"), ("cls", "label"), ("x.npy", "x"))
    source = edge_assets.webdataset(str(shards / "part-*.tar"), fields=fields)
    check(source, tmp_path)
    assert read(source)[5]["x"].tolist() == [5, 5, 5]


def test_a_pipeline_of_webdataset(shards: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    address = str(shards / "part-{000..001}.tar")
    pipeline = library.WebDataset(address, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    check(edge_assets.named(pipeline, "image", "label"), tmp_path)
