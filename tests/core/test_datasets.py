"""Data sets that stream: what gives samples, what is kept of them, and files of arrays read and written in parts."""

import gc
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core import data
from edge_assets.core.datasets import contents
from edge_assets.core.datasets import kept as datasets
from edge_assets.core.datasets.ahead import read_ahead
from edge_assets.core.datasets.contents import content_digest
from edge_assets.core.datasets.kept import BATCH, KeptStream, keep_stream
from edge_assets.core.datasets.npz import NpzWriter, open_npz, save_arrays
from edge_assets.core.datasets.stream import as_stream, samples
from edge_assets.core.progress import Progress, appended, duration, followed
from edge_assets.core.session import Samples, SavedFeeds
from edge_assets.errors import DataError, EdgeAssetsError, UserCodeError
from edge_assets.families.families import FAMILIES
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.preprocess import Passthrough
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import open_store
from tests.samples import kept
from tests.tiny.spec import TINY

COUNT = 150
NUMBERS = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
THIS = "tests.core.test_datasets"


def sample(number: int) -> dict[str, object]:
    return {"x": NUMBERS[number], "label": number % 5, "text": f"sample {number}"}


class Positions:
    """A map-style data set."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, position: int) -> dict[str, object]:
        return sample(position)


def generated() -> Iterator[dict[str, object]]:
    for number in range(COUNT):
        yield sample(number)


def positions() -> Positions:
    return Positions()


def listed() -> Sequence[dict[str, object]]:
    return [sample(number) for number in range(COUNT)]


def factory() -> Callable[[], Iterator[dict[str, object]]]:
    return generated


def loader() -> object:
    from torch.utils.data import DataLoader

    return DataLoader(Positions(), batch_size=32)  # type: ignore[arg-type]


def iterable() -> object:
    from torch.utils.data import IterableDataset

    class Numbers(IterableDataset[dict[str, object]]):
        def __iter__(self) -> Iterator[dict[str, object]]:
            return generated()

        def __len__(self) -> int:
            return COUNT

    return Numbers()


CHANGES: dict[str, object] = {}


def changing() -> Iterator[dict[str, object]]:
    for number in range(int(str(CHANGES.get("count", COUNT)))):
        found = sample(number)
        if number == CHANGES.get("other"):
            found["label"] = 77
        yield found


def stream(name: str, folder: Path) -> KeptStream:
    folder.mkdir(exist_ok=True)
    loaded = data.load(f"{THIS}:{name}", "evaluation")
    assert not isinstance(loaded, dict)
    keep_stream(loaded, folder, "evaluation data", lambda _line: None)
    return KeptStream(folder, f"{THIS}:{name}", "evaluation")


@pytest.mark.parametrize("name", ["generated", "positions", "listed", "factory", "loader", "iterable"])
def test_samples_of_all_kinds_are_the_same_each_time(name: str, tmp_path: Path) -> None:
    found = stream(name, tmp_path)
    assert found.samples == COUNT
    shapes = {field.name: (field.dtype, field.shape) for field in found.fields}
    assert shapes == {"label": ("int64", ()), "text": ("<U10", ()), "x": ("float32", (3,))}
    batches = list(found.batches())
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 64), (64, 128), (128, 150)]
    everything = datasets.joined(batch.raw for batch in batches)
    np.testing.assert_array_equal(everything["x"], NUMBERS)
    assert everything["label"].tolist() == [number % 5 for number in range(COUNT)]
    assert everything["text"][149] == "sample 149"


@pytest.mark.parametrize("name", ["generated", "positions", "loader"])
def test_a_part_of_a_stream(name: str, tmp_path: Path) -> None:
    found = stream(name, tmp_path)
    part = datasets.joined(batch.raw for batch in found.batches(70, 140))
    np.testing.assert_array_equal(part["x"], NUMBERS[70:140])
    np.testing.assert_array_equal(datasets.first(found, 5)["x"], NUMBERS[:5])
    assert found.cuts(COUNT, 2) == [0, 64, 150]
    assert found.cuts(100, 8) == [0, 64, 100]


def test_arrays_are_read_in_parts_too(tmp_path: Path) -> None:
    found = kept({"x": NUMBERS, "label": np.arange(COUNT)}, tmp_path)
    assert [(batch.start, batch.stop) for batch in found.batches(3, 140)] == [(3, 67), (67, 131), (131, 140)]
    part = datasets.joined(batch.raw for batch in found.batches(3, 140))
    np.testing.assert_array_equal(part["x"], NUMBERS[3:140])
    assert found.cuts(100, 8) == [0, 12, 25, 37, 50, 62, 75, 87, 100]


def test_the_same_samples_have_the_same_hashes_and_ranges_whether_they_stream_or_not(tmp_path: Path) -> None:
    streamed = stream("generated", tmp_path / "stream")
    arrays = kept(datasets.whole(streamed, "evaluation"), tmp_path)
    for name in ("x", "label", "text"):
        np.testing.assert_array_equal(streamed.hashes(name), arrays.hashes(name))
        assert streamed.ranged(name) == arrays.ranged(name)
    with pytest.raises(DataError, match="overlap: 150 samples are in both"):
        data.check_disjoint(arrays, streamed, Passthrough(("x",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": 70}, "samples 64 to 127 are not what they were"),
        ({"count": 149}, "gives 149 samples, and gave 150"),
        ({"count": 151}, "gives more than the 150 samples"),
    ],
)
def test_a_stream_that_gives_other_samples_is_refused(
    change: dict[str, int], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{THIS}.NUMBERS", np.zeros((COUNT + 1, 3), np.float32))
    found = stream("changing", tmp_path)
    list(found.batches())
    CHANGES.update(change)
    try:
        with pytest.raises(DataError, match=message) as error:
            list(found.batches())
        assert "raise the dataset's version" in str(error.value)
        assert datasets.first(found, 5)["label"].tolist() == [0, 1, 2, 3, 4], "what is read is what it was"
    finally:
        CHANGES.clear()


# --- what is no sample ---------------------------------------------------------------------------------


def read(found: object) -> list[object]:
    return list(samples(as_stream(found, "evaluation data: f"), "evaluation data: f"))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (5, "must return a dict of arrays, or what gives samples"),
        ("text", "must return a dict of arrays"),
        ([(NUMBERS[0], 1)], r"sample 0 is a tuple: .*edge_assets.named\(dataset"),
        ([{"x": None}], "sample 0: field 'x' is of kind NoneType"),
        ([{"file": 1}], "the field name 'file' must be"),
        ([{}], "sample 0 is a dict"),
    ],
)
def test_what_is_no_sample_is_named(found: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(found)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"x": np.zeros(4, np.float32)}, r"field 'x' of sample 2 has shape \(4,\), others have \(3,\)"),
        (
            {"x": np.zeros(4, np.float32)},
            r"all samples of a data set have one shape.*`preprocessing.of_size\(height, width\).fitted`",
        ),
        ({"x": np.zeros(3)}, "field 'x' of sample 2 is float64, others are float32"),
        ({"y": np.zeros(3, np.float32)}, "field '[xy]' of sample 2 is missing there or in the others"),
    ],
)
def test_samples_that_differ_are_named(others: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    several = [{"x": NUMBERS[0]}, {"x": NUMBERS[1]}, others]
    with pytest.raises(DataError, match=message):
        keep_stream(several, tmp_path, "evaluation data", lambda _line: None)


def test_an_iterator_that_was_read_before_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives no samples. An iterator can be read once"):
        keep_stream(iter([]), tmp_path, "evaluation data", lambda _line: None)


def test_a_loader_that_shuffles_is_refused() -> None:
    from torch.utils.data import DataLoader

    with pytest.raises(DataError, match="shuffle=False"):
        read(DataLoader(Positions(), shuffle=True))  # type: ignore[arg-type]


def test_what_the_users_code_raises_is_said_as_such() -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield sample(0)
        raise KeyError("pictures")

    with pytest.raises(UserCodeError, match=r"evaluation data: f raised KeyError.*pictures"):
        read(broken())


def broken_later() -> Iterator[dict[str, object]]:
    """What nobody asked for raises, once the set is known."""
    for number in range(COUNT):
        if number == 64 and WATCHED:
            raise AssertionError("more samples than were asked for")
        yield {"x": NUMBERS[number]}


WATCHED: list[bool] = []


def test_inputs_come_in_batches_of_any_size_however_many_are_read_at_a_time(tmp_path: Path) -> None:
    stream("positions", tmp_path)
    feeds = SavedFeeds(tmp_path, Passthrough(("x",)), f"{THIS}:positions", "calibration")
    for size in (1, 7, 64, 100, COUNT, 1000):
        found = [batch["x"] for batch in feeds.in_batches(size)]
        assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
        assert np.array_equal(np.concatenate(found), NUMBERS)
    layout = {"inputs": {"x": 1}, "outputs": {}, "states": {}}
    placed = list(replace(feeds, layout=layout).in_batches(100))
    assert [batch["x"].shape for batch in placed] == [(3, 100), (3, 50)]
    few = replace(feeds, layout=layout).first(2)
    assert isinstance(few, Samples), "they know how the model takes them"
    assert few.part(0, 1)["x"].shape == (3, 1)


def test_of_the_first_samples_no_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream("broken_later", tmp_path)
    monkeypatch.setattr("tests.core.test_datasets.WATCHED", [True])
    feeds = SavedFeeds(tmp_path, Passthrough(("x",)), f"{THIS}:broken_later", "calibration")
    assert np.array_equal(feeds.first(64)["x"], NUMBERS[:64])
    assert np.array_equal(feeds.first(5)["x"], NUMBERS[:5])


def test_the_next_samples_are_read_while_those_before_are_in_use() -> None:
    made: list[int] = []
    threads = set()

    def numbers() -> Iterator[tuple[int]]:
        for number in range(4):
            made.append(number)
            threads.add(threading.current_thread())
            yield (number,)

    read = read_ahead(numbers())
    assert next(read) == (0,)
    patience = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1], "one ahead, and no more"
    assert list(read) == [(1,), (2,), (3,)]
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_what_reading_ahead_raises_comes_after_the_samples_before_it() -> None:
    def numbers() -> Iterator[tuple[int]]:
        yield (0,)
        raise DataError("sample 1 is broken")

    read = read_ahead(numbers())
    assert next(read) == (0,)
    with pytest.raises(DataError, match="sample 1 is broken"):
        next(read)


def test_reading_ahead_ends_where_nobody_reads_on() -> None:
    is_over = threading.Event()

    def numbers() -> Iterator[tuple[int]]:
        try:
            yield (0,)
            yield (1,)
            yield (2,)
        finally:
            is_over.set()

    for number in read_ahead(numbers()):
        assert number == (0,)
        break
    gc.collect()
    assert is_over.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading")]


# --- memory --------------------------------------------------------------------------------------------


def large() -> Iterator[dict[str, np.ndarray]]:
    for number in range(20):
        yield {"x": np.full((512, 512), number, np.float32)}  # 1 MiB


def test_chunks_are_as_large_as_the_memory_for_data_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_DATA_MEMORY", str(2**24))  # 16 MiB: a sixteenth is one sample
    found = stream("large", tmp_path)
    assert {batch.stop - batch.start for batch in found.batches()} == {1}
    feeds = SavedFeeds(tmp_path, Passthrough(("x",)), f"{THIS}:large", "calibration")
    with pytest.raises(DataError, match=r"take 20.00 MiB of memory as inputs, more than the 16.00 MiB for data"):
        feeds()
    with pytest.raises(DataError, match=r"take 20.00 MiB of memory, more than"):
        feeds.raw()
    monkeypatch.setenv("EDGE_ASSETS_DATA_MEMORY", str(2**30))
    assert feeds()["x"].shape == (20, 512, 512)
    assert {batch.stop - batch.start for batch in stream("large", tmp_path / "again").batches()} == {20}
    assert BATCH == 64
    monkeypatch.setenv("EDGE_ASSETS_DATA_MEMORY", "1 GiB")
    with pytest.raises(EdgeAssetsError, match="EDGE_ASSETS_DATA_MEMORY=1 GiB: give a number of bytes"):
        feeds()


# --- files of arrays -----------------------------------------------------------------------------------


def test_what_is_written_in_parts_has_the_bytes_of_the_whole(tmp_path: Path) -> None:
    arrays = {"b": NUMBERS, "a": np.array(["x", "long"] * 75), "scores": np.arange(COUNT, dtype=np.float64)}
    save_arrays(arrays, tmp_path / "whole.npz")
    writer = NpzWriter(tmp_path / "parts.npz")
    for start in range(0, COUNT, 64):
        writer.add({name: arrays[name][start : start + 64] for name in ("b", "a")})
    writer.close({"scores": arrays["scores"]})
    assert (tmp_path / "parts.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"parts.npz", "whole.npz"}


def test_rows_of_a_file(tmp_path: Path) -> None:
    arrays = {"x": NUMBERS, "text": np.array(["x", "long"] * 75), "fortran": np.asfortranarray(NUMBERS)}
    save_arrays(arrays, tmp_path / "file.npz")
    np.savez_compressed(tmp_path / "small.npz", **arrays)  # type: ignore[arg-type]
    for name in ("file.npz", "small.npz"):
        rows = open_npz(tmp_path / name).rows(70, 90)
        for field, array in arrays.items():
            np.testing.assert_array_equal(rows[field], array[70:90])
    assert len(open_npz(tmp_path / "file.npz").rows(140, 999)["x"]) == 10
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="holds objects"):
        open_npz(tmp_path / "objects.npz")


# --- progress ------------------------------------------------------------------------------------------


def test_what_another_process_says_of_its_progress_is_passed_on() -> None:
    lines: list[str] = []
    with followed(lines.append) as path:
        appended(path)("evaluating: 250 of 1,000 samples")
    assert lines == ["evaluating: 250 of 1,000 samples"]


def test_progress_says_how_long_the_rest_takes() -> None:
    lines: list[str] = []
    progress = Progress("evaluating", 1000, lines.append, every=0.0)
    progress.started -= 60
    for done in (250, 1000):
        progress.at(done)
    assert lines == ["evaluating: 250 of 1,000 samples, about 3 min left"]
    assert [duration(seconds) for seconds in (40, 700, 3900)] == ["40 s", "12 min", "1 h 5 min"]


# --- folders that a data set is read from --------------------------------------------------------------


def test_a_folder_counts_by_the_names_and_contents_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, notes = tmp_path / "pictures", tmp_path / "notes"
    (folder / "cat").mkdir(parents=True)
    for number in range(3):
        (folder / "cat" / f"{number}.png").write_bytes(bytes([number]))
    first = content_digest(folder, notes)
    read: list[Path] = []

    def noted(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(contents, "sha256_of", noted)
    assert content_digest(folder, notes) == first
    assert read == [], "what did not change is not read again"
    (folder / "cat" / ".DS_Store").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").touch()
    assert content_digest(folder, notes) == first
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert content_digest(tmp_path / "elsewhere", notes) == first
    read.clear()
    changed = folder / "cat" / "1.png"
    before = changed.stat()
    changed.write_bytes(b"9")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # of equal size and time
    second = content_digest(folder, notes)
    assert second != first
    assert read == [changed]
    changed.rename(changed.with_name("9.png"))
    third = content_digest(folder, notes)
    assert third not in (first, second)
    for text in ("{", "[]", '{"cat/0.png": 5}'):
        next(notes.iterdir()).write_text(text)
        assert content_digest(folder, notes) == third


def test_a_picture_that_was_changed_is_seen_by_the_plan(tmp_path: Path, checkpoint_file: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"1")
    data_set = replace(TINY.calibration.data, files=(str(tmp_path / "pictures"),))
    spec = replace(TINY, calibration=replace(TINY.calibration, data=data_set))
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))

    def recipe() -> str:
        cell = Cell(spec, FAMILIES["cpu"], target("graviton3"), checkpoint, store, lambda _line: None)
        return cell.data.calibration.recipe.sha256

    first = recipe()
    assert recipe() == first
    (tmp_path / "pictures" / "a.png").write_bytes(b"2")
    assert recipe() != first
