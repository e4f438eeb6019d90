"""Timed queries of a loaded model, over samples in rotation: the same on this machine and on every device.

Needs the standard library and NumPy alone: devices hold a copy, for Python 3.9 and later.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

WINDOW, TOLERANCE = 16, 0.05  # queries, relative
TimeOne = Callable[[Mapping[str, np.ndarray]], float]  # one query's milliseconds
WARM_UP_SECONDS = 180  # after which a slow model's warm-up ends


class Runs(Protocol):
    """A loaded model: outputs by name for inputs by name.

    One with a clock of its own has `time` besides; one whose times would say nothing has `untimed`, which says why.
    """

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of one batch."""
        ...


class Queries:
    """Queries of one model. Timings exclude preprocessing and the copy of inputs into the process."""

    def __init__(self, session: Runs, feeds: Mapping[str, np.ndarray]) -> None:
        self.session = session
        self.feeds = feeds
        self.next_sample = 0

    def warm_up(self, batch: int, longest: int) -> dict[str, Any]:
        """Run until steady: the median of the last 16 queries within 5 % of the 16 before.

        At most `longest` queries or 180 s.
        """
        times: list[float] = []
        steady = False
        deadline = time.perf_counter() + WARM_UP_SECONDS
        # where nothing may be timed, by this process's clock, which nobody sees
        clock = self._clock() if getattr(self.session, "untimed", None) is None else self._time
        while not steady and len(times) < longest and time.perf_counter() < deadline:
            times += self._times(clock, batch, min(WINDOW, longest), 60.0)
            steady = is_steady(times)
        return {"queries": len(times), "steady": steady}

    def timed(self, batch: int, count: int, seconds: float) -> list[float]:
        """Latencies in ms of at most `count` queries or `seconds` seconds, whichever comes first."""
        return self._times(self._clock(), batch, count, seconds)

    def _clock(self) -> TimeOne:
        """The session's own clock, or this process's where it has none."""
        return getattr(self.session, "time", self._time)

    def _times(
        self,
        time_one: TimeOne,
        batch: int,
        count: int,
        seconds: float,
    ) -> list[float]:
        times: list[float] = []
        deadline = time.perf_counter() + seconds
        for _ in range(count):
            times.append(time_one(self._sample(batch)))
            if time.perf_counter() > deadline:
                break
        return times

    def peak_bytes(self) -> int:
        """Peak resident memory so far, of this process or of the one in which the session says its model runs."""
        measure = getattr(self.session, "peak_memory_bytes", peak_memory_bytes)
        return int(measure())

    def _time(self, feeds: Mapping[str, np.ndarray]) -> float:
        started = time.perf_counter()
        self.session.run(feeds)
        return 1000 * (time.perf_counter() - started)

    def _sample(self, batch: int) -> dict[str, np.ndarray]:
        count = len(next(iter(self.feeds.values())))
        start = self.next_sample if self.next_sample + batch <= count else 0
        self.next_sample = start + batch
        return {name: array[start : start + batch] for name, array in self.feeds.items()}


def is_steady(times: Sequence[float]) -> bool:
    """Whether the median of the last 16 queries is within 5 % of that of the 16 before."""
    if len(times) < 2 * WINDOW:
        return False
    before, last = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(last - before) <= TOLERANCE * before)


def peak_memory_bytes() -> int:
    """This process's peak resident set, in bytes."""
    if sys.platform == "linux":
        # not ru_maxrss: across fork and exec it keeps the parent's peak
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
