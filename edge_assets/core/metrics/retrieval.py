"""Search by cosine among the embeddings of the set itself."""

from __future__ import annotations

from edge_assets.core.metrics.metric import MeanMetric, Outputs, demand_shape, output_of
from edge_assets.errors import DataError
from edge_assets.later import np

ROWS = 256  # queries that are compared with all others at a time


def cosine_retrieval(k: int, output: str) -> MeanMetric:
    """1 where one of the k samples nearest by cosine has the same label, else 0: recall at k among all others.

    Outputs are embeddings [n, d], labels int [n], such as the number of a pair.
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        vectors = output_of(outputs, output).astype(np.float64)
        demand_shape(vectors, 2, "outputs", "[n, d]")
        demand_shape(labels, 1, "labels", "[n]")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(norms > 0, norms, 1)
        first = labels[:, None].astype(np.float64)
        return np.concatenate([first, unit], axis=1)

    def finish(found: np.ndarray) -> np.ndarray:
        labels = found[:, 0]
        vectors = found[:, 1:]
        samples = len(found)
        if samples <= k:
            raise DataError(f"cosine_retrieval with k={k} needs more than {k} samples, not {samples}")
        scores = np.zeros(samples)
        for start in range(0, samples, ROWS):
            stop = min(start + ROWS, samples)
            rows = np.arange(start, stop)
            cosines = vectors[rows] @ vectors.T
            cosines[np.arange(len(rows)), rows] = -np.inf  # itself
            nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            is_same = labels[nearest] == labels[rows, None]
            scores[rows] = is_same.any(axis=1)
        return scores

    return MeanMetric(per_sample, finish)
