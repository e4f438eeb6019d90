"""Metrics of outputs that come some samples at a time: what is kept of them is as small as each metric allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_assets.core.datasets.kept import joined
from edge_assets.core.metrics.metric import MeanMetric, Measure, Outputs, OutputsMetric
from edge_assets.core.metrics.registry import measure_of
from edge_assets.core.sizes import readable_size
from edge_assets.core.verify import accuracy
from edge_assets.errors import DataError
from edge_assets.later import np
from edge_assets.settings import data_memory_bytes
from edge_assets.spec.metrics import BUILT_IN
from edge_assets.spec.model import Evaluation, Metric

PROBES = 64  # samples whose outputs are exchanged among each other, to see whether a metric says anything


def metrics_of(evaluation: Evaluation) -> tuple[Metric, ...]:
    """The metric that decides, and those beside it."""
    return (evaluation.deciding, *evaluation.others)


@dataclass
class Scoring:
    """What the metrics keep of samples, and of a few of them the outputs. Picklable, as parts of a set are."""

    metrics: Sequence[Metric]
    most_bytes: int | None  # of outputs for metrics that must see all of them at once; None: no bound
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)
    outputs: list[Mapping[str, np.ndarray]] = field(default_factory=list)  # only if a metric must see all at once
    labels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    output_bytes: int = 0

    def add(self, outputs: Outputs, raw: Mapping[str, np.ndarray]) -> None:
        """The next samples: their outputs, and the raw fields among which the labels are. Raises DataError."""
        is_kept = False
        for metric in self.metrics:
            labels = labels_of(metric, raw)
            measure = measure_of(metric)
            if not isinstance(measure, OutputsMetric):
                given = measure.per_sample(outputs, labels)
                found = checked(metric, measure, given, len(labels))
                self.kept.setdefault(metric.label, []).append(found)
                continue
            self.labels.setdefault(metric.label, []).append(labels)
            if not is_kept:
                self._keep(metric, outputs)
                is_kept = True

    def _keep(self, metric: Metric, outputs: Outputs) -> None:
        self.output_bytes += sum(array.nbytes for array in outputs.values())
        if self.most_bytes is not None and self.output_bytes > self.most_bytes:
            raise DataError(
                f"metric {metric.name} gets the outputs of the whole set at once, and these take more than the "
                f"{readable_size(data_memory_bytes())} for data. If the score of a sample depends on that sample "
                f"alone, say so: Metric('{metric.name}', by_chunk=True); else raise EDGE_ASSETS_DATA_MEMORY"
            )
        self.outputs.append(dict(outputs))

    def extend(self, other: Scoring) -> None:
        """The samples of the next part of the set."""
        for label, arrays in other.kept.items():
            self.kept.setdefault(label, []).extend(arrays)
        for label, arrays in other.labels.items():
            self.labels.setdefault(label, []).extend(arrays)
        self.outputs.extend(other.outputs)

    def statistics(self) -> dict[str, np.ndarray]:
        """What each metric keeps of all samples, by its label: scores [n], or [n, ...]."""
        found = {}
        outputs = joined(self.outputs)
        for metric in self.metrics:
            measure = measure_of(metric)
            if isinstance(measure, OutputsMetric):
                labels = np.concatenate(self.labels[metric.label])
                scores = measure.score(outputs, labels)
                found[metric.label] = checked(metric, measure, scores, len(labels))
            else:
                kept = np.concatenate(self.kept[metric.label])
                found[metric.label] = finished(measure, kept)
        return found


def labels_of(metric: Metric, raw: Mapping[str, np.ndarray]) -> np.ndarray:
    """The raw field that a metric compares with. Raises DataError."""
    assert metric.labels is not None
    if metric.labels not in raw:
        raise DataError(f"metric {metric.label}: no field '{metric.labels}' with the labels, only {sorted(raw)}")
    return raw[metric.labels]


def finished(measure: Measure, kept: np.ndarray) -> np.ndarray:
    """Scores of the whole set, where what is kept of its samples is none yet."""
    if isinstance(measure, MeanMetric) and measure.finish:
        return measure.finish(kept)
    return kept


def checked(metric: Metric, measure: Measure, found: object, samples: int) -> np.ndarray:
    """What a metric gave of some samples. Raises DataError if it is of another shape, or not finite."""
    array = np.asarray(found)
    is_scores = isinstance(measure, OutputsMetric)
    if isinstance(measure, MeanMetric):
        is_scores = measure.finish is None
    if is_scores:
        array = array.astype(np.float64)
        if array.shape != (samples,) or not np.isfinite(array).all():
            raise DataError(
                f"metric {metric.name} must give {samples} finite scores, one per sample; got shape {array.shape}"
            )
    elif array.ndim == 0 or len(array) != samples or array.dtype.kind not in "biuf":
        raise DataError(
            f"metric {metric.name} must give numbers of {samples} samples; got {array.dtype} of shape {array.shape}"
        )
    return array


# --- a metric that says nothing --------------------------------------------------------------------------


@dataclass
class Probes:
    """Outputs and labels of a few samples from all over the set."""

    positions: np.ndarray
    outputs: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    raw: list[Mapping[str, np.ndarray]] = field(default_factory=list)

    def add(self, start: int, outputs: Outputs, raw: Mapping[str, np.ndarray]) -> None:
        """The next samples of the set, which begin at `start`."""
        stop = start + len(next(iter(outputs.values())))
        is_here = (self.positions >= start) & (self.positions < stop)
        mine = self.positions[is_here] - start
        if len(mine):
            self.outputs.append({name: array[mine] for name, array in outputs.items()})
            self.raw.append({name: array[mine] for name, array in raw.items()})


def probes(samples: int) -> Probes:
    """Evenly over the set, so that samples that are sorted by their labels are of many."""
    positions = np.linspace(0, samples - 1, PROBES)
    return Probes(np.unique(positions.astype(np.int64)))


def demand_says_something(metric: Metric, statistics: np.ndarray, found: Probes) -> None:
    """Raises DataError if nothing can be read from the metric: no outputs are worse than the reference's by it."""
    measure = measure_of(metric)
    value = accuracy.value_of(measure, statistics)
    is_mean = isinstance(measure, MeanMetric | OutputsMetric)
    if value != 0 and is_mean and np.ptp(statistics) > 0:
        return  # it tells samples apart
    raw = joined(found.raw)
    outputs = joined(found.outputs)
    labels = labels_of(metric, raw)
    if value != 0 and value != _value(metric, outputs, labels):
        return
    exchanged = []
    for shift in (1, len(labels) // 2):
        others = {name: np.roll(array, shift, axis=0) for name, array in outputs.items()}
        exchanged.append(_value(metric, others, labels))
    if value == 0 and metric.higher_is_better and min(exchanged) >= 0:
        raise DataError(_zero(metric, len(statistics)))
    if exchanged == [value, value]:
        raise DataError(
            f"metric {metric.label} says nothing: it is {value:g} for all {len(statistics)} samples, and as much where "
            f"samples get each other's outputs. No variant could fail by it. Check the metric and the labels "
            f"'{metric.labels}'"
        )


def demand_above_zero(metric: Metric, value: float, samples: int) -> None:
    """Raises DataError if a built-in metric whose higher values are better is 0 on the reference."""
    if metric.name in BUILT_IN and metric.higher_is_better and value == 0:
        raise DataError(_zero(metric, samples))


def _zero(metric: Metric, samples: int) -> str:
    return (
        f"metric {metric.label} is 0 for PyTorch in fp32 on all {samples} samples, so no variant could be worse. Check "
        f"that outputs and labels '{metric.labels}' are of the same classes in the same order, and that the checkpoint "
        f"is trained"
    )


def _value(metric: Metric, outputs: Outputs, labels: np.ndarray) -> float:
    measure = measure_of(metric)
    scoring = Scoring([metric], None)
    assert metric.labels is not None
    scoring.add(outputs, {metric.labels: labels})
    return accuracy.value_of(measure, scoring.statistics()[metric.label])
