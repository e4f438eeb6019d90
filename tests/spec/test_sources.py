"""Ready-made sources: folders of pictures, COCO files, tables and tar files, as samples that stream."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_assets
from edge_assets.core.datasets.kept import KeptStream, keep_stream
from edge_assets.core.datasets.stream import as_stream, samples
from edge_assets.errors import DataError, MissingTool, UserCodeError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def read(source: object) -> list[dict[str, np.ndarray]]:
    return list(samples(as_stream(source, "evaluation data: f"), "evaluation data: f"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of two classes."""
    for number, picture in enumerate(PICTURES):
        place = tmp_path / "pictures" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(picture))
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


# --- folders of pictures -------------------------------------------------------------------------------


def test_what_tools_hide_in_folders_is_no_class_and_no_picture(folder: Path) -> None:
    for place in (folder / ".ipynb_checkpoints", folder / "cat" / ".thumbnails"):
        place.mkdir()
        (place / "9.png").write_bytes(png(PICTURES[0]))
    source = edge_assets.image_folder(str(folder))
    assert source.classes == ("cat", "dog")
    assert len(read(source)) == 6


def test_a_folder_per_class(folder: Path, tmp_path: Path) -> None:
    source = edge_assets.image_folder(str(folder))
    assert source.classes == ("cat", "dog")
    found = read(source)
    assert [int(sample["label"]) for sample in found] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(found[1]["image"], PICTURES[2])
    assert found[0]["label"].dtype == np.int64
    manifest = tmp_path / "kept"
    manifest.mkdir()
    keep_stream(source, manifest, "evaluation data", lambda _line: None)
    files = KeptStream(manifest, "a:b", "evaluation").manifest.files
    assert [Path(file.path).name for file in files] == ["0.png", "2.png", "4.png", "1.png", "3.png", "5.png"]
    assert sum(path.stat().st_size for path in manifest.iterdir()) < 4096, "hashes, and no copy of the pictures"


def test_classes_in_an_order_of_ones_own(folder: Path) -> None:
    found = read(edge_assets.image_folder(str(folder), classes=("dog", "cat")))
    assert [int(sample["label"]) for sample in found] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(DataError, match=r"folders \['dog'\] are none of the classes"):
        edge_assets.image_folder(str(folder), classes=("cat", "bird"))


@pytest.mark.parametrize("line", ["{},{}", "{}\t{}", "{} {}"])
def test_a_file_with_labels(folder: Path, line: str) -> None:
    file = folder / "labels.txt"
    rows = [("cat/4.png", 7), ("dog/1.png", 3)]
    file.write_text("\n".join(line.format(*row) for row in rows))
    found = read(edge_assets.image_folder(str(folder), labels=str(file)))
    assert [int(sample["label"]) for sample in found] == [7, 3]
    np.testing.assert_array_equal(found[0]["image"], PICTURES[4])


def test_a_heading_and_names_of_classes(folder: Path) -> None:
    file = folder / "labels.csv"
    file.write_text("picture,label\ncat/4.png,dog\ndog/1.png,cat\n")
    source = edge_assets.image_folder(str(folder), labels=str(file), classes=("cat", "dog"))
    assert [int(sample["label"]) for sample in read(source)] == [1, 0]
    with pytest.raises(DataError, match="line 2: label 'dog' is no number"):
        edge_assets.image_folder(str(folder), labels=str(file))
    file.write_text("cat/4.png,1\ncat/9.png,1\n")
    with pytest.raises(DataError, match="line 2: no picture"):
        edge_assets.image_folder(str(folder), labels=str(file))


