"""Ctrl-C that is heard wherever it falls."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

AGAIN_AFTER = 0.05  # seconds
INTERRUPTIONS = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)  # the latter while a step runs


@contextmanager
def never_dropped() -> Iterator[None]:
    """Within the block, a Ctrl-C that Python drops is sent again.

    Python drops what is raised in a destructor or in a callback of the garbage collector, and only prints it.
    """
    before = sys.unraisablehook

    def again(dropped: "sys.UnraisableHookArgs", /) -> None:
        if not issubclass(dropped.exc_type, INTERRUPTIONS):
            before(dropped)
            return
        threading.Timer(AGAIN_AFTER, os.kill, args=(os.getpid(), signal.SIGINT)).start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
