"""Errors of numbers, in the labels' unit."""

from __future__ import annotations

from edge_assets.core.metrics.metric import MeanMetric, Outputs, SumMetric, output_of
from edge_assets.errors import DataError
from edge_assets.later import np


def mae(output: str) -> MeanMetric:
    """The mean absolute error, over all values of a sample and over samples."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.abs(_errors(outputs, labels, output)).mean(axis=1)
        return found

    return MeanMetric(per_sample)


def rmse(output: str) -> SumMetric:
    """The root of the mean squared error, over all values of all samples."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        squares = np.square(_errors(outputs, labels, output)).mean(axis=1)
        return np.stack([squares, np.ones(len(squares))], axis=1)

    def values(sums: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sqrt(sums[:, 0] / sums[:, 1])
        return found

    return SumMetric(per_sample, values)


def _errors(outputs: Outputs, labels: np.ndarray, output: str) -> np.ndarray:
    """Output minus label, of every value of each sample; float64 [n, k]."""
    found = output_of(outputs, output).astype(np.float64).reshape(len(labels), -1)
    wanted = labels.astype(np.float64).reshape(len(labels), -1)
    if found.shape != wanted.shape:
        raise DataError(f"outputs have {found.shape[1]} values per sample, labels {wanted.shape[1]}")
    return found - wanted
