"""Sessions of models that have their batch elsewhere than first, or keep states.

Needs the standard library and NumPy alone: devices hold a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_assets.core.layout import Layout, Stream, arranged
from edge_assets.later import np

if TYPE_CHECKING:
    from typing import TypeAlias

Feeds: TypeAlias = "Mapping[str, np.ndarray]"


class ArrangedSession:
    """A session that takes and gives samples, of a model that has its batch elsewhere, or states.

    Everything else that the session can do stays.
    """

    def __init__(self, session: Any, layout: Layout) -> None:
        self._session = session
        self._layout = layout
        self._one = getattr(session, "run_one", None)  # of programs that take one sample at a time
        self._streams: dict[int, Stream] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        def run(placed: Feeds) -> Feeds:
            outputs: Feeds = self._session.run(placed)
            return outputs

        if self._one is not None:
            run.one = self._one  # type: ignore[attr-defined]  # as loaders of released folders have it
        return arranged(run, self._layout)(feeds)

    def time(self, feeds: Feeds) -> float:
        """Milliseconds of one query: of one step, which takes the states that the one before gave."""
        if self._one is None:
            return self._timed(0, self._session.run, feeds)
        total = 0.0
        for position in range(len(next(iter(feeds.values())))):
            sample = {name: array[position : position + 1] for name, array in feeds.items()}
            total += self._timed(position, self._one, sample)
        return total

    def query(self, feeds: Feeds) -> tuple[Feeds, Feeds]:
        """What the model itself takes of one sample, in its first step, and what it gives for it."""
        placed = Stream(self._layout).next(feeds)
        return placed, (self._one or self._session.run)(placed)

    def _timed(self, number: int, run: Callable[[Feeds], Feeds], feeds: Feeds) -> float:
        stream = self._streams.setdefault(number, Stream(self._layout))
        placed = stream.next(feeds)
        clock = getattr(self._session, "time", None)
        if clock is not None:  # of another process, which gives no outputs
            milliseconds: float = clock(placed)
            return milliseconds
        started = time.perf_counter()
        outputs = run(placed)
        elapsed = 1000 * (time.perf_counter() - started)
        stream.keep(outputs)
        return elapsed
