"""How samples become what a model takes, and what it gives becomes samples again. NumPy only: releases hold a copy.

Everywhere else arrays are samples first: `[n, ...]`, and `[n, steps, ...]` for a model that keeps states from step to
step. A layout says, as JSON, where a model has its batch and what its states are:

    inputs, outputs   by name the axis of the batch, null where there is none; all others have it first
    states            by input the `output` that the next step takes, the `shape` of one sample, batch `axis`, `dtype`

A state begins as zeros. An input without a batch has one value, the same in every sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np

Arrays: TypeAlias = "dict[str, np.ndarray]"
Run: TypeAlias = "Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]"
Layout = Mapping[str, Mapping[str, Any]]


def place(feeds: Mapping[str, np.ndarray], layout: Layout) -> Arrays:
    """Samples [n, ...] as the model takes them. Raises ValueError for values that differ where there is no batch."""
    import numpy as np

    placed = {}
    for name, array in feeds.items():
        axis = layout["inputs"].get(name, 0)
        if axis is None:
            if (array != array[:1]).any():
                raise ValueError(f"input '{name}' has no batch, and is not the same in all samples of one")
            placed[name] = np.array(array[0])
        elif axis:
            placed[name] = np.ascontiguousarray(np.moveaxis(array, 0, axis))
        else:
            placed[name] = array
    return placed


def collect(outputs: Mapping[str, np.ndarray], layout: Layout, count: int) -> Arrays:
    """What the model gave for `count` samples, samples first; what has no batch is repeated."""
    import numpy as np

    collected = {}
    for name, array in outputs.items():
        axis = layout["outputs"].get(name, 0)
        if axis is None:
            collected[name] = np.repeat(np.asarray(array)[None], count, axis=0)
        else:
            collected[name] = np.moveaxis(array, axis, 0) if axis else array
    return collected


def arranged(run: Run, layout: Layout) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """`run` for samples. A `run` of a program that takes one sample at a time has that as its attribute `one`."""
    one = getattr(run, "one", None)

    def run_samples(feeds: Mapping[str, np.ndarray]) -> Arrays:
        import numpy as np

        if one is None:
            return _batch(run, feeds, layout)
        parts = []
        for position in range(_count(feeds)):
            sample = {name: array[position : position + 1] for name, array in feeds.items()}
            parts.append(_batch(one, sample, layout))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run_samples


class Stream:
    """One query after the other: what the model takes in each, its states carried from the one to the next."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.states: Arrays = {}
        self.step = 0
        self.count = 0

    def next(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """What the model takes for the next step of these samples; the first begins with zeros."""
        if not self.layout["states"]:
            return place(feeds, self.layout)
        first = next(iter(feeds.values()))
        if len(first) != self.count or self.step == first.shape[1]:
            self.count, self.step = len(first), 0
        if self.step == 0:
            self.states = initial_states(self.layout, self.count)
        now = {name: array[:, self.step] for name, array in feeds.items()}
        self.step += 1
        return place(now, self.layout) | self.states

    def keep(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Take the states from what the model gave."""
        self.states = {name: outputs[state["output"]] for name, state in self.layout["states"].items()}


def initial_states(layout: Layout, count: int) -> Arrays:
    """Zeros as the model takes them, for `count` samples."""
    import numpy as np

    states = {}
    for name, state in layout["states"].items():
        shape = list(state["shape"])
        shape.insert(state["axis"], count)
        states[name] = np.zeros(shape, state["dtype"])
    return states


def _batch(run: Run, feeds: Mapping[str, np.ndarray], layout: Layout) -> Arrays:
    """Outputs for samples that the model takes at once: in one step, or in one after the other."""
    import numpy as np

    count = _count(feeds)
    if not layout["states"]:
        return collect(run(place(feeds, layout)), layout, count)
    stream = Stream(layout)
    kept = {state["output"] for state in layout["states"].values()}
    steps: list[Arrays] = []
    outputs: Arrays = {}
    for _ in range(next(iter(feeds.values())).shape[1]):
        given = run(stream.next(feeds))
        stream.keep(given)
        outputs = collect(given, layout, count)
        steps.append({name: np.array(array) for name, array in outputs.items() if name not in kept})
    for name in outputs.keys() - kept:
        outputs[name] = np.stack([step[name] for step in steps], axis=1)
    return outputs


def _count(feeds: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(feeds.values())))
