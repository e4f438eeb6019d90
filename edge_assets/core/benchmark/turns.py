"""One measurement at a time on a machine, whoever asks and whatever the state folder: two would disturb each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_assets.errors import EdgeAssetsError

SHARED = ("/run/lock", "/tmp")  # where every account of a Linux machine may write
NAME = "edge-assets-measuring.lock"
VARIABLE = "EDGE_ASSETS_MEASURING_LOCK"  # a lock of one's own choice: containers of one machine share none of the above


def lock_file() -> Path:
    """The machine's lock for measuring, or the one that the environment names."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    writable = [folder for folder in SHARED if os.access(folder, os.W_OK)]
    return Path(writable[0] if writable else tempfile.gettempdir()) / NAME


@contextmanager
def turn(waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the machine's turn to measure; `waiting` is called once if another process has it.

    The kernel frees the lock of a process that was killed.
    """
    descriptor = opened_lock()
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def opened_lock() -> int:
    """To read alone, which is enough for a lock: in a shared folder another account's file cannot be written."""
    path, flags = lock_file(), os.O_RDONLY | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return _created(path, flags)


def _created(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CREAT, 0o444)
    except OSError as error:
        raise EdgeAssetsError(
            f"the lock for measuring, {path}, cannot be made: {error.strerror}. {VARIABLE} names another"
        ) from None
