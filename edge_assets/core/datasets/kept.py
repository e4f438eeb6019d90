"""What is kept of a data set, and how its samples are read again.

A dataset function that returns arrays has them kept as `.npz`, and they are read from there. One that gives samples one
after the other has none of them kept: a manifest holds the hash of every chunk, and the samples are asked of the
function again, chunk by chunk, each held against its hash. So a number can be repeated, or it is said that the data are
others now.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from edge_assets.core.datasets.npz import Arrays, NpzReader, open_npz, read_arrays, save_arrays
from edge_assets.core.datasets.stream import MapStyle, Stream, as_stream, samples, stacked
from edge_assets.core.progress import Progress
from edge_assets.core.shapes import read, record
from edge_assets.core.sizes import readable_size
from edge_assets.errors import DataError
from edge_assets.later import np
from edge_assets.settings import data_memory_bytes
from edge_assets.spec.source import call

BATCH = 64  # most samples of a chunk, and of a batch that a model is given
SHARE = 16  # of the memory for data, what one chunk may take: raw, as inputs, as outputs, in several processes at once
HASH_BYTES = 16  # of one field of one sample
MANIFEST = "manifest.json"
BY_SAMPLE = "samples.npz"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some samples of a stream, one after the other; the hash is over all their fields."""

    samples: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a data set: its type, the shape of one sample, and what range its numbers have."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_finite: bool = True
    least: float | None = None  # None: of texts, or of numbers that are not finite
    largest: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that samples are read from."""

    path: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is kept of a stream beside a hash of every sample."""

    samples: int
    fields: tuple[Field, ...]
    chunks: tuple[Chunk, ...]
    files: tuple[SourceFile, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples `start` to `stop` of a data set, raw."""

    start: int
    stop: int
    raw: Arrays


class Kept(Protocol):
    """A data set as it is read."""

    @property
    def samples(self) -> int: ...

    @property
    def fields(self) -> tuple[Field, ...]:
        """Names, types and shapes; ranges where they are known without looking."""
        ...

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Samples `start` to `stop`, at most `BATCH` at a time, and fewer where these are large."""
        ...

    def hashes(self, name: str) -> np.ndarray:
        """A hash of that field of every sample; uint8 [n, 16]."""
        ...

    def ranged(self, name: str) -> Field:
        """A field with the range of its numbers."""
        ...

    def cuts(self, stop: int, parts: int) -> list[int]:
        """Where to cut the first `stop` samples into about equal parts, both ends included."""
        ...


# --- arrays --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptArrays:
    """Arrays in an `.npz` file."""

    path: Path

    @cached_property
    def _file(self) -> NpzReader:
        return open_npz(self.path)

    @property
    def samples(self) -> int:
        first = next(iter(self._file.members.values()))
        return first.shape[0]

    @property
    def fields(self) -> tuple[Field, ...]:
        found = []
        for name, member in self._file.members.items():
            found.append(Field(name=name, dtype=str(member.dtype), shape=member.shape[1:]))
        return tuple(found)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        size = 0
        for member in self._file.members.values():
            size += member.dtype.itemsize * int(np.prod(member.shape[1:]))
        yield from self._batches(start, stop, samples_of_a_chunk(size), None)

    def _batches(
        self,
        start: int,
        stop: int | None,
        count: int,
        names: Iterable[str] | None,
    ) -> Iterator[Batch]:
        end = _end(self.samples, stop)
        for first in range(start, end, count):
            last = min(first + count, end)
            raw = self._file.rows(first, last, names)
            yield Batch(first, last, raw)

    def hashes(self, name: str) -> np.ndarray:
        parts = [hashes_of(batch.raw[name]) for batch in self._batches(0, None, BATCH, [name])]
        return np.concatenate(parts)

    def ranged(self, name: str) -> Field:
        member = self._file.members[name]
        found = Ranges()
        for batch in self._batches(0, None, BATCH, [name]):
            found.add(batch.raw)
        return found.field(name, member.dtype, member.shape[1:])

    def cuts(self, stop: int, parts: int) -> list[int]:
        return _evenly(stop, parts)


# --- streams -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptStream:
    """Samples that the dataset function gives each time, held against the manifest."""

    folder: Path
    load: str  # the function, as the spec names it
    what: str

    @cached_property
    def manifest(self) -> Manifest:
        return read(Manifest, json.loads((self.folder / MANIFEST).read_text()))

    @property
    def samples(self) -> int:
        return self.manifest.samples

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.manifest.fields

    @property
    def where(self) -> str:
        return f"{self.what} data: {self.load}"

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Raises DataError, naming the samples, where they are not what they were."""
        end = _end(self.samples, stop)
        edges = self._edges()
        first = int(np.searchsorted(edges, start, side="right")) - 1
        if start >= end:
            return
        stream = as_stream(call(self.load, f"{self.what} data"), self.where)
        found = samples(stream, self.where, edges[first])
        for chunk, begin in zip(self.manifest.chunks[first:], edges[first:], strict=False):
            if begin >= end:
                return
            raw = self._checked(found, chunk, begin)
            low = max(start - begin, 0)
            high = min(end - begin, chunk.samples)
            wanted = {name: array[low:high] for name, array in raw.items()}
            yield Batch(begin + low, begin + high, wanted)
        if next(found, None) is not None:
            raise DataError(f"{self.where} gives more than the {self.samples} samples that it had. {CHANGED}")

    def _checked(self, found: Iterator[Arrays], chunk: Chunk, begin: int) -> Arrays:
        """The next chunk, if it is what it was."""
        several = []
        for sample in found:
            several.append(sample)
            if len(several) == chunk.samples:
                break
        end = begin + chunk.samples
        if len(several) < chunk.samples:
            raise DataError(f"{self.where} gives {begin + len(several)} samples, and gave {self.samples}. {CHANGED}")
        raw = stacked(several, self.where, begin)
        if hash_of(raw) != chunk.sha256:
            raise DataError(f"{self.where}: samples {begin} to {end - 1} are not what they were. {CHANGED}")
        return raw

    def hashes(self, name: str) -> np.ndarray:
        return read_arrays(self.folder / BY_SAMPLE)[name]

    def ranged(self, name: str) -> Field:
        return next(entry for entry in self.fields if entry.name == name)

    def cuts(self, stop: int, parts: int) -> list[int]:
        """At the edges of chunks, so that none is read twice."""
        edges = [edge for edge in self._edges() if edge < stop]
        edges.append(stop)
        wanted = _evenly(len(edges) - 1, parts)
        return [edges[position] for position in wanted]

    def _edges(self) -> list[int]:
        """Where chunks begin."""
        edges = []
        start = 0
        for chunk in self.manifest.chunks:
            edges.append(start)
            start += chunk.samples
        return edges


CHANGED = (
    "A set must give the same samples each time. If its data changed on purpose, raise the dataset's version; if its "
    "order is drawn at random, fix the seed"
)


def keep_stream(stream: Stream, folder: Path, where: str, log: Callable[[str], None]) -> int:
    """Write what is kept of a stream, and give the number of its samples. Raises DataError where it has none."""
    chunks, hashes = [], _Hashes()
    ranges = Ranges()
    progress = Progress(f"reading {where}", _length(stream), log)
    raw: Arrays = {}
    start = 0
    for raw in _chunked(samples(stream, where), where):
        size = len(next(iter(raw.values())))
        chunks.append(Chunk(samples=size, sha256=hash_of(raw)))
        hashes.add(raw)
        ranges.add(raw)
        start += size
        progress.at(start)
    if not chunks:
        raise DataError(f"{where} gives no samples. An iterator can be read once: return what makes one anew")
    fields = [ranges.field(name, array.dtype, array.shape[1:]) for name, array in raw.items()]
    manifest = Manifest(
        samples=start,
        fields=tuple(fields),
        chunks=tuple(chunks),
        files=_files(stream),
    )
    (folder / MANIFEST).write_text(json.dumps(record(manifest), indent=1) + "\n")
    save_arrays(hashes.arrays(), folder / BY_SAMPLE)
    return start


def _chunked(found: Iterator[Arrays], where: str) -> Iterator[Arrays]:
    """Samples in chunks, which are as large as the first sample says."""
    start, count = 0, 0
    several: list[Arrays] = []
    for sample in found:
        several.append(sample)
        if count == 0:
            count = samples_of_a_chunk(sum(array.nbytes for array in sample.values()))
        if len(several) == count:
            yield stacked(several, where, start)
            start += count
            several = []
    if several:
        yield stacked(several, where, start)


def _length(stream: Stream) -> int | None:
    """How many samples there are to come, where that is known: a loader counts batches."""
    if isinstance(stream, MapStyle):
        return len(stream)
    return None


def _files(stream: Stream) -> tuple[SourceFile, ...]:
    """The files that a source of ours reads."""
    found: Iterable[Path] = getattr(stream, "files", ())
    if not isinstance(found, tuple | list):
        return ()
    read_files = []
    for path in found:
        size = Path(path).stat().st_size
        read_files.append(SourceFile(path=str(path), size_bytes=size))
    return tuple(read_files)


@dataclass
class _Hashes:
    """A hash per sample and field."""

    parts: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, raw: Arrays) -> None:
        for name, array in raw.items():
            self.parts.setdefault(name, []).append(hashes_of(array))

    def arrays(self) -> Arrays:
        return {name: np.concatenate(arrays) for name, arrays in self.parts.items()}


@dataclass
class Ranges:
    """The least and largest number of each field."""

    found: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, raw: Mapping[str, np.ndarray]) -> None:
        for name, array in raw.items():
            if array.dtype.kind not in "biuf" or array.size == 0:
                continue
            least = float(array.min())
            largest = float(array.max())
            before = self.found.get(name, (least, largest))
            self.found[name] = (
                float(np.minimum(least, before[0])),  # NaN is both, and stays
                float(np.maximum(largest, before[1])),
            )

    def field(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Field:
        least: float | None = None
        largest: float | None = None
        is_finite = True
        if name in self.found:
            least, largest = self.found[name]
            is_finite = math.isfinite(least) and math.isfinite(largest)
        if not is_finite:
            least = largest = None
        return Field(
            name=name,
            dtype=str(dtype),
            shape=shape,
            is_finite=is_finite,
            least=least,
            largest=largest,
        )


# --- both ----------------------------------------------------------------------------------------------


def open_kept(path: Path, load: str, what: str) -> Kept:
    """What was kept at `path`: arrays in a file, or a folder with a manifest of what the function `load` gives."""
    if path.is_dir():
        return KeptStream(path, load, what)
    return KeptArrays(path)


def whole(kept: Kept, what: str) -> Arrays:
    """All samples at once. Raises DataError for a stream that takes more than the memory for data."""
    if isinstance(kept, KeptArrays):
        return read_arrays(kept.path)
    sample_bytes = 0
    for entry in kept.fields:
        elements = int(np.prod(entry.shape))
        sample_bytes += elements * np.dtype(entry.dtype).itemsize
    size = kept.samples * sample_bytes
    if size > data_memory_bytes():
        raise DataError(
            f"{what} data are needed at once, and take {readable_size(size)} of memory, more than the "
            f"{readable_size(data_memory_bytes())} for data: give fewer samples, or raise EDGE_ASSETS_DATA_MEMORY"
        )
    return joined(batch.raw for batch in kept.batches())


def first(kept: Kept, count: int) -> Arrays:
    """The first `count` samples, or all where there are fewer."""
    return joined(batch.raw for batch in kept.batches(0, count))


def joined(parts: Iterable[Mapping[str, np.ndarray]]) -> Arrays:
    """Arrays that come some rows at a time, put together."""
    found: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, array in part.items():
            found.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def samples_of_a_chunk(sample_bytes: int) -> int:
    """How many samples of that size are held at a time."""
    fitting = data_memory_bytes() // SHARE // max(sample_bytes, 1)
    return int(np.clip(fitting, 1, BATCH))


def hashes_of(array: np.ndarray) -> np.ndarray:
    """A hash per entry of axis 0; uint8 [n, 16]."""
    found = bytearray()
    for entry in array:
        found += hashlib.blake2b(entry.tobytes(), digest_size=HASH_BYTES).digest()
    return np.frombuffer(bytes(found), np.uint8).reshape(-1, HASH_BYTES)


def hash_of(raw: Mapping[str, np.ndarray]) -> str:
    """sha256 (hex) over names, types, shapes and values."""
    hasher = hashlib.sha256()
    for name, array in sorted(raw.items()):
        hasher.update(f"{name} {array.dtype.str} {array.shape}".encode())
        if array.dtype.kind in "SU":
            hasher.update(array.tobytes())
        else:
            hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def _evenly(count: int, parts: int) -> list[int]:
    exact = np.linspace(0, count, min(parts, count) + 1)
    edges: list[int] = exact.astype(int).tolist()
    return edges


def _end(samples: int, stop: int | None) -> int:
    """Where reading ends: at `stop`, or with the set."""
    if stop is None:
        return samples
    return min(samples, stop)
