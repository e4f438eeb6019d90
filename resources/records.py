"""JSON records of a store, and its version: what the store's parts keep besides the bytes of files."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from edge_assets.core.types import checked_path
from edge_assets.errors import Malformed, StoreError, one_line
from resources.storage import Denied, Storage
from resources.workspaces import Workspaces

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1  # of the layout: raised when an older version would misread what a newer one writes
VERSION_FILE = "store.json"
DEEPEST = 64  # levels of nested JSON; no record of ours has a dozen
SUFFIX = ".json"


@dataclass(frozen=True)
class Records:
    """The JSON records of a store. Each access raises StoreError for a store that a later version wrote."""

    storage: Storage
    workspaces: Workspaces

    @cached_property
    def version(self) -> int | None:
        """The version that the store says it has, None where it says nothing, as before there were versions.

        Raises StoreError for one that is unknown here: it would be misread.
        """
        content = self.storage.read(VERSION_FILE)
        if content is None:
            return None
        where = self.storage.shown(VERSION_FILE)
        try:
            said = json.loads(content)["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StoreError(
                f"{where} does not say the version of this store: restore it or name another store"
            ) from None
        if said != VERSION:
            raise StoreError(
                f"the store {self.storage.shown()} has version {said!r}, and this edge-assets knows version {VERSION}: "
                f"use the edge-assets that wrote it, or name another store in EDGE_ASSETS_STORE"
            )
        return VERSION

    def check_version(self) -> None:
        """Raises StoreError for a store that a later version wrote."""
        _ = self.version

    def content(self, key: str) -> bytes | None:
        """A record as it is written, None where there is none."""
        self.check_version()
        return self.storage.read(key)

    def read(self, key: str) -> dict[str, Any] | None:
        """A record's data; None where there is none, or, with a warning that names it, where it is no JSON object."""
        content = self.content(key)
        if content is None:
            return None
        try:
            return parsed(content)
        except Malformed as error:
            self.is_absent(key, str(error))
            return None

    def write(self, key: str, data: Mapping[str, object]) -> None:
        """Set a record, atomically."""
        self._write_version()
        with self.workspaces.holding(data) as source:
            self.storage.commit(source, key)

    def create(self, key: str, data: Mapping[str, object]) -> bool:
        """Set a record unless there is one: of several that create it at once, one is told True."""
        if self.content(key) is not None:
            return False
        self._write_version()
        with self.workspaces.holding(data) as source:
            return self.storage.create(source, key)

    def is_absent(self, key: str, reason: str) -> None:
        """Warn that a record is taken as absent."""
        warn_once(f"{self.storage.shown(key)} is taken as absent, and written anew: {reason}")

    def _write_version(self) -> None:
        """Say the store's version with its first record. Raises StoreError for a version that is not known here."""
        if self.version is None:
            with self.workspaces.holding({"version": VERSION}) as source:
                self.storage.commit(source, VERSION_FILE)
            self.__dict__.pop("version")  # read anew from now on


@dataclass(frozen=True)
class Pointers:
    """Records by keys that say what they are of, such as assets/digits/cpu/onnx_model/..., each written anew at will.

    Raises Malformed for a key that leaves the store.
    """

    records: Records

    def set(self, key: str, data: Mapping[str, object]) -> None:
        """Set the pointer `key` to JSON data, atomically."""
        self.records.write(_pointer_key(key), data)

    def claim(self, key: str, data: Mapping[str, object]) -> bool:
        """Set the pointer `key` unless there is one: of several that claim it at once, one is told True."""
        return self.records.create(_pointer_key(key), data)

    def hint(self, key: str, data: Mapping[str, object]) -> None:
        """`set`, for what only saves work: a store that cannot be written is warned about and changes nothing."""
        try:
            self.set(key, data)
        except Denied as error:
            warn_once(f"{error}. It only saves work: going on without")

    def get(self, key: str) -> dict[str, Any] | None:
        """The data of pointer `key`, or None where it was never set or is no JSON object."""
        return self.records.read(_pointer_key(key))

    def get_as(self, key: str, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """Pointer `key` as what `parse` makes of its data, or None where it was never set.

        For pointers that nothing writes anew by itself: where `get` would take one of another shape as absent, this
        raises Malformed naming it.
        """
        name = _pointer_key(key)
        content = self.records.content(name)
        if content is None:
            return None
        try:
            return parse(parsed(content))
        except (Malformed, ValueError, KeyError, TypeError, AttributeError) as error:
            where = self.records.storage.shown(name)
            raise Malformed(
                f"{where} is not as this version writes it ({one_line(error)}): correct or remove it"
            ) from None

    def names(self, prefix: str) -> list[str]:
        """Names of the pointers directly below `prefix`."""
        self.records.check_version()
        names = self.records.storage.names(f"pointers/{checked_path(prefix)}")
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys of every pointer anywhere below `prefix`."""
        self.records.check_version()
        for stat in self.records.storage.files(f"pointers/{checked_path(prefix)}"):
            name = stat.key.rpartition("/")[2]
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield stat.key.removeprefix("pointers/").removesuffix(SUFFIX)

    def drop(self, key: str) -> None:
        """Remove pointer `key` if it is there."""
        self.records.check_version()
        self.records.storage.remove(_pointer_key(key))


def _pointer_key(key: str) -> str:
    return f"pointers/{checked_path(key)}{SUFFIX}"


def parsed(content: bytes) -> dict[str, Any]:
    """A record's JSON object. Raises Malformed."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"unreadable JSON ({one_line(error, 100)})") from None
    if not isinstance(data, dict):
        raise Malformed("its JSON is no object")
    level: list[object] = [data]
    for _ in range(DEEPEST):
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            raise Malformed("a number in it is none, or infinite")
        below: list[object] = []
        for value in level:
            below.extend(_children(value))
        if not below:
            return data
        level = below
    raise Malformed(f"its JSON is nested more than {DEEPEST} deep")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list):
        return value
    return ()


@lru_cache(maxsize=2**10)
def warn_once(message: str) -> None:
    """Plans and runs meet the same record again and again."""
    log.warning("%s", message)
