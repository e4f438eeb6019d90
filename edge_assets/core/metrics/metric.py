"""What a metric is to the evaluation: something of every sample, of which the value of the whole set follows.

So the set may come in parts, what a part gave is small, and the interval of any metric is a bootstrap over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edge_assets.errors import DataError
from edge_assets.later import np

Outputs: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class MeanMetric:
    """A metric that is the mean of scores, one per sample.

    `score(outputs, labels)` gives float64 [n]. Where scores depend on the whole set, as in a search among all samples,
    `per_sample` gives something of each sample, [n, ...], and `finish` the scores of all of it.
    """

    per_sample: Callable[[Outputs, np.ndarray], np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class SumMetric:
    """A metric that is a function of sums over samples, such as of a confusion matrix.

    `per_sample(outputs, labels)` gives [n, k], what is summed; `values` takes sums [r, k] of r drawings of samples and
    gives [r].
    """

    per_sample: Callable[[Outputs, np.ndarray], np.ndarray]
    values: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SetMetric:
    """A metric of the whole set, such as of ranks.

    `per_sample(outputs, labels)` gives [n, ...]. `prepare` takes that of all samples, sorts what has to be sorted once,
    and gives a function: the value where each sample counts as often as `counts` [n] says.
    """

    per_sample: Callable[[Outputs, np.ndarray], np.ndarray]
    prepare: Callable[[np.ndarray], Callable[[np.ndarray], float]]


@dataclass(frozen=True)
class OutputsMetric:
    """One score per sample by a function that must see the outputs of the whole set at once."""

    score: Callable[[Outputs, np.ndarray], np.ndarray]


Measure = MeanMetric | SumMetric | SetMetric | OutputsMetric


def output_of(outputs: Outputs, name: str) -> np.ndarray:
    """The output of that name, or the first. Raises DataError."""
    if not name:
        return next(iter(outputs.values()))
    if name not in outputs:
        raise DataError(f"the metric's output '{name}' is none of the model's: {', '.join(outputs)}")
    return outputs[name]


def demand_shape(found: np.ndarray, dimensions: int, what: str, wanted: str) -> None:
    """Raises DataError if an array has not that many axes."""
    if found.ndim != dimensions:
        raise DataError(f"{what} have shape {found.shape}, the metric takes {wanted}")


def safely_divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, 0 where the denominator is."""
    found: np.ndarray = np.divide(
        numerator,
        denominator,
        out=np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape)),
        where=denominator != 0,
    )
    return found
