"""Files below one root, in a folder or in an object store, by keys such as `blobs/ab/abcd`.

All that can go wrong outside (a full disk, a network that fails, a server that refuses or never answers) becomes one
StoreError here, so that nothing above knows botocore. What is absent is an answer and no error.
"""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from upath import UPath

from edge_assets.errors import StoreError, telling_lines

CHUNK = 2**20
LARGEST_COPY = 5 * 2**30  # bytes that S3 copies in one request
TRIES = 3  # of a download that is cut off or arrives with another content
BATCH = 500  # files that are read from an object store at once
TEMPORARY = "tmp"  # files on their way to their name, and those on their way out
REMOVING = "removing-"  # names in TEMPORARY that go back to their place if whoever removed them was killed
REMOVABLE = re.compile(r"(blobs|recipes|pointers|corrupt)(/[^/]+)+")  # keys of what is ever removed
# A request is tried five times and waits 20 s for an answer: what never answers is given up after two minutes.
S3_CONFIG: Mapping[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 5},
}
RIGHTS = (
    "to read, the credentials need s3:GetObject below the prefix and s3:ListBucket on the bucket, without which "
    "what is absent reads as denied; to build, s3:PutObject and s3:DeleteObject too"
)


DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Denied(StoreError):
    """Who asks may not do this: a store that can only be read."""


class Damaged(StoreError):
    """What arrived over the network is not what was sent: to be asked for again."""


