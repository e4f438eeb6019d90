"""Sessions of models that have their batch elsewhere than first, or keep states.

Needs the standard library and NumPy alone: devices hold a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge_assets.core.layout import Layout, Stream, arranged, collect, place
from edge_assets.later import np

if TYPE_CHECKING:
    from typing import TypeAlias

Feeds: TypeAlias = "Mapping[str, np.ndarray]"


class ArrangedSession:
    """A session that takes and gives samples, of a model that has its batch elsewhere, or states.

    Everything else that the session can do stays. One whose model runs in another process keeps the states there: it
    has `run_steps(feeds)`, for inputs [steps, ...] as the model takes them in each, which gives outputs [steps, ...]
    and the states after the last, and `time_step(feeds, is_first) -> float`, the milliseconds of the next step.
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
        if self._layout["states"] and hasattr(self._session, "run_steps"):
            return self._run_steps(feeds)
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

    def _run_steps(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """All steps of sequences, in the process that keeps their states."""
        count = len(next(iter(feeds.values())))
        given = self._session.run_steps(joined_queries(queries(feeds, count, self._layout)))
        last = {state["output"] for state in self._layout["states"].values()}
        axes = {}  # of the batch, behind that of the steps
        for name in given:
            axis = self._layout["outputs"].get(name, 0)
            axes[name] = axis if axis is None or name in last else axis + 1
        return collect(given, {"outputs": axes}, count)

    def _timed(self, number: int, run: Callable[[Feeds], Feeds], feeds: Feeds) -> float:
        stream = self._streams.setdefault(number, Stream(self._layout))
        placed = stream.next(feeds)
        states = self._layout["states"]
        milliseconds: float
        if states and hasattr(self._session, "time_step"):
            given = {name: array for name, array in placed.items() if name not in states}
            milliseconds = self._session.time_step(given, stream.step == 1)
            return milliseconds
        clock = getattr(self._session, "time", None)
        if clock is not None:
            milliseconds = clock(placed)
            return milliseconds
        started = time.perf_counter()
        outputs = run(placed)
        elapsed = 1000 * (time.perf_counter() - started)
        stream.keep(outputs)
        return elapsed


def queries(feeds: Feeds, batch: int, layout: Layout) -> Iterator[dict[str, np.ndarray]]:
    """What a model takes of samples, `batch` at a time: of one with states each step in turn, without its states."""
    for start in range(0, len(next(iter(feeds.values()))) - batch + 1, batch):
        samples = {name: array[start : start + batch] for name, array in feeds.items()}
        if not layout["states"]:
            yield place(samples, layout)
            continue
        for step in range(steps_of(feeds)):
            yield place({name: array[:, step] for name, array in samples.items()}, layout)


def joined_queries(given: Iterable[Feeds]) -> dict[str, np.ndarray]:
    """Queries [...] as one array of each input, [queries, ...]."""
    arrays: dict[str, list[np.ndarray]] = {}
    for query in given:
        for name, array in query.items():
            arrays.setdefault(name, []).append(array)
    return {name: np.stack(every) for name, every in arrays.items()}


def steps_of(feeds: Feeds) -> int:
    """How many steps the sequences [n, steps, ...] have."""
    return int(next(iter(feeds.values())).shape[1])
