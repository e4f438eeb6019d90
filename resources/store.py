"""Content-addressed artifact store with memoized recipes, on a folder or on S3 through one code path.

Layout below the root:

    store.json               the version of this layout
    blobs/ab/abcd...         file contents, named by their sha256
    recipes/ab/abcd....json  what a recipe made: its artifact's file hashes and facts
    pointers/...json         which result a (model, family, artifact, checkpoint, target) has now
    corrupt/...              blobs whose content is not what their name says, set aside
    tmp/...                  files on their way to their name

A result becomes visible only by its recipe file, which is written last and atomically: a process killed
at any point leaves nothing half-visible, and what was finished is found again by the next run.

Whoever may write the store decides what its readers get, but not where: paths stay inside, a memo counts only for the
recipe that hashes to its name, and what has another shape is absent. Nothing is removed here but pointers;
`resources.collection` frees what nothing needs, and goes by the times that `put` and `recall` set anew.
"""

import errno
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from upath import UPath

from edge_assets.core.types import Artifact, File, Recipe, Result, checked_path, checked_sha256
from edge_assets.errors import Malformed, Refused, StoreError, telling_lines
from edge_assets.hashing import canonical_json, digest, sha256_of
from resources import folders, trust
from resources.storage import TRIES, Damaged, Denied, Storage, open_storage

log = logging.getLogger(__name__)
Build = Callable[[Path], Mapping[str, Any]]  # writes files into the folder, returns facts; may raise Refused
T = TypeVar("T")

VERSION = 1  # of the layout: raised when an older version would misread what a newer one writes
VERSION_FILE = "store.json"
WORK = "work-"  # how names of private folders in the cache begin
STAGING = ".export-"  # and of those beside an exported folder
FRESH = 12 * 3600  # seconds for which what was used is not marked as used again; half of the collector's grace period
DEEPEST = 64  # levels of nested JSON; no record of ours has a dozen
OWN_MEMOS: set[str] = set()  # digests of what this process wrote: it trusts itself