@dataclass(frozen=True)
class Stat:
    """One file below the root. `identity` changes where a file of the same size and time was put in its place."""

    key: str
    size: int
    modified: float  # seconds since the epoch
    identity: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Storage:
    """The files below `root`."""

    root: UPath

    @property
    def is_local(self) -> bool:
        return self.root.protocol in ("", "file")

    def path(self, key: str) -> UPath:
        """Where a key is, for messages."""
        return self.root / key

    def read(self, key: str) -> bytes | None:
        """A file's content, or None where there is none; asked for again if it arrives damaged. Raises StoreError."""
        for _ in range(TRIES - 1):
            try:
                return self._read_once(key)
            except Damaged:
                continue
        return self._read_once(key)

    def _read_once(self, key: str) -> bytes | None:
        with self._errors("read", key):
            try:
                return self._local(key).read_bytes() if self.is_local else self.root.fs.cat_file(self._remote(key))
            except FileNotFoundError:
                return None

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Contents by key, of those that are there; many at once from an object store. Raises StoreError."""
        if self.is_local:
            for key in keys:
                if (content := self.read(key)) is not None:
                    yield key, content
            return
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            with self._errors("read", batch[0]):
                paths = [self._remote(key) for key in batch]
                found = self.root.fs.cat_ranges(paths, starts=None, ends=None, on_error="return")  # `cat` asks twice
            for key, content in zip(batch, found, strict=True):
                known = isinstance(content, bytes | FileNotFoundError)
                text = content if known else self.read(key)  # once more, by itself
                if isinstance(text, bytes):
                    yield key, text

    def stat(self, key: str) -> Stat | None:
        """What is known of a file without reading it, or None where there is none. Raises StoreError."""
        with self._errors("read", key):
            try:
                if self.is_local:
                    return _stat(self._local(key), key)
                return _remote_stat(self.root.fs.info(self._remote(key)), key)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def fetch(self, key: str, local: Path) -> bool:
        """Copy a file to `local`. False where there is none. Raises StoreError."""
        with self._errors("read", key, str(local)):
            try:
                if self.is_local:
                    shutil.copyfile(self._local(key), local)
                else:
                    self.root.fs.get_file(self._remote(key), str(local))
            except FileNotFoundError:
                return False
        return True

    def commit(self, source: Path, key: str) -> None:
        """Make a file appear with the content of `source`, whole or not at all. Raises StoreError."""
        with self._errors("write", key):
            if self.is_local:
                final = self._local(key)
                with self._temporary_copy(source) as temporary:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(temporary, final)
            else:  # an object store's upload is atomic
                self.root.fs.put_file(str(source), self._remote(key))

    def create(self, source: Path, key: str) -> bool:
        """`commit`, unless the file is there already: of several that create it at once, one is told True.

        An object store decides this itself if it knows conditional writes, as S3 does. Raises StoreError.
        """
        with self._errors("write", key):
            if not self.is_local:
                try:
                    self.root.fs.put_file(str(source), self._remote(key), mode="create")
                except FileExistsError:
                    return False
                return True
            final = self._local(key)
            with self._temporary_copy(source) as temporary:
                final.parent.mkdir(parents=True, exist_ok=True)
                return _link(temporary, final)

    def touch(self, key: str) -> bool:
        """Say that a file is in use now. False where it is gone; who may not write changes nothing."""
        with self._errors("write", key):
            try:
                if self.is_local:
                    os.utime(self._local(key))
                else:  # an object's time is that of its last writing; the store copies it without sending it to us
                    path = self._remote(key)
                    in_parts = self.root.fs.info(path)["size"] > LARGEST_COPY
                    self.root.fs.cp_file(path, path, **({} if in_parts else {"MetadataDirective": "REPLACE"}))
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in DENIED and not isinstance(error, PermissionError):
                    raise
        return True

    def move(self, key: str, destination: str) -> None:
        """Move a file; its time is then now. Nothing happens where it is gone. Raises StoreError."""
        with self._errors("write", destination):
            try:
                if self.is_local:
                    target = self._local(destination)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self._local(key), target)
                    os.utime(target)
                else:
                    self.root.fs.cp_file(self._remote(key), self._remote(destination))
                    self.root.fs.rm_file(self._remote(key))
            except FileNotFoundError:
                return

    def remove(self, key: str) -> None:
        """Remove a file if it is there. Raises StoreError."""
        with self._errors("remove", key):
            try:
                if self.is_local:
                    self._local(key).unlink()
                else:
                    self.root.fs.rm_file(self._remote(key))
            except FileNotFoundError:
                return

    def remove_unused(self, key: str, since: float) -> bool:
        """Remove a file unless it was written or touched after `since`. Returns whether it was removed.

        A folder's file is set aside before it is looked at the last time, so that a process that touches it finds it
        either kept or gone, and knows. On an object store the last look is one request before the removal.
        """
        if not self.is_local:
            stat = self.stat(key)
            if stat is None or stat.modified > since:
                return False
            self.remove(key)
            return True
        with self._errors("remove", key):
            aside = self._local(f"{TEMPORARY}/{REMOVING}{key.replace('/', '~')}~{uuid.uuid4().hex}")
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._local(key).rename(aside)
                if aside.stat().st_mtime > since:
                    self._put_back(aside, key)
                    return False
                aside.unlink()
            except FileNotFoundError:
                return False  # another was faster
            return True

    def put_back_unfinished(self) -> None:
        """Return to its place what a killed process was about to remove from a folder."""
        if not self.is_local:
            return
        with self._errors("write", TEMPORARY):
            for aside in self._local(TEMPORARY).glob(f"{REMOVING}*"):
                key = aside.name.removeprefix(REMOVING).rpartition("~")[0].replace("~", "/")
                if REMOVABLE.fullmatch(key) and ".." not in key.split("/"):  # whoever may write here chose the name
                    self._put_back(aside, key)

    def _put_back(self, aside: Path, key: str) -> None:
        _link(aside, self._local(key))  # unless it was written anew meanwhile
        aside.unlink(missing_ok=True)

    def files(self, folder: str) -> Iterator[Stat]:
        """Every file anywhere below a folder, which need not exist. Raises StoreError."""
        with self._errors("list", folder):
            if self.is_local:
                yield from _walk(Path(self.root.path), folder)
                return
            base = self._remote("")
            for name, info in self.root.fs.find(self._remote(folder) + "/", detail=True).items():
                key = name.removeprefix(base)
                if (stat := _remote_stat(info, key)) is not None and key.startswith(f"{folder}/"):
                    yield stat

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted. Raises StoreError."""
        with self._errors("list", folder):
            try:
                if self.is_local:
                    entries = [entry.name for entry in os.scandir(self._local(folder)) if entry.is_file()]
                else:
                    listed = self.root.fs.ls(self._remote(folder), detail=True, refresh=True)
                    entries = [info["name"].rpartition("/")[2] for info in listed if info["type"] == "file"]
            except FileNotFoundError:
                return []
        return sorted(name for name in entries if name and not name.startswith("."))

    @contextmanager
    def _temporary_copy(self, source: Path) -> Iterator[Path]:
        """A whole copy on the store's disk. Its name is beside no final name, so that leftovers are found."""
        temporary = self._local(f"{TEMPORARY}/{uuid.uuid4().hex}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with source.open("rb") as reader, temporary.open("wb") as writer:
                shutil.copyfileobj(reader, writer, CHUNK)
                writer.flush()
                os.fsync(writer.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _local(self, key: str) -> Path:
        return Path(self.root.path) / key

    def _remote(self, key: str) -> str:
        return f"{self.root.path.rstrip('/')}/{key}"

    @contextmanager
    def _errors(self, verb: str, key: str, local: str | None = None) -> Iterator[None]:
        """Turns what goes wrong with a file into one clear message. `local` is the file that a copy is written to."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and (self.is_local or not _is_of_the_network(error)):
                raise
            kind = StoreError
            if isinstance(error, PermissionError) or getattr(error, "errno", None) in DENIED:
                kind = Denied
            elif not self.is_local and _is_damage(error):
                kind = Damaged
            raise kind(self._explained(verb, key, error, local)) from error

    def _explained(self, verb: str, key: str, error: Exception, local: str | None) -> str:
        code = error.errno if isinstance(error, OSError) else None
        where = self.path(key)
        if code in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left on the disk while writing {local or where}; nothing was half-written"
        if self.is_local:
            return f"cannot {verb} {where}: {getattr(error, 'strerror', None) or telling_lines(error)}"
        said = telling_lines(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, PermissionError):
            return f"cannot {verb} {where}: access denied ({said}); {RIGHTS}"
        if isinstance(error, FileNotFoundError):
            return f"cannot {verb} {where}: {said}; does the bucket exist?"
        if _is_damage(error):
            return f"cannot {verb} {where}: it was cut off or changed on the way ({said}); nothing was lost, run again"
        return (
            f"cannot {verb} {where}: after several tries, {said} ({type(error).__name__}); nothing was lost, run again"
        )


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """fsspec's options for S3 with our timeouts, and without a listing that hides what another process wrote."""
    config = {**S3_CONFIG, **options.get("config_kwargs", {})}
    return {"use_listings_cache": False, **options, "config_kwargs": config}


def open_storage(root: str, options: Mapping[str, Any]) -> Storage:
    """The files below a folder or an fsspec URL."""
    if "://" not in root:
        return Storage(UPath(Path(root).resolve()))
    if not root.startswith(("s3://", "s3a://")):
        return Storage(UPath(root, **options))
    path = UPath(root, **s3_options(options))
    path.fs.retries = 1  # botocore has tried again already: five times five tries are minutes
    return Storage(path)


def _link(temporary: Path, final: Path) -> bool:
    """Give a file a second name, unless that is taken. Unlike a rename, neither way replaces."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        try:  # a file system without hard links: exclusive, though not whole at once
            with final.open("xb") as writer:
                writer.write(temporary.read_bytes())
        except FileExistsError:
            return False
    return True


def _is_of_the_network(error: Exception) -> bool:
    from aiohttp import ClientError as AiohttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, AiohttpError | BotoCoreError | ClientError)


def _is_damage(error: Exception) -> bool:
    from aiohttp import ClientPayloadError
    from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ResponseStreamingError

    return isinstance(error, ClientPayloadError | FlexibleChecksumError | IncompleteReadError | ResponseStreamingError)


def _stat(path: Path, key: str) -> Stat:
    stat = path.stat()
    return Stat(key, stat.st_size, stat.st_mtime, (stat.st_mtime_ns, stat.st_ino))


def _remote_stat(info: Mapping[str, Any], key: str) -> Stat | None:
    if info.get("type") != "file":
        return None
    modified = info.get("LastModified")  # as S3 has it; what says no time is taken to be new
    seconds = modified.timestamp() if isinstance(modified, datetime) else time.time()
    return Stat(key, int(info["size"]), seconds)


def _walk(root: Path, folder: str) -> Iterator[Stat]:
    for where, _folders, names in os.walk(root / folder):
        for name in names:
            path = Path(where, name)
            try:
                yield _stat(path, path.relative_to(root).as_posix())
            except FileNotFoundError:
                continue  # removed since it was listed
