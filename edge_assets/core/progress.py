"""How far long work on samples is, said now and then."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two looks at what another process wrote


class Progress:
    """Says how many samples are done and about how long the rest takes, where the whole takes longer than a moment."""

    def __init__(
        self,
        what: str,
        total: int | None,
        log: Callable[[str], None],
        every: float = EVERY_SECONDS,
    ) -> None:
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


@contextmanager
def followed(log: Callable[[str], None]) -> Iterator[Path]:
    """A file to which other processes append lines, see `appended`; each is given to `log`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        path.touch()
        is_over = threading.Event()
        thread = threading.Thread(target=_follow, args=(path, log, is_over))
        thread.start()
        try:
            yield path
        finally:
            is_over.set()
            thread.join()


def appended(path: Path) -> Callable[[str], None]:
    """A log that appends lines to such a file."""

    def log(line: str) -> None:
        with path.open("a") as file:
            file.write(line + "\n")

    return log


def _follow(path: Path, log: Callable[[str], None], is_over: threading.Event) -> None:
    with path.open() as file:
        while True:
            was_over = is_over.wait(LOOK_SECONDS)
            for line in file:
                log(line.rstrip("\n"))
            if was_over:
                return


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
