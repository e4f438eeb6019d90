"""Errors of numbers, in the labels' unit."""

from __future__ import annotations

from edge_assets.core.metrics.metric import MeanMetric, Outputs, SumMetric, output_of
from edge_assets.errors import DataError
from edge_assets.later import np


def mae(output: str) -> MeanMetric:
    """The mean absolute error, over all values of a sample and over samples."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        errors = np.abs(_errors(outputs, labels, output))
        found: np.ndarray = errors.mean(axis=1)
        return found

    return MeanMetric(per_sample)


def rmse(output: str) -> SumMetric:
    """The root of the mean squared error, over all values of all samples."""

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        errors = _errors(outputs, labels, output)
        squares = np.square(errors).mean(axis=1)
        samples = np.ones(len(squares))
        return np.stack([squares, samples], axis=1)

    def values(sums: np.ndarray) -> np.ndarray:
        squares = sums[:, 0]
        samples = sums[:, 1]
        found: np.ndarray = np.sqrt(squares / samples)
        return found

    return SumMetric(per_sample, values)


def _errors(outputs: Outputs, labels: np.ndarray, output: str) -> np.ndarray:
    """Output minus label, of every value of each sample; float64 [n, k]."""
    samples = len(labels)
    values = output_of(outputs, output).astype(np.float64)
    found = values.reshape(samples, -1)
    wanted = labels.astype(np.float64).reshape(samples, -1)
    if found.shape != wanted.shape:
        raise DataError(f"outputs have {found.shape[1]} values per sample, labels {wanted.shape[1]}")
    return found - wanted
