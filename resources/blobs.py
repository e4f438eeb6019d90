"""The contents of files, named by their sha256."""

import logging
import os
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edge_assets.core.types import File, checked_sha256
from edge_assets.errors import StoreError
from edge_assets.hashing import sha256_of
from resources.records import Records
from resources.storage import TRIES, Damaged, Stat, Storage

log = logging.getLogger(__name__)
FRESH = 12 * 3600  # seconds for which what was used is not marked as used again; half of the collector's grace period


@dataclass(frozen=True)
class Blobs:
    """The blobs of a store. With `read_only`, one that is found corrupted stays where it is."""

    records: Records
    read_only: bool

    @property
    def storage(self) -> Storage:
        return self.records.storage

    def put(self, path: Path, name: str) -> File:
        """Keep one file's content. Returns its entry for an artifact.

        What is there already is marked as used, so that the collector leaves it for what will soon name it.
        """
        file = File(path=name, sha256=sha256_of(path), size=path.stat().st_size)
        self.records.check_version()
        key = blob_key(file.sha256)
        if self.is_intact(file) and touch_if_old(self.storage, key):
            return file
        self.storage.commit(path, key)
        return file

    def holds(self, file: File) -> bool:
        """Whether the file's content is in the store and intact."""
        self.records.check_version()
        return self.is_intact(file)

    def is_intact(self, file: File) -> bool:
        """Whether the blob is there and right. A corrupted one is named in the log, and set aside.

        It is judged by its hash in a folder, by its size on a remote store, whose content is hashed when it is fetched.
        """
        key = blob_key(file.sha256)
        stat = self.storage.stat(key)
        if stat is None:
            return False
        try:
            if self._is_right(stat, file):
                return True
        except FileNotFoundError:  # a collector removed it since it was looked at
            return False
        blob = self.storage.shown(key)
        log.warning("corrupted blob %s (%s): its content does not match its name; it will be rebuilt", blob, file.path)
        self._set_aside(file)
        return False

    def fetch(self, file: File, local: Path) -> None:
        """Put a verified copy at `local`. Raises StoreError if the blob is absent or corrupted."""
        blob = self.storage.shown(blob_key(file.sha256))
        found = None
        with self.records.workspaces.private() as work:
            copy = work / "blob"
            for attempt in range(1, TRIES + 1):
                found = self._download(file, copy, attempt)
                if found == file.sha256:
                    local.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(copy, local)
                    return
        if found is None:
            raise StoreError(f"{blob} ({file.path}) is missing from the store; run again to rebuild it")
        self._set_aside(file)
        what = "Left where it is" if self.read_only else "It was moved to corrupt/"
        raise StoreError(
            f"corrupted blob {blob} ({file.path}): its content does not match its name, {TRIES} times. {what}; "
            f"run again to rebuild it"
        )

    def _download(self, file: File, copy: Path, attempt: int) -> str | None:
        """The hash of what arrived in `copy`, None if the blob is absent. A failure counts on the last attempt."""
        try:
            if not self.storage.fetch(blob_key(file.sha256), copy):
                return None
        except Damaged:
            if attempt == TRIES:
                raise
            return ""
        return sha256_of(copy)

    def _is_right(self, stat: Stat, file: File) -> bool:
        if stat.size != file.size:
            return False
        if not self.storage.is_local:
            return True
        return _hash_at(self.storage.path(stat.key).path, stat.size, stat.identity) == file.sha256

    def _set_aside(self, file: File) -> None:
        """Move a blob to `corrupt/`: whoever finds it wrong may have a bad disk, and it may be the only copy."""
        if not self.read_only:
            self.storage.move(blob_key(file.sha256), f"corrupt/{file.sha256}-{uuid.uuid4().hex[:8]}")


def blob_key(sha256: str) -> str:
    """Where in a store the content of that hash is. Raises Malformed for what is no hash."""
    return f"blobs/{checked_sha256(sha256)[:2]}/{sha256}"


def touch_if_old(storage: Storage, key: str) -> bool:
    """Mark a file as used, unless that was done a while ago. False where it is gone.

    On an object store a collector may have looked at it before, and remove it after: so it is looked for once more.
    """
    stat = storage.stat(key)
    if stat is None:
        return False
    if stat.modified > time.time() - FRESH:
        return True
    if not storage.touch(key):
        return False
    return storage.is_local or storage.stat(key) is not None


@lru_cache(maxsize=2**16)
def _hash_at(path: str, _size: int, _identity: tuple[int, int]) -> str:
    """sha256 of a file as it was found: a plan of many cells asks for the same blobs again and again."""
    return sha256_of(Path(path))
