"""How far long work on samples is, said now and then."""

import time
from collections.abc import Callable

EVERY_SECONDS = 30.0


class Progress:
    """Says how many samples are done and about how long the rest takes, where the whole takes longer than a moment."""

    def __init__(self, what: str, total: int | None, log: Callable[[str], None], every: float = EVERY_SECONDS) -> None:
        self.what = what
        self.total = total  # None: not known, as of a generator
        self.log = log
        self.every = every
        self.started = self.said = time.monotonic()

    def at(self, done: int) -> None:
        """`done` samples are done."""
        now = time.monotonic()
        if now - self.said < self.every or done == self.total:
            return
        self.said = now
        if self.total is None:
            self.log(f"{self.what}: {done:,} samples")
            return
        left = (now - self.started) / max(done, 1) * (self.total - done)
        self.log(f"{self.what}: {done:,} of {self.total:,} samples, about {duration(left)} left")


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
