"""Content-addressed artifact store with memoized recipes, on a folder or on S3 through one code path.

Layout below the root:

    blobs/ab/abcd...         file contents, named by their sha256
    recipes/ab/abcd....json  what a recipe made: its artifact's file hashes and facts
    pointers/...json         which result a (model, family, artifact, checkpoint, target) has now

A result becomes visible only by its recipe file, which is written last and atomically: a process killed
at any point leaves nothing half-visible, and what was finished is found again by the next run.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from upath import UPath

from edge_assets.core.errors import Refused, StoreError
from edge_assets.core.types import Artifact, File, Recipe, Result, canonical_json

log = logging.getLogger(__name__)
CHUNK = 2**20
Build = Callable[[Path], Mapping[str, Any]]  # writes files into the folder, returns facts; may raise Refused


class NotBuilt(Exception):
    """A read-only store was asked for something that it does not hold."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.step)
        self.recipe = recipe


@dataclass(frozen=True)
class ArtifactStore:
    """The store at `root`; `cache` is a local folder for checked-out files and work in progress."""

    root: UPath
    cache: Path
    read_only: bool = False  # for planning: a missing result raises NotBuilt instead of being built

    @property
    def is_local(self) -> bool:
        return self.root.protocol in ("", "file")

    def planning(self) -> "ArtifactStore":
        """The same store, read-only: running a step on it tells whether the step has anything to do."""
        return replace(self, read_only=True)

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
            self._write_json(self._recipe_path(recipe.sha256), result.to_dict())
        return result

    def recall(self, recipe: Recipe) -> Result | None:
        """What `recipe` made before, or None. A corrupted blob is named, dropped and not returned."""
        data = self._read_json(self._recipe_path(recipe.sha256))
        if data is None:
            return None
        result = Result.from_dict(data, reused=True)
        intact = all(self._intact(file) for file in result.artifact.files) if result.artifact else True
        return result if intact else None

    def checkout(self, artifact: Artifact) -> Path:
        """Local path of the artifact's files, verified: the file itself if there is one, else their folder.

        Raises StoreError, naming the blob, if its content is not what its name says; the blob is dropped,
        so that the next run builds it again.
        """
        tree = self.cache / "trees" / artifact.sha256
        for file in artifact.files:
            local = tree / file.path
            if not (local.is_file() and sha256_of(local) == file.sha256):
                self._fetch(file, local)
        return tree / artifact.files[0].path if len(artifact.files) == 1 else tree

    def export(self, artifact: Artifact, folder: Path) -> None:
        """Put a copy of the artifact at `folder`, replacing what is there in one rename."""
        source = self.checkout(artifact)
        with self.workspace() as work:
            copy = work / "copy"
            for file in artifact.files:
                (copy / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source if source.is_file() else source / file.path, copy / file.path)
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                os.replace(folder, work / "replaced")
            os.replace(copy, folder)

    # --- pointers --------------------------------------------------------------------------------------

    def point(self, key: str, data: Mapping[str, Any]) -> None:
        """Set the pointer `key` (a path such as digits/cpu/onnx_model/...) to JSON data, atomically."""
        self._write_json(self._pointer_path(key), data)

    def claim(self, key: str, data: Mapping[str, Any]) -> bool:
        """Set the pointer `key` unless there is one: of several that claim it at once, one is told True.

        An object store decides this itself if it knows conditional writes, as S3 does.
        """
        path = self._pointer_path(key)
        if path.exists():
            return False
        text = canonical_json(data).encode()
        with _disk_errors(str(path)):
            if not self.is_local:
                return _created(path, text)
            final = Path(path.path)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.parent / f".{uuid.uuid4().hex}"
            try:
                with temporary.open("wb") as writer:
                    writer.write(text)
                    writer.flush()
                    os.fsync(writer.fileno())
                return _linked(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)

    def pointer(self, key: str) -> dict[str, Any] | None:
        """The data of pointer `key`, or None where it was never set."""
        return self._read_json(self._pointer_path(key))

    def pointers(self, prefix: str) -> list[str]:
        """Names of the pointers directly below `prefix`."""
        folder = self.root / "pointers" / prefix
        return sorted(path.stem for path in folder.glob("*.json")) if folder.exists() else []

    def all_pointers(self, prefix: str) -> Iterator[str]:
        """Keys of every pointer anywhere below `prefix`."""
        base = self.root / "pointers"
        folder = base / prefix
        for path in folder.rglob("*.json") if folder.exists() else ():
            yield path.relative_to(base).as_posix().removesuffix(".json")

    def drop_pointer(self, key: str) -> None:
        """Remove pointer `key` if it is there."""
        self._pointer_path(key).unlink(missing_ok=True)

    # --- files -----------------------------------------------------------------------------------------

    def put(self, path: Path, name: str) -> File:
        """Keep one file's content. Returns its entry for an artifact."""
        file = File(name, sha256_of(path), path.stat().st_size)
        if not self._intact(file):
            self._commit(path, self._blob_path(file.sha256))
        return file

    def holds(self, file: File) -> bool:
        """Whether the file's content is in the store and intact."""
        return self._intact(file)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder, gone afterwards. Its name tells its owner, so that a killed one's can be swept."""
        parent = self.cache / "work"
        with _disk_errors(str(parent)):
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def kept(self, recipe: Recipe) -> Iterator[Path]:
        """A folder of this recipe's own for work that resumes: it outlives a killed or failed build, and no other."""
        folder = self.cache / "kept" / recipe.sha256
        with _disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes of this host left in the work folder."""
        for folder in (self.cache / "work").glob(f"{socket.gethostname()}-*-*"):
            if not psutil.pid_exists(int(folder.name.split("-")[-2])):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self, recipe: Recipe) -> Iterator[None]:
        """One build of a recipe at a time on this machine: runs of several families want the same at once."""
        folder = self.cache / "locks"
        with _disk_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / recipe.sha256):
            yield

    def _keep(self, folder: Path) -> Artifact | None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return Artifact(tuple(self.put(path, path.relative_to(folder).as_posix()) for path in paths)) if paths else None

    def _intact(self, file: File) -> bool:
        """Whether the blob is there and right: by its hash on a folder, by its size on a remote store,
        whose content is hashed when it is fetched."""
        blob = self._blob_path(file.sha256)
        try:
            stat = blob.stat()
        except FileNotFoundError:
            return False
        if stat.st_size == file.size and (
            not self.is_local or _hash_at(blob.path, stat.st_size, stat.st_mtime_ns, stat.st_ino) == file.sha256
        ):
            return True
        log.warning("corrupted blob %s (%s): its content does not match its name; it will be rebuilt", blob, file.path)
        if not self.read_only:
            blob.unlink()
        return False

    def _fetch(self, file: File, local: Path) -> None:
        blob = self._blob_path(file.sha256)
        with self.workspace() as work, _disk_errors(str(local)):
            copy = work / "blob"
            try:
                if self.is_local:
                    shutil.copyfile(blob.path, copy)
                else:
                    self.root.fs.get_file(blob.path, str(copy))
            except FileNotFoundError:
                raise StoreError(f"{blob} ({file.path}) is missing from the store; run again to rebuild it") from None
            if sha256_of(copy) != file.sha256:
                blob.unlink()
                raise StoreError(
                    f"corrupted blob {blob} ({file.path}): its content does not match its name. It was dropped; "
                    f"run again to rebuild it"
                )
            local.parent.mkdir(parents=True, exist_ok=True)
            os.replace(copy, local)

    def _commit(self, source: Path, destination: UPath) -> None:
        """Make `destination` appear with the content of `source`, whole or not at all."""
        with _disk_errors(str(destination)):
            if not self.is_local:  # an object store's upload is atomic
                self.root.fs.put_file(str(source), destination.path)
                return
            final = Path(destination.path)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
            try:
                with source.open("rb") as reader, temporary.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, CHUNK)
                    writer.flush()
                    os.fsync(writer.fileno())
                os.replace(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)

    # --- JSON ------------------------------------------------------------------------------------------

    def _write_json(self, path: UPath, data: Mapping[str, Any]) -> None:
        with self.workspace() as folder, _disk_errors(str(path)):
            source = folder / "data.json"
            source.write_text(canonical_json(data))
            self._commit(source, path)

    def _read_json(self, path: UPath) -> dict[str, Any] | None:
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("unreadable JSON in %s: taken as absent, and written anew", path)
            return None

    def _blob_path(self, sha256: str) -> UPath:
        return self.root / "blobs" / sha256[:2] / sha256

    def _recipe_path(self, sha256: str) -> UPath:
        return self.root / "recipes" / sha256[:2] / f"{sha256}.json"

    def _pointer_path(self, key: str) -> UPath:
        return self.root / "pointers" / f"{key}.json"


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's content, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _linked(temporary: Path, final: Path) -> bool:
    """Give a file its name, unless that is taken. Unlike a rename, neither way replaces."""
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


def _created(path: UPath, content: bytes) -> bool:
    try:
        path.fs.pipe_file(path.path, content, mode="create")
    except FileExistsError:
        return False
    return True


@cache
def _hash_at(path: str, _size: int, _modified_ns: int, _inode: int) -> str:
    """sha256 of a file as it was found: a plan of many cells asks for the same blobs again and again."""
    return sha256_of(Path(path))


@contextmanager
def _disk_errors(where: str) -> Iterator[None]:
    """Turns a full or unwritable disk into one clear message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on the disk while writing {where}; nothing was half-written") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(f"cannot write {where}: {error.strerror}") from error
        raise


def open_store(root: str, cache: Path, **storage_options: Any) -> ArtifactStore:
    """The store at a folder or an fsspec URL. `storage_options` go to fsspec."""
    path = UPath(root, **storage_options)
    return ArtifactStore(path if "://" in root else UPath(Path(root).resolve()), cache)
