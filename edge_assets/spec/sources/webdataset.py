"""Shards of the WebDataset format: tar files, in which the files of one sample share a name and follow each other."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from edge_assets.errors import DataError, one_line
from edge_assets.spec.project import project_path
from edge_assets.spec.sources.pictures import SUFFIXES, Transform, channels_of, picture_of


@dataclass(frozen=True)
class Shards:
    """Samples with a field per suffix, called as `fields` says.

    What becomes of a file: a picture by its suffix; `.cls` and `.id` a whole number; `.txt` a text; `.npy` an array;
    `.json` a number, a text or a list of numbers.
    """

    files: tuple[Path, ...]
    fields: tuple[tuple[str, str], ...]  # suffix and name of the field
    channels: int | None
    transform: Transform | None

    def __iter__(self) -> Iterator[dict[str, object]]:
        for shard in self.files:
            yield from self._of_shard(shard)

    def _of_shard(self, shard: Path) -> Iterator[dict[str, object]]:
        sample: dict[str, object] = {}
        current = None
        try:
            with tarfile.open(shard) as archive:
                for entry in archive:
                    if not entry.isfile():
                        continue
                    key, suffix = split(entry.name)
                    if key != current and sample:
                        yield sample
                        sample = {}
                    current = key
                    for wanted, name in self.fields:
                        if suffix == wanted:
                            kind = suffix.rpartition(".")[2]
                            sample[name] = self._decoded(archive, entry, kind, f"{shard}: {entry.name}")
        except tarfile.TarError as error:
            raise DataError(f"{shard} is no whole tar file: {one_line(error)}") from None
        if sample:
            yield sample

    def _decoded(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, kind: str, where: str) -> object:
        stream = archive.extractfile(entry)
        assert stream is not None
        content = stream.read()
        try:
            if f".{kind}" in SUFFIXES:
                return picture_of(content, self.channels, self.transform, where)
            if kind in ("cls", "id"):
                return np.asarray(int(content), np.int64)
            if kind == "npy":
                return np.load(BytesIO(content), allow_pickle=False)
            if kind == "json":
                return json.loads(content)
            return content.decode()
        except ValueError as error:
            raise DataError(f"{where} cannot be read: {one_line(error)}") from None


def webdataset(
    *shards: str,
    fields: tuple[tuple[str, str], ...] = (("jpg", "image"), ("cls", "label")),
    channels: int | None = None,
    transform: Transform | None = None,
) -> Shards:
    """Samples of tar files, in the order of their names; `shards` are paths or patterns relative to the project.

    `fields` pairs a file's suffix, which is all after the first dot of its name, with the field that it becomes; other
    files are passed by. `channels` and `transform` are as in `image_folder`. Raises DataError.
    """
    given = channels_of(channels, transform)
    found = []
    for pattern in shards:
        place = project_path(pattern)
        matching = sorted(place.parent.glob(place.name))
        if not matching:
            raise DataError(f"{pattern}: no such shards")
        found.extend(matching)
    return Shards(tuple(found), fields, given, transform)


def split(name: str) -> tuple[str, str]:
    """A file's name in the tar as the sample's key and the suffix, which begins at the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}/{stem}", suffix.lower()
