"""Columns of Parquet or Arrow files, read some rows at a time. Needs pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.errors import DataError, MissingTool, one_line
from edge_assets.spec.project import project_path
from edge_assets.spec.sources.pictures import Transform, channels_of, picture_of

if TYPE_CHECKING:
    import pyarrow.dataset

ROWS = 64  # that are read at a time


@dataclass(frozen=True)
class Table:
    """Samples with a field per column. A column of pictures, bytes or `{"bytes": ...}`, gives uint8 arrays."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    pictures: tuple[str, ...]
    channels: int | None
    transform: Transform | None

    def __iter__(self) -> Iterator[dict[str, object]]:
        row = 0
        for batch in _dataset(self.files).to_batches(columns=list(self.columns) or None, batch_size=ROWS):
            for sample in batch.to_pylist():
                for name in self.pictures:
                    sample[name] = self._picture(sample[name], f"row {row}, column '{name}'")
                yield sample
                row += 1

    def _picture(self, cell: object, where: str) -> np.ndarray:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise DataError(f"{where} holds no bytes of a picture, but {type(content).__name__}")
        return picture_of(content, self.channels, self.transform, where)


def parquet(
    *files: str,
    columns: tuple[str, ...] = (),
    pictures: tuple[str, ...] = (),
    channels: int | None = None,
    transform: Transform | None = None,
) -> Table:
    """Rows of Parquet or Arrow (Feather) files, in the order of `files`; paths relative to the project.

    `columns` are read, all by default; of these, `pictures` hold files of pictures, with `channels` and `transform` as
    in `image_folder`. Lists of numbers become arrays. Raises DataError.
    """
    paths = tuple(project_path(file) for file in files)
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    if not paths:
        raise DataError("parquet: name at least one file")
    names = _dataset(paths).schema.names
    missing = [name for name in (*columns, *pictures) if name not in names]
    if missing:
        raise DataError(f"{files[0]} has no columns {missing}, only {names}")
    return Table(paths, columns, pictures, channels_of(channels, transform), transform)


def _dataset(files: tuple[Path, ...]) -> "pyarrow.dataset.Dataset":
    try:
        from pyarrow import ArrowInvalid, dataset
    except ImportError:
        raise MissingTool("pyarrow", "tables") from None
    kind = "parquet" if files[0].suffix == ".parquet" else "ipc"
    try:
        return dataset.dataset([str(path) for path in files], format=kind)
    except ArrowInvalid as error:
        raise DataError(f"{files[0]} is no {kind} file: {one_line(error)}") from None
