"""Work of heavy native toolchains in child processes: one that aborts or hangs takes nothing else with it.

A process stays for the next call of the same name until `close`, because importing a converter costs seconds; after a
crash or a timeout the next call gets a new one. Everything that it prints goes to a log, which the error carries.
"""

import atexit
import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as Expired
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edge_assets.core import garbage
from edge_assets.errors import ConverterError, EdgeAssetsError, log_end, told

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")
LOG = "edge-assets-"  # how names of logs begin, in the system's folder for temporary files
NEW = 60  # seconds for which a log may not be locked yet


def call(process: str, function: Callable[..., T], *arguments: object, seconds: float) -> T:
    """`function(*arguments)` in the child process of that name; arguments and result are pickled.

    Raises ConverterError, with the end of the process's log, if it died, took longer than `seconds`, or raised
    something else than an EdgeAssetsError, which is raised as it is.
    """
    from pebble import ProcessExpired

    pool, log = _pool(process)
    start = log.stat().st_size
    what = f"{process}: {function.__module__}.{function.__name__}"
    try:
        result: T = pool.schedule(function, args=arguments, timeout=seconds).result()
        return result
    except EdgeAssetsError:
        raise
    except Expired:
        raise _converter_error(f"{what} took longer than {seconds:.0f} s and was stopped.", log, start) from None
    except ProcessExpired as error:
        raise _converter_error(f"{what} died with exit code {error.exitcode}.", log, start) from None
    except Exception as error:  # a converter can raise anything
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # a full disk is not the converter's fault: the store says it
        raise _converter_error(f"{what} failed: {told(error)}.", log, start) from error


def close() -> None:
    """End the child processes and their logs; the next call of a name starts a new one."""
    while _pools:
        _, (pool, log) = _pools.popitem()
        pool.stop()
        pool.join()
        log.unlink(missing_ok=True)
        os.close(_locks.pop(log))


def sweep_logs() -> None:
    """Remove the logs that killed processes left. A living one holds a lock on its own, which the kernel frees."""
    for log in Path(tempfile.gettempdir()).glob(f"{LOG}*.log"):
        try:
            descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone, or another account's
        try:
            stat = os.fstat(descriptor)
            if stat.st_uid == os.getuid() and stat.st_mtime < time.time() - NEW:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.unlink(missing_ok=True)
        except BlockingIOError:
            continue  # its process lives
        finally:
            os.close(descriptor)


_pools: "dict[str, tuple[ProcessPool, Path]]" = {}
_locks: dict[Path, int] = {}  # descriptors that hold the locks on this process's logs
atexit.register(close)


def _pool(process: str) -> "tuple[ProcessPool, Path]":
    from pebble import ProcessPool

    if process not in _pools:
        sweep_logs()
        descriptor, name = tempfile.mkstemp(prefix=f"{LOG}{process}-", suffix=".log")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _locks[Path(name)] = descriptor
        context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads can deadlock
        pool = ProcessPool(max_workers=1, initializer=_begin, initargs=(name,), context=context)
        _pools[process] = pool, Path(name)
    return _pools[process]


def _begin(log: str) -> None:
    """Standard output and error of this process, native code included, into the log."""
    # it ends with its pool, which sends SIGTERM too: into that end, so that what libraries share would count as leaked
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    garbage.look_less_often()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


def _converter_error(sentence: str, log: Path, start: int) -> ConverterError:
    """The error of a call, with the end of what its process logged since `start`, a position in the log."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace").strip()
    return ConverterError(f"{sentence} {log_end(text)}", text)
