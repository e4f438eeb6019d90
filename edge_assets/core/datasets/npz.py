"""Arrays in `.npz` files, read and written some rows at a time, so that neither needs the memory of the whole."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from edge_assets.later import np

Arrays: TypeAlias = "dict[str, np.ndarray]"
LOCAL_HEADER = 30  # bytes of a zip entry's own header before its name


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `.npz`; equal arrays give equal bytes (zip entries carry no time of their own)."""
    np.savez(path, **dict(sorted(arrays.items())))  # type: ignore[arg-type]  # the stub takes allow_pickle by name


def read_arrays(path: Path) -> Arrays:
    """Read `.npz`, never unpickling."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


@dataclass(frozen=True)
class Member:
    """One array of a file: what it is, and where its bytes begin; -1 where they cannot be read by rows."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class NpzReader:
    """An `.npz` file's arrays by name, each read from the disk as far as it is asked for."""

    path: Path
    members: Mapping[str, Member]

    def rows(self, start: int, stop: int, names: Iterable[str] | None = None) -> Arrays:
        """Entries `start` to `stop` of axis 0 of the arrays of these names, all by default."""
        return {name: self._rows(name, start, stop) for name in names or self.members}

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        member = self.members[name]
        if member.offset < 0:
            with np.load(self.path, allow_pickle=False) as data:
                whole: np.ndarray = data[name]
            return whole[start:stop]
        length, *row_shape = member.shape
        rows = max(0, min(stop, length) - start)
        shape = (rows, *row_shape)
        row_bytes = member.dtype.itemsize * int(np.prod(row_shape))
        flat = np.fromfile(
            self.path,
            dtype=member.dtype,
            count=int(np.prod(shape)),
            offset=member.offset + start * row_bytes,
        )
        return flat.reshape(shape)


def open_npz(path: Path) -> NpzReader:
    """Look at what a file holds. Raises ValueError for arrays of objects, which would have to be unpickled."""
    members = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            members[name] = _member(archive, entry, file)
    return NpzReader(path, members)


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: BinaryIO) -> Member:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read_header = np.lib.format.read_array_header_1_0
        shape, is_fortran, dtype = read_header(stream)
        header = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds objects, which are never unpickled")
    is_plain = entry.compress_type == zipfile.ZIP_STORED and not is_fortran and shape
    if not is_plain:
        return Member(dtype, shape, -1)
    behind = entry.header_offset + LOCAL_HEADER
    file.seek(behind - 4)
    lengths = np.frombuffer(file.read(4), "<u2")  # of the entry's name, and of what its writer added
    begin = behind + int(lengths.sum())
    return Member(dtype, shape, begin + header)


class NpzWriter:
    """Writes arrays that come some rows at a time: the bytes are those that `save_arrays` gives for the whole.

    Rows lie in files beside `path` until `close` puts them together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent)
        self._files: dict[str, BinaryIO] = {}
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The next rows of each array. Raises ValueError where they are of another dtype or shape than those before."""
        for name, array in arrays.items():
            kind = (array.dtype, array.shape[1:])
            if name not in self._files:
                path = Path(self._scratch.name) / name
                self._files[name] = path.open("w+b")
                self._kinds[name] = kind
                self._rows[name] = 0
            elif kind != self._kinds[name]:
                raise ValueError(f"'{name}' is {kind[0]} {kind[1]} per sample, and was {self._kinds[name]} before")
            self._files[name].write(np.ascontiguousarray(array).tobytes())
            self._rows[name] += len(array)

    def close(self, others: Mapping[str, np.ndarray]) -> None:
        """Write the file, with `others` beside what came in parts."""
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in sorted([*self._files, *others]):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    if name in others:
                        np.lib.format.write_array(entry, others[name], allow_pickle=False)
                    else:
                        self._copy(name, entry)  # type: ignore[arg-type]
        self._scratch.cleanup()

    def _copy(self, name: str, entry: BinaryIO) -> None:
        dtype, shape = self._kinds[name]
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._rows[name], *shape),
        }
        np.lib.format.write_array_header_1_0(entry, header)
        file = self._files[name]
        file.seek(0)
        shutil.copyfileobj(file, entry, 2**22)
        file.close()
