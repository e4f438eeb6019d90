"""Checkpoints: where training leaves them, and the immutable partitions they become.

A partition is named by content, `<file stem>-<first 8 of sha256>`: the same file dropped twice is one
partition, and a file overwritten in place is a new one. Registering copies the bytes into the store, so an
old partition can be rebuilt after training has cleaned up.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from upath import UPath

from edge_assets.core.checkpoint import SUFFIXES, check_complete
from edge_assets.core.errors import CheckpointError, UnknownName
from edge_assets.core.types import Artifact, File
from resources.store import ArtifactStore


@dataclass(frozen=True)
class CheckpointFile:
    """A file as listed in a source, with what tells whether it is still being written."""

    url: str
    size: int
    modified: float

    @property
    def stamp(self) -> str:
        """Changes whenever the file was written to."""
        return f"{self.size}-{self.modified}"


@dataclass(frozen=True)
class Checkpoint:
    """One registered checkpoint of one model."""

    model: str
    key: str  # the partition
    file: File
    source: str
    registered: float  # seconds since the epoch

    @property
    def artifact(self) -> Artifact:
        return Artifact((self.file,))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "file": File(**data["file"])})


def list_files(source: str) -> list[CheckpointFile]:
    """Checkpoint files in a folder or an fsspec URL, in natural order of their names. Empty if absent."""
    folder = UPath(source, use_listings_cache=False) if "://" in source else UPath(source)
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")]
    return [CheckpointFile(str(path), *_stat(path)) for path in sorted(paths, key=lambda p: _natural(p.name))]


def register(store: ArtifactStore, model: str, url: str) -> Checkpoint:
    """Check a file and copy it into the store. Registering the same content again returns the first.

    Raises CheckpointError for a file that is missing, truncated or of an unsupported kind.
    """
    with store.workspace() as work:
        path = _local(url, work)
        check_complete(path)
        name = UPath(url).name
        file = store.put(path, name)
    for known in registered(store, model):
        if known.file.sha256 == file.sha256:
            return known
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(name).stem)
    checkpoint = Checkpoint(model, f"{stem}-{file.sha256[:8]}", file, url, time.time())
    store.point(f"checkpoints/{model}/{checkpoint.key}", asdict(checkpoint))
    return checkpoint


def registered(store: ArtifactStore, model: str) -> list[Checkpoint]:
    """Every registered checkpoint of a model, oldest first."""
    found = [lookup(store, model, key) for key in store.pointers(f"checkpoints/{model}")]
    return sorted(found, key=lambda checkpoint: checkpoint.registered)


def lookup(store: ArtifactStore, model: str, key: str) -> Checkpoint:
    """The checkpoint of a partition key. Raises UnknownName with the nearest keys."""
    data = store.pointer(f"checkpoints/{model}/{key}")
    if data is None:
        raise UnknownName(f"checkpoint of {model}", key, store.pointers(f"checkpoints/{model}"))
    return Checkpoint.from_dict(data)


def discover(store: ArtifactStore, model: str, source: str) -> Iterator[Checkpoint]:
    """Register every complete file of a source; those still incomplete are left for later.

    Files that did not change since they were registered are not read again.
    """
    known = store.pointer(f"sources/{model}") or {}
    stamps = {}
    for file in list_files(source):
        if (entry := known.get(file.url)) and entry["stamp"] == file.stamp:
            checkpoint = lookup(store, model, entry["key"])
        else:
            try:
                checkpoint = register(store, model, file.url)
            except CheckpointError:
                continue  # named explicitly, it fails loudly; found by listing, it may still be being written
        stamps[file.url] = {"stamp": file.stamp, "key": checkpoint.key}
        yield checkpoint
    if stamps != known:
        store.point(f"sources/{model}", stamps)


def fetch(store: ArtifactStore, checkpoint: Checkpoint) -> Path:
    """The checkpoint's verified bytes: from the store, else again from where training left them.

    Raises StoreError if the store's copy is damaged and the source no longer has the same content.
    """
    name = checkpoint.file.path
    if UPath(checkpoint.source).is_file() and not store.holds(checkpoint.file):
        with store.workspace() as work:
            store.put(_local(checkpoint.source, work), name)
    return store.checkout(checkpoint.artifact)


def _local(url: str, work: Path) -> Path:
    path = UPath(url)
    if path.protocol in ("", "file"):
        return Path(path.path)
    copy = work / path.name
    try:
        path.fs.get_file(path.path, str(copy))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {url} does not exist") from None
    return copy


def _stat(path: UPath) -> tuple[int, float]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