def test_pictures_are_upright_and_of_the_channels_and_the_size_that_are_asked_for(folder: Path) -> None:
    lying = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = lying.getexif()
    exif[274] = 6  # turned by a quarter
    lying.save(folder / "cat" / "0.jpg", exif=exif)
    source = edge_assets.image_folder(str(folder), channels=1)
    assert read(source)[0]["image"].shape == (6, 4, 1)
    declared = edge_assets.ImagePreprocessing("image", 5, 7, 3, mean=(0.0,) * 3, std=(1.0,) * 3, resize="stretch")
    stretched = edge_assets.image_folder(str(folder), transform=declared.fitted)
    assert {sample["image"].shape for sample in read(stretched)} == {(5, 7, 3)}
    with pytest.raises(DataError, match="pictures have 1"):
        edge_assets.image_folder(str(folder), channels=2)


def test_a_data_set_has_the_pixels_that_a_release_reads(folder: Path) -> None:
    """An alpha, a palette, grey: what `infer.py` hands to the preprocessing is what a source hands to it."""
    rng = np.random.default_rng(5)
    kinds = {
        "alpha": Image.fromarray(rng.integers(0, 256, (6, 9, 4), dtype=np.uint8)),
        "grey_alpha": Image.fromarray(rng.integers(0, 256, (6, 9, 2), dtype=np.uint8), "LA"),
        "palette": Image.fromarray(PICTURES[0]).convert("P"),
        "grey": Image.fromarray(PICTURES[0]).convert("L"),
    }
    for name, image in kinds.items():
        image.save(folder / "cat" / f"{name}.png")
    white = edge_assets.ImagePreprocessing(
        "image", 8, 8, 3, mean=(0.0,) * 3, std=(1.0,) * 3, resize="stretch", other_channels="composite"
    )
    source = edge_assets.image_folder(str(folder), transform=white.fitted)
    for path, sample in zip(source.pictures, read(source), strict=True):
        released = white.fitted(edge_assets.read_picture(path))
        assert np.array_equal(sample["image"], released), path.name
    # without a transform all have the same channels, as Pillow converts them
    for path, sample in zip(source.pictures, read(edge_assets.image_folder(str(folder))), strict=True):
        assert np.array_equal(sample["image"], np.asarray(Image.open(path).convert("RGB"))), path.name


