"""From a metric's name to what computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

from edge_assets.core.metrics import classification, detection, regression, retrieval, segmentation, text
from edge_assets.core.metrics.metric import MeanMetric, Measure, Outputs, OutputsMetric, SetMetric
from edge_assets.errors import DataError, EdgeAssetsError, UserCodeError, told
from edge_assets.later import np
from edge_assets.spec.metrics import BUILT_IN
from edge_assets.spec.model import Metric
from edge_assets.spec.source import call

MADE: Mapping[str, Callable[..., Measure]] = {
    "top1_accuracy": classification.top1_accuracy,
    "topk_accuracy": classification.topk_accuracy,
    "f1": classification.f1,
    "auroc": classification.auroc,
    "mean_iou": segmentation.mean_iou,
    "coco_map": detection.coco_map,
    "wer": text.wer,
    "cer": text.cer,
    "mae": regression.mae,
    "rmse": regression.rmse,
    "cosine_retrieval": retrieval.cosine_retrieval,
    "perplexity": text.perplexity,
}


class WholeSet(Protocol):
    """A metric of the whole set as a user writes it."""

    def per_sample(self, outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        """What is kept of each sample of a part of the set; [n, ...] of numbers."""
        ...

    def value(self, per_sample: np.ndarray) -> float:
        """The value that follows from those of all samples, or of as many that were drawn from them."""
        ...


@cache
def measure_of(metric: Metric) -> Measure:
    """What computes it. A user's function raises UserCodeError, naming it, for what it raises itself."""
    if metric.name in MADE:
        return MADE[metric.name](**{**BUILT_IN[metric.name].options, **metric.options})
    if metric.whole_set:
        return _users(metric.name)

    def score(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores: np.ndarray = call(metric.name, "metric", outputs, labels)
        return scores

    if metric.by_chunk:
        return MeanMetric(score)
    return OutputsMetric(score)


def _users(name: str) -> SetMetric:
    """A user's class of the whole set."""
    own: WholeSet = call(name, "metric")

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(own.per_sample(outputs, labels))
        except EdgeAssetsError:
            raise
        except Exception as error:
            raise UserCodeError(f"metric {name}.per_sample raised {told(error)}") from error

    def prepare(samples: np.ndarray) -> Callable[[np.ndarray], float]:
        def value(counts: np.ndarray) -> float:
            try:
                found = float(own.value(np.repeat(samples, counts, axis=0)))
            except EdgeAssetsError:
                raise
            except Exception as error:
                raise UserCodeError(f"metric {name}.value raised {told(error)}") from error
            if not np.isfinite(found):
                raise DataError(f"metric {name}.value gives {found}, which is no finite number")
            return found

        return value

    return SetMetric(per_sample, prepare)
