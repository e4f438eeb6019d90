"""Metrics of classes: accuracy, F1 and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable

from edge_assets.core.metrics.metric import (
    MeanMetric,
    Outputs,
    SetMetric,
    SumMetric,
    demand_shape,
    output_of,
    safely_divided,
)
from edge_assets.errors import DataError
from edge_assets.later import np


def top1_accuracy() -> MeanMetric:
    """1 where the largest value of the first output is at the label, else 0."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        first = next(iter(outputs.values()))
        hits: np.ndarray = first.argmax(axis=-1) == labels
        return hits.astype(np.float64)

    return MeanMetric(per_sample)


def topk_accuracy(k: int, output: str) -> MeanMetric:
    """1 where the label is among the k classes of largest value, else 0. Of equal values the lower class is first."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores = output_of(outputs, output)
        demand_shape(scores, 2, "outputs", "[n, classes]")
        if k >= scores.shape[1]:
            raise DataError(f"topk_accuracy with k={k} of {scores.shape[1]} classes is always 1: choose a smaller k")
        ranked = np.argsort(-scores, axis=1, kind="stable")
        best = ranked[:, :k]
        hits: np.ndarray = (best == labels[:, None]).any(axis=1)
        return hits.astype(np.float64)

    return MeanMetric(per_sample)


def f1(average: str, threshold: float, output: str) -> SumMetric:
    """F1 = 2 tp / (2 tp + fp + fn), after van Rijsbergen, Information Retrieval, 1979.

    Labels int [n] with outputs [n, classes]: the largest output is the class. Labels 0 or 1 [n, classes]: several
    classes at once, those whose output is above `threshold`. Macro is the mean over the classes that occur among labels
    or predictions; micro sums tp, fp and fn over classes first.
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores = output_of(outputs, output)
        demand_shape(scores, 2, "outputs", "[n, classes]")
        classes = np.arange(scores.shape[1])
        if labels.ndim == 1:
            best = scores.argmax(axis=1)
            predicted = best[:, None] == classes
            true = labels[:, None] == classes
        else:
            predicted = scores > threshold
            true = labels.astype(bool)
        hits = predicted & true
        found = np.concatenate([hits, predicted, true], axis=1)
        return found.astype(np.float32)

    def values(sums: np.ndarray) -> np.ndarray:
        hits, predicted, true = np.split(sums, 3, axis=1)
        named = predicted + true
        if average == "micro":
            return safely_divided(2 * hits.sum(axis=1), named.sum(axis=1))
        by_class = safely_divided(2 * hits, named)
        occurring = (named > 0).sum(axis=1)
        return safely_divided(by_class.sum(axis=1), occurring.astype(np.float64))

    return SumMetric(per_sample, values)


def auroc(positive: int, output: str) -> SetMetric:
    """The chance that a positive sample scores above a negative one, equal scores counting one half.

    That is the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982). Labels are 0 and 1 [n]; outputs [n] or
    [n, 1] are the score, of [n, 2] it is the difference of column `positive` and the other.
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores = output_of(outputs, output).astype(np.float64)
        if scores.ndim == 2 and scores.shape[1] == 2:
            scores = scores[:, positive] - scores[:, 1 - positive]
        elif scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores[:, 0]
        demand_shape(scores, 1, "outputs", "[n], [n, 1] or [n, 2]")
        if not np.isin(labels, (0, 1)).all():
            raise DataError("auroc takes labels 0 and 1")
        return np.stack([scores, labels.astype(np.float64)], axis=1)

    return SetMetric(per_sample, _area)


def _area(samples: np.ndarray) -> Callable[[np.ndarray], float]:
    """The area under the curve of scores and labels [n, 2], by how often each sample counts."""
    _, rank = np.unique(samples[:, 0], return_inverse=True)
    is_positive = samples[:, 1]

    def value(counts: np.ndarray) -> float:
        positives = np.bincount(rank, weights=counts * is_positive)
        negatives = np.bincount(rank, weights=counts * (1 - is_positive))
        pairs = positives.sum() * negatives.sum()
        if pairs == 0:
            return 0.5  # of samples of one class nothing can be said
        below = np.cumsum(negatives) - negatives
        won = positives * (below + negatives / 2)
        return float(won.sum() / pairs)

    return value