def test_a_picture_of_16_bits_is_not_clipped_to_8(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(folder / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep.png has Pillow's mode I;16, not 8 bits per channel"):
        read(edge_assets.image_folder(str(folder)))


def test_what_a_transform_raises_names_the_picture(folder: Path) -> None:
    strict = edge_assets.ImagePreprocessing("image", 5, 7, 3, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(UserCodeError, match=r"0.png: the transform raised ValueError: a picture of 'image' must have"):
        read(edge_assets.image_folder(str(folder), transform=strict.fitted))


def test_what_is_no_picture_is_named(folder: Path) -> None:
    (folder / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0.png is no picture that Pillow can read"):
        read(edge_assets.image_folder(str(folder)))
    with pytest.raises(DataError, match="no such folder"):
        edge_assets.image_folder(str(folder / "bird"))
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        edge_assets.image_folder(str(folder / "none"))


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingTool, match=r"pip install 'edge-assets\[images\]'"):
        read(edge_assets.image_folder(str(folder)))


# --- the others ----------------------------------------------------------------------------------------


def test_a_coco_file(folder: Path, tmp_path: Path) -> None:
    said = {
        "images": [{"id": 9, "file_name": "dog/1.png"}, {"id": 4, "file_name": "cat/0.png"}],
        "categories": [{"id": 30, "name": "dog"}, {"id": 10, "name": "cat"}],
        "annotations": [
            {"image_id": 9, "category_id": 30, "bbox": [1, 2, 3, 4]},
            {"image_id": 9, "category_id": 10, "bbox": [0, 0, 8, 8], "iscrowd": 1},
        ],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(said))
    source = edge_assets.coco_detection(str(folder), str(file))
    assert source.classes == ("cat", "dog")
    empty, full = read(source)
    assert [int(empty["image_id"]), int(full["image_id"])] == [4, 9]
    assert full["label"].tolist() == [[1, 2, 4, 6, 1, 0], [0, 0, 8, 8, 0, 1]]
    assert (empty["label"] == -1).all()
    np.testing.assert_array_equal(full["image"], PICTURES[1])

    def half(picture: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return picture[::2, ::2], boxes / 2

    small = read(edge_assets.coco_detection(str(folder), str(file), transform=half))
    assert small[1]["image"].shape == (4, 4, 3)
    assert small[1]["label"][0].tolist() == [0.5, 1, 2, 3, 1, 0]
    file.write_text("{}")
    with pytest.raises(DataError, match="is no COCO annotation file"):
        edge_assets.coco_detection(str(folder), str(file))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_tables(kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import feather, parquet

    columns = {
        "image": [{"bytes": png(picture), "path": None} for picture in PICTURES],
        "x": [[1.0, 2.0]] * 6,
        "text": ["a", "b"] * 3,
        "label": list(range(6)),
    }
    table, path = pa.table(columns), tmp_path / f"data.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, path, compression="uncompressed")
    found = read(edge_assets.parquet(str(path), pictures=("image",)))
    np.testing.assert_array_equal(found[3]["image"], PICTURES[3])
    assert found[3]["x"].tolist() == [1, 2]
    assert (str(found[3]["text"]), int(found[3]["label"])) == ("b", 3)
    assert set(read(edge_assets.parquet(str(path), str(path), columns=("x", "label")))[11]) == {"x", "label"}
    with pytest.raises(DataError, match=r"has no columns \['y'\]"):
        edge_assets.parquet(str(path), columns=("y",))
    with pytest.raises(DataError, match="holds no bytes of a picture"):
        read(edge_assets.parquet(str(path), columns=("text",), pictures=("text",)))


def shard(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            values = np.full(3, number, np.float32)
            buffer = io.BytesIO()
            np.save(buffer, values)
            files = {"png": png(PICTURES[number]), "cls": str(number).encode(), "x.npy": buffer.getvalue()}
            for suffix, content in (files | {"json": b'{"other": 1}'}).items():
                entry = tarfile.TarInfo(f"part/{number:04}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def test_shards_of_tar_files(tmp_path: Path) -> None:
    shard(tmp_path / "b.tar", range(4, 6))
    shard(tmp_path / "a.tar", range(4))
    source = edge_assets.webdataset(
        str(tmp_path / "*.tar"), fields=(("png", "image"), ("cls", "label"), ("x.npy", "x"))
    )
    assert [path.name for path in source.files] == ["a.tar", "b.tar"]
    found = read(source)
    assert [int(sample["label"]) for sample in found] == list(range(6))
    np.testing.assert_array_equal(found[5]["image"], PICTURES[5])
    assert found[5]["x"].tolist() == [5, 5, 5]
    (tmp_path / "c.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(DataError, match="c.tar is no whole tar file"):
        read(edge_assets.webdataset(str(tmp_path / "c.tar")))
    with pytest.raises(DataError, match="no such shards"):
        edge_assets.webdataset(str(tmp_path / "d.tar"))


def test_samples_that_are_tuples_get_names(tmp_path: Path) -> None:
    pairs = [(picture, number) for number, picture in enumerate(PICTURES)]
    found = read(edge_assets.named(pairs, "image", "label"))
    assert [int(sample["label"]) for sample in found] == list(range(6))
    generated = edge_assets.named((pair for pair in pairs), "image", "label")
    folder = tmp_path / "kept"
    folder.mkdir()
    assert keep_stream(generated, folder, "evaluation data", lambda _line: None) == 6
    with pytest.raises(DataError, match="a sample has 2 parts, and 3 names were given"):
        read(edge_assets.named(pairs, "image", "label", "more"))


def test_pictures_of_any_type_that_numpy_takes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    several = [{"image": Image.fromarray(picture), "x": torch.ones(2)} for picture in PICTURES]
    keep_stream(several, tmp_path, "evaluation data", lambda _line: None)
    found = read(several)
    np.testing.assert_array_equal(found[2]["image"], PICTURES[2])
    assert found[2]["x"].dtype == np.float32
