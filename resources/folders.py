"""Local folders: private ones whose owner the kernel knows, and replacing one that readers never find absent."""

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # Linux's renameat2
RENAME_SWAP = 2  # macOS's renamex_np


@contextmanager
def private_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, gone afterwards.

    It is locked for as long as its process lives, whatever host or container that is in: the kernel frees the lock of
    a killed one, and `sweep` removes its folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _held(parent):  # no sweep looks at it before it is locked
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        _lock(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _held(parent: Path) -> Iterator[None]:
    """One at a time makes private folders in `parent`, or looks which are abandoned."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # this file system cannot lock folders, so none reads as abandoned
        yield
    finally:
        os.close(descriptor)


def sweep(parent: Path, prefix: str) -> list[tuple[Path, int]]:
    """Remove what killed processes left of their private folders. Returns what was removed, with its bytes."""
    removed = []
    for folder in abandoned(parent, f"{prefix}*"):
        removed.append((folder, size_of(folder)))
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def abandoned(parent: Path, pattern: str = "*") -> list[Path]:
    """Private folders in `parent` that no living process holds."""
    if not parent.is_dir():
        return []
    with _held(parent):
        return [folder for folder in sorted(parent.glob(pattern)) if _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False  # gone, or no folder
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """False where another has it, and on a file system that cannot lock folders: nothing is swept there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for entry in (path, *path.rglob("*")):
        try:
            total += entry.stat().st_size if entry.is_file() else 0
        except OSError:
            continue
    return total


def replace(new: Path, final: Path) -> None:
    """Put the folder `new` in the place of `final`, which may exist; what was there is afterwards at `new` or gone.

    Where the system can exchange two names, and Linux and macOS can on their usual file systems, `final` is never
    absent; elsewhere it is for the moment between two renames, and who replaces needs a lock.
    """
    while True:
        try:
            new.rename(final)  # takes the place of nothing, or of an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        try:
            if not exchange(new, final):
                final.rename(new.with_name(f"{new.name}-{uuid.uuid4().hex}"))
                new.rename(final)
            return
        except FileNotFoundError:
            if not new.exists():
                raise
            # another removed `final` meanwhile


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. False where this system or file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        result = library.renamex_np(first, second, RENAME_SWAP)
    elif hasattr(library, "renameat2"):
        result = library.renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE)
    else:
        return False
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
