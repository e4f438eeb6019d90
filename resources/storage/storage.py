"""`Storage`: what the store does with files, whether they lie in a folder or in an object store."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.addresses import without_credentials
from resources.storage.errors import Damaged, as_store_error, is_denied
from resources.storage.files import Stat
from resources.storage.folder import TEMPORARY, Folder
from resources.storage.object_store import BATCH, ObjectStore, s3_options

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["TEMPORARY", "TRIES", "Storage", "open_storage"]
TRIES = 3  # of a download that is cut off or arrives with another content


@dataclass(frozen=True)
class Storage:
    """The files below `root`. Everything raises StoreError for what goes wrong outside."""

    root: "UPath"
    backend: Folder | ObjectStore

    @property
    def is_local(self) -> bool:
        return isinstance(self.backend, Folder)

    def path(self, key: str) -> "UPath":
        """Where a key is."""
        return self.root / key

    def shown(self, key: str = "") -> str:
        """Where a key, or the root, is, for messages: without the credentials that an address may hold."""
        place = self.root
        if key:
            place = self.path(key)
        return without_credentials(str(place))

    def errors(self, verb: str, key: str, copy: str | None = None) -> AbstractContextManager[None]:
        """What goes wrong inside of the block, as a StoreError about the file at `key`."""
        return as_store_error(verb, self.shown(key), self.is_local, copy)

    def read(self, key: str) -> bytes | None:
        """A file's content, or None where there is none; asked for again if it arrives damaged."""
        for _ in range(TRIES - 1):
            try:
                return _read_once(self, key)
            except Damaged:
                continue
        return _read_once(self, key)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Contents by key, of those that are there; many at once from an object store."""
        if isinstance(self.backend, ObjectStore):
            for start in range(0, len(keys), BATCH):
                yield from _read_batch(self, self.backend, keys[start : start + BATCH])
            return
        for key in keys:
            content = self.read(key)
            if content is not None:
                yield key, content

    def stat(self, key: str) -> Stat | None:
        """What is known of a file without reading it, or None where there is none."""
        with self.errors("read", key):
            try:
                return self.backend.stat(key)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def fetch(self, key: str, local: Path) -> bool:
        """Copy a file to `local`. False where there is none."""
        with self.errors("read", key, str(local)):
            try:
                self.backend.fetch(key, local)
            except FileNotFoundError:
                return False
        return True

    def commit(self, source: Path, key: str) -> None:
        """Make a file appear with the content of `source`, whole or not at all."""
        with self.errors("write", key):
            self.backend.commit(source, key)

    def create(self, source: Path, key: str) -> bool:
        """`commit`, unless the file is there already: of several that create it at once, one is told True."""
        with self.errors("write", key):
            return self.backend.create(source, key)

    def touch(self, key: str) -> bool:
        """Say that a file is in use now. False where it is gone; who may not write changes nothing."""
        with self.errors("write", key):
            try:
                self.backend.touch(key)
            except FileNotFoundError:
                return False
            except OSError as error:
                if not is_denied(error):
                    raise
        return True

    def move(self, key: str, destination: str) -> None:
        """Move a file; its time is then now. Nothing happens where it is gone."""
        with self.errors("write", destination):
            try:
                self.backend.move(key, destination)
            except FileNotFoundError:
                return

    def remove(self, key: str) -> None:
        """Remove a file if it is there."""
        with self.errors("remove", key):
            try:
                self.backend.remove(key)
            except FileNotFoundError:
                return

    def files(self, folder: str) -> Iterator[Stat]:
        """Every file anywhere below a folder, which need not exist."""
        with self.errors("list", folder):
            yield from self.backend.walk(folder)

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted."""
        with self.errors("list", folder):
            try:
                found = self.backend.names(folder)
            except FileNotFoundError:
                return []
        return sorted(name for name in found if name and not name.startswith("."))


def open_storage(root: str, options: Mapping[str, Any]) -> Storage:
    """The files below a folder or an fsspec URL."""
    from upath import UPath

    if "://" not in root:
        return _in_folder(UPath(Path(root).resolve()))
    if root.startswith(("s3://", "s3a://")):
        path = UPath(root, **s3_options(options))
        path.fs.retries = 1  # botocore has tried again already: five times five tries are minutes
        return Storage(path, ObjectStore(path))
    path = UPath(root, **options)
    if path.protocol in ("", "file"):
        return _in_folder(path)
    return Storage(path, ObjectStore(path))


def _in_folder(path: "UPath") -> Storage:
    return Storage(path, Folder(Path(path.path)))


def _read_once(storage: Storage, key: str) -> bytes | None:
    with storage.errors("read", key):
        try:
            return storage.backend.read(key)
        except FileNotFoundError:
            return None


def _read_batch(
    storage: Storage,
    objects: ObjectStore,
    keys: Sequence[str],
) -> Iterator[tuple[str, bytes]]:
    with storage.errors("read", keys[0]):
        found = objects.read_batch(keys)
    for key, answer in zip(keys, found, strict=True):
        if isinstance(answer, FileNotFoundError):
            continue
        content = answer if isinstance(answer, bytes) else storage.read(key)  # once more, by itself
        if content is not None:
            yield key, content