class NotBuilt(Exception):
    """A read-only store was asked for something that it does not hold."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.step)
        self.recipe = recipe


@dataclass(frozen=True)
class ArtifactStore:
    """The store at `storage`; `cache` is a local folder for checked-out files and work in progress."""

    storage: Storage
    cache: Path
    read_only: bool = False  # for planning: a missing result raises NotBuilt instead of being built
    verifier: trust.Verifier | None = None  # takes only memos that it verifies; None: takes all

    @property
    def root(self) -> UPath:
        return self.storage.root

    @property
    def is_local(self) -> bool:
        return self.storage.is_local

    def planning(self) -> "ArtifactStore":
        """The same store, read-only: running a step on it tells whether the step has anything to do."""
        return replace(self, read_only=True)

    @cached_property
    def version(self) -> int | None:
        """The version that the store says it has, None where it says nothing, as before there were versions.

        Raises StoreError for one that is unknown here: it would be misread.
        """
        content = self.storage.read(VERSION_FILE)
        if content is None:
            return None
        where = self.storage.path(VERSION_FILE)
        try:
            said = json.loads(content)["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StoreError(
                f"{where} does not say the version of this store: restore it or name another store"
            ) from None
        if said != VERSION:
            raise StoreError(
                f"the store {self.root} has version {said!r}, and this edge-assets knows version {VERSION}: "
                f"use the edge-assets that wrote it, or name another store in EDGE_ASSETS_STORE"
            )
        return VERSION

    # --- results ---------------------------------------------------------------------------------------

    def remember(self, recipe: Recipe, build: Build) -> Result:
        """The result of `recipe`: from the store if it is there and intact, else built and kept.

        Raises NotBuilt on a read-only store, StoreError if the disk is full, and whatever `build` raises,
        except Refused, which is a result too.
        """
        if (result := self.recall(recipe)) is not None:
            return result
        if self.read_only:
            raise NotBuilt(recipe)
        with self._alone(recipe):
            return self.recall(recipe) or self._build(recipe, build)  # who waited finds it made

    def _build(self, recipe: Recipe, build: Build) -> Result:
        started = time.perf_counter()
        with self.workspace() as folder:
            artifact, facts, refused = None, {}, None
            try:
                with _disk_errors(str(folder)):
                    facts = dict(build(folder))
                artifact = self._keep(folder)
            except Refused as reason:
                refused = str(reason)
            result = Result(recipe, artifact, facts, refused, round(time.perf_counter() - started, 3))
            memo = result.to_dict()
            self._write_json(_recipe_key(recipe.sha256), memo)
            OWN_MEMOS.add(digest(memo))
        return result

    def recall(self, recipe: Recipe) -> Result | None:
        """What `recipe` made before, or None. A corrupted blob is named, set aside and not returned.

        A memo that has another shape, is another recipe's or is not signed by a trusted key where that is asked for is
        absent too, with a warning that names it. What is recalled is marked as used.
        """
        key = _recipe_key(recipe.sha256)
        memo = self._read_json(key)
        if memo is None:
            return None
        try:
            result = Result.from_dict(memo, reused=True)
        except Malformed as error:
            self._absent(key, str(error))
            return None
        if _plain(result.recipe) != _plain(recipe):
            self._absent(key, "it is the memo of another recipe than its name says")
            return None
        if not self._trusted(memo):
            _warn_once(
                f"{trust.VARIABLE} is set, and results in {self.root} are not signed by a trusted key: "
                f"they are taken as absent, and built here"
            )
            return None
        intact = all(self._intact(file) for file in result.artifact.files) if result.artifact else True
        if not intact or not self._mark_used(key):
            return None
        return result

    def vouched(self, result: Result) -> Result | None:
        """What may be believed of a result that came in another way than `recall`, such as in a pointer.

        It is taken as it is where all memos are, else as its own memo says; None where no memo of it is trusted.
        What says that something was refused or failed only takes away, and needs no memo.
        """
        if self.verifier is None or result.refused is not None:
            return result
        recalled = self.recall(result.recipe)
        if recalled is None or "failed" not in result.facts:
            return recalled
        return replace(recalled, facts={**recalled.facts, "failed": result.facts["failed"]})

    def _trusted(self, memo: dict[str, Any]) -> bool:
        if self.verifier is None or digest(memo) in OWN_MEMOS:
            return True
        return self.verifier.verify(trust.signed_content(memo), memo.get(trust.SIGNATURE))

    def _absent(self, key: str, reason: str) -> None:
        _warn_once(f"{self.storage.path(key)} is taken as absent, and written anew: {reason}")

    def _mark_used(self, key: str) -> bool:
        """Set a memo's time, by which it is collected, to now. False if it was collected this very moment."""
        if self.read_only:
            return True
        if not self.is_local:  # once in a while: each time would be two requests for each memo
            return _touch_once(self.storage, key, int(time.time() / FRESH))
        return _touch_if_old(self.storage, key)

    # --- files of results ------------------------------------------------------------------------------

    def checkout(self, artifact: Artifact) -> Path:
        """Local path of the artifact's files, verified: the file itself if there is one, else their folder.

        Raises StoreError, naming the blob, if its content is not what its name says; the blob is set aside,
        so that the next run builds it again.
        """
        self._check_version()
        tree = self.cache / "trees" / artifact.sha256
        with _disk_errors(str(tree), every=True):
            try:
                os.utime(tree)  # in use: the collector goes by it
            except FileNotFoundError:
                pass  # not checked out yet
            for file in artifact.files:
                if not _is_right(tree / file.path, file):
                    self._fetch(file, tree / file.path)
            for file in artifact.files:
                if not (tree / file.path).is_file():  # collected while the others were looked at
                    self._fetch(file, tree / file.path)
        return tree / artifact.files[0].path if len(artifact.files) == 1 else tree

    def export(self, artifact: Artifact, folder: Path) -> None:
        """Put a copy of the artifact at `folder`, whatever is there now.

        Who reads `folder` meanwhile finds the former content or the new one, whole (see `folders.replace`). A folder
        that holds just this already is left alone. Raises StoreError.
        """
        folder = folder.absolute()
        with self._exclusive(f"export-{digest(str(folder))}"), _disk_errors(str(folder), every=True):
            if _holds_exactly(folder, artifact):
                return
            source = self.checkout(artifact)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folders.sweep(folder.parent, STAGING)
            with folders.private_folder(folder.parent, STAGING) as staging:  # renames do not cross file systems
                copy = staging / "copy"
                for file in artifact.files:
                    (copy / file.path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source if source.is_file() else source / file.path, copy / file.path)
                folders.replace(copy, folder)

    # --- pointers --------------------------------------------------------------------------------------

    def point(self, key: str, data: Mapping[str, Any]) -> None:
        """Set the pointer `key` (a path such as digits/cpu/onnx_model/...) to JSON data, atomically."""
        self._write_json(_pointer_key(key), data)

    def claim(self, key: str, data: Mapping[str, Any]) -> bool:
        """Set the pointer `key` unless there is one: of several that claim it at once, one is told True."""
        name = _pointer_key(key)
        if self._read(name) is not None:
            return False
        self._write_version()
        with self._as_file(data) as source:
            return self.storage.create(source, name)

    def hint(self, key: str, data: Mapping[str, Any]) -> None:
        """`point`, for what only saves work: a store that cannot be written is warned about and changes nothing."""
        try:
            self.point(key, data)
        except Denied as error:
            _warn_once(f"{error}. It only saves work: going on without")

    def pointer(self, key: str) -> dict[str, Any] | None:
        """The data of pointer `key`, or None where it was never set or is no JSON object."""
        return self._read_json(_pointer_key(key))

    def typed_pointer(self, key: str, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """Pointer `key` as what `parse` makes of its data, or None where it was never set.

        For pointers that nothing writes anew by itself: where `pointer` would take one of another shape as absent, this
        raises StoreError naming it.
        """
        name = _pointer_key(key)
        content = self._read(name)
        if content is None:
            return None
        where = self.storage.path(name)
        try:
            return parse(parsed(content))
        except (Malformed, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is not as this version writes it ({error}): correct or remove it") from None

    def pointers(self, prefix: str) -> list[str]:
        """Names of the pointers directly below `prefix`."""
        self._check_version()
        names = self.storage.names(f"pointers/{checked_path(prefix)}")
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def all_pointers(self, prefix: str) -> Iterator[str]:
        """Keys of every pointer anywhere below `prefix`."""
        self._check_version()
        for stat in self.storage.files(f"pointers/{checked_path(prefix)}"):
            if stat.key.endswith(".json") and not stat.key.rpartition("/")[2].startswith("."):
                yield stat.key.removeprefix("pointers/").removesuffix(".json")

    def drop_pointer(self, key: str) -> None:
        """Remove pointer `key` if it is there."""
        self._check_version()
        self.storage.remove(_pointer_key(key))

    # --- files -----------------------------------------------------------------------------------------

    def put(self, path: Path, name: str) -> File:
        """Keep one file's content. Returns its entry for an artifact.

        What is there already is marked as used, so that the collector leaves it for what will soon name it.
        """
        file = File(name, sha256_of(path), path.stat().st_size)
        self._check_version()
        key = _blob_key(file.sha256)
        if self._intact(file) and _touch_if_old(self.storage, key):
            return file
        self.storage.commit(path, key)
        return file

    def holds(self, file: File) -> bool:
        """Whether the file's content is in the store and intact."""
        self._check_version()
        return self._intact(file)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder, gone afterwards.

        The kernel knows whether its process lives, so that a killed one's can be swept.
        """
        parent = self.cache / "work"
        with ExitStack() as stack:
            with _disk_errors(str(parent)):
                folder = stack.enter_context(folders.private_folder(parent, WORK))
            yield folder

    @contextmanager
    def kept(self, recipe: Recipe) -> Iterator[Path]:
        """A folder of this recipe's own for work that resumes: it outlives a killed or failed build, and no other."""
        folder = self.cache / "kept" / recipe.sha256
        with _disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left in the work folder."""
        folders.sweep(self.cache / "work", WORK)

    @contextmanager
    def _alone(self, recipe: Recipe) -> Iterator[None]:
        """One build of a recipe at a time on this machine: runs of several families want the same at once."""
        with self._exclusive(recipe.sha256):
            yield

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        folder = self.cache / "locks"
        with _disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / name):
            yield

    def _keep(self, folder: Path) -> Artifact | None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return Artifact(tuple(self.put(path, path.relative_to(folder).as_posix()) for path in paths)) if paths else None

    def _intact(self, file: File) -> bool:
        """Whether the blob is there and right.

        That is by its hash on a folder, by its size on a remote store, whose content is hashed when it is fetched.
        """
        key = _blob_key(file.sha256)
        stat = self.storage.stat(key)
        if stat is None:
            return False
        if stat.size == file.size and (
            not self.is_local or _hash_at(self.storage.path(key).path, stat.size, stat.identity) == file.sha256
        ):
            return True
        blob = self.storage.path(key)
        log.warning("corrupted blob %s (%s): its content does not match its name; it will be rebuilt", blob, file.path)
        self._set_aside(file)
        return False

    def _set_aside(self, file: File) -> None:
        """Move a blob to `corrupt/`: whoever finds it wrong may have a bad disk, and it may be the only copy."""
        if not self.read_only:
            self.storage.move(_blob_key(file.sha256), f"corrupt/{file.sha256}-{uuid.uuid4().hex[:8]}")

    def _fetch(self, file: File, local: Path) -> None:
        blob = self.storage.path(_blob_key(file.sha256))
        with self.workspace() as work:
            copy, found = work / "blob", None
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
            if not self.storage.fetch(_blob_key(file.sha256), copy):
                return None
        except Damaged:
            if attempt == TRIES:
                raise
            return ""
        return sha256_of(copy)

    # --- JSON ------------------------------------------------------------------------------------------

    def _write_json(self, key: str, data: Mapping[str, Any]) -> None:
        self._write_version()
        with self._as_file(data) as source:
            self.storage.commit(source, key)

    def _write_version(self) -> None:
        """Say the store's version with its first record. Raises StoreError for a version that is not known here."""
        if self.version is None:
            with self._as_file({"version": VERSION}) as source:
                self.storage.commit(source, VERSION_FILE)
            self.__dict__.pop("version")  # read anew from now on

    @contextmanager
    def _as_file(self, data: Mapping[str, Any]) -> Iterator[Path]:
        with self.workspace() as folder:
            source = folder / "data.json"
            with _disk_errors(str(source)):
                source.write_text(canonical_json(data))
            yield source

    def _read_json(self, key: str) -> dict[str, Any] | None:
        content = self._read(key)
        if content is None:
            return None
        try:
            return parsed(content)
        except Malformed as error:
            self._absent(key, str(error))
            return None

    def _read(self, key: str) -> bytes | None:
        """A record's content. Raises StoreError if the store's version is not known here."""
        self._check_version()
        return self.storage.read(key)

    def _check_version(self) -> None:
        """Raises StoreError for a store that a later version wrote."""
        _ = self.version

    def _blob_path(self, sha256: str) -> UPath:
        return self.storage.path(_blob_key(sha256))

    def _recipe_path(self, sha256: str) -> UPath:
        return self.storage.path(_recipe_key(sha256))


def open_store(root: str, cache: Path, verifier: trust.Verifier | None = None, **storage_options: Any) -> ArtifactStore:
    """The store at a folder or an fsspec URL. `storage_options` go to fsspec."""
    return ArtifactStore(open_storage(root, storage_options), cache, verifier=verifier)


def _blob_key(sha256: str) -> str:
    return f"blobs/{checked_sha256(sha256)[:2]}/{sha256}"


def _recipe_key(sha256: str) -> str:
    return f"recipes/{checked_sha256(sha256)[:2]}/{sha256}.json"


def _pointer_key(key: str) -> str:
    return f"pointers/{checked_path(key)}.json"


def _plain(recipe: Recipe) -> Any:
    """A recipe as it is after a way through JSON: tuples are lists, keys are texts."""
    return json.loads(canonical_json(asdict(recipe)))


def parsed(content: bytes) -> dict[str, Any]:
    """A record's JSON object. Raises Malformed."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"unreadable JSON ({telling_lines(error)[:100]})") from None
    if not isinstance(data, dict):
        raise Malformed("its JSON is no object")
    level: list[Any] = [data]
    for _ in range(DEEPEST):
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            raise Malformed("a number in it is none, or infinite")
        level = [child for value in level for child in _children(value)]
        if not level:
            return data
    raise Malformed(f"its JSON is nested more than {DEEPEST} deep")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _is_right(local: Path, file: File) -> bool:
    try:
        return sha256_of(local) == file.sha256
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False


def _holds_exactly(folder: Path, artifact: Artifact) -> bool:
    """Whether a folder holds the artifact's files, and no others."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    paths = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    if any(path.is_symlink() for path in paths):
        return False
    if {path.relative_to(folder).as_posix() for path in paths} != {file.path for file in artifact.files}:
        return False
    return all(sha256_of(folder / file.path) == file.sha256 for file in artifact.files)


@lru_cache(maxsize=2**16)
def _hash_at(path: str, _size: int, _identity: tuple[int, int]) -> str:
    """sha256 of a file as it was found: a plan of many cells asks for the same blobs again and again."""
    return sha256_of(Path(path))


def _touch_if_old(storage: Storage, key: str) -> bool:
    """Mark a file as used, unless that was done a while ago. False where it is gone."""
    stat = storage.stat(key)
    if stat is None:
        return False
    return stat.modified > time.time() - FRESH or storage.touch(key)


@lru_cache(maxsize=2**12)
def _touch_once(storage: Storage, key: str, _period: int) -> bool:
    return _touch_if_old(storage, key)


@lru_cache(maxsize=2**10)
def _warn_once(message: str) -> None:
    """Plans and runs meet the same record again and again."""
    log.warning("%s", message)


@contextmanager
def _disk_errors(where: str, every: bool = False) -> Iterator[None]:
    """Turns a full or unwritable disk into one clear message, and with `every` any other error of the system too."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on the disk while writing {where}; nothing was half-written") from error
        if every or error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(f"cannot write {where}: {error.strerror}") from error
        raise
