"""Files in an object store, through fsspec. What is absent is a FileNotFoundError."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.storage.files import Stat

if TYPE_CHECKING:
    from upath import UPath

LARGEST_COPY = 5 * 2**30  # bytes that S3 copies in one request
BATCH = 500  # files that are read at once
# A request is tried five times and waits 20 s for an answer: what never answers is given up after two minutes.
S3_CONFIG: Mapping[str, object] = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 5},
}


@dataclass(frozen=True)
class ObjectStore:
    """The objects below a prefix. An upload is atomic: an object is there whole or not at all."""

    root: "UPath"

    def read(self, key: str) -> bytes:
        content: bytes = self._system.cat_file(self._path(key))
        return content

    def read_batch(self, keys: Sequence[str]) -> list[bytes | Exception]:
        """The contents of many objects at once; of what could not be read, the error."""
        paths = [self._path(key) for key in keys]
        found: list[bytes | Exception] = self._system.cat_ranges(  # `cat` asks twice
            paths,
            starts=None,
            ends=None,
            on_error="return",
        )
        return found

    def stat(self, key: str) -> Stat | None:
        return _stat(self._system.info(self._path(key)), key)

    def fetch(self, key: str, local: Path) -> None:
        self._system.get_file(self._path(key), str(local))

    def commit(self, source: Path, key: str) -> None:
        self._system.put_file(str(source), self._path(key))

    def create(self, source: Path, key: str) -> bool:
        """False where the object is there already: the store decides it, if it knows conditional writes as S3 does."""
        try:
            self._system.put_file(str(source), self._path(key), mode="create")
        except FileExistsError:
            return False
        return True

    def touch(self, key: str) -> None:
        """An object's time is that of its last writing; the store copies it without sending it to us."""
        path = self._path(key)
        options = {"MetadataDirective": "REPLACE"}
        if self._system.info(path)["size"] > LARGEST_COPY:
            options = {}  # copied in parts
        self._system.cp_file(path, path, **options)

    def move(self, key: str, destination: str) -> None:
        self._system.cp_file(self._path(key), self._path(destination))
        self._system.rm_file(self._path(key))

    def remove(self, key: str) -> None:
        self._system.rm_file(self._path(key))

    def walk(self, folder: str) -> Iterator[Stat]:
        """Every object anywhere below a folder, which need not exist."""
        base = self._path("")
        for name, info in self._system.find(self._path(folder) + "/", detail=True).items():
            stat = _stat(info, name.removeprefix(base))
            if stat is not None and stat.key.startswith(f"{folder}/"):
                yield stat

    def names(self, folder: str) -> list[str]:
        """Names of the objects directly in a folder."""
        listed = self._system.ls(self._path(folder), detail=True, refresh=True)
        return [info["name"].rpartition("/")[2] for info in listed if info["type"] == "file"]

    @property
    def _system(self) -> Any:  # fsspec has no types
        return self.root.fs

    def _path(self, key: str) -> str:
        return f"{self.root.path.rstrip('/')}/{key}"


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """fsspec's options for S3 with our timeouts, and without a listing that hides what another process wrote."""
    config = {**S3_CONFIG, **options.get("config_kwargs", {})}
    return {"use_listings_cache": False, **options, "config_kwargs": config}


def _stat(info: Mapping[str, Any], key: str) -> Stat | None:
    if info.get("type") != "file":
        return None
    modified = info.get("LastModified")  # as S3 has it; what says no time is taken to be new
    seconds = modified.timestamp() if isinstance(modified, datetime) else time.time()
    return Stat(key=key, size=int(info["size"]), modified=seconds)
