"""Task metrics on the whole evaluation set, and their drop against fp32 with a confidence interval.

Both models see the same samples, so the drop is estimated from paired samples: its interval is far narrower than that
of two separate accuracies. The interval is a percentile bootstrap over samples (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 13), seeded: of the differences of scores where a metric is their mean, else of the
metric itself, whose value is computed anew for both models on each drawing of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from edge_assets.core.evidence import Accuracy
from edge_assets.core.metrics.metric import MeanMetric, Measure, OutputsMetric, SetMetric, SumMetric
from edge_assets.core.session import Feeds, Session
from edge_assets.later import np

BATCH = 64
RESAMPLES = 2000
LEAST_RESAMPLES = 200
WORK = 2**31  # numbers that the drawings of a metric of the whole set look at
BLOCK = 2**22  # counts of drawings that are held at a time
CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def scores_name(outputs: Iterable[str]) -> str:
    """What per-sample scores are called beside outputs, one of which may have the name itself."""
    return "scores_of_the_metric" if "scores" in outputs else "scores"


def run_all(session: Session, feeds: Feeds, batch: int = BATCH) -> dict[str, np.ndarray]:
    """Outputs for the whole set, `batch` samples at a time."""
    count = len(next(iter(feeds.values())))
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, batch):
        stop = start + batch
        batched = {name: array[start:stop] for name, array in feeds.items()}
        for name, output in session.run(batched).items():
            parts.setdefault(name, []).append(output)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def against(
    measure: Measure,
    found: np.ndarray,
    reference: np.ndarray,
    higher_is_better: bool,
) -> Accuracy:
    """A metric's value and its drop, of what it keeps of the same samples of both models."""
    if isinstance(measure, MeanMetric | OutputsMetric):
        return compare(found, reference, higher_is_better)
    if isinstance(measure, SumMetric):
        return _compare_values(
            found=_of_sums(measure, found),
            reference=_of_sums(measure, reference),
            resamples=RESAMPLES,
            higher_is_better=higher_is_better,
        )
    affordable = WORK // max(found.size, 1)
    resamples = int(np.clip(affordable, LEAST_RESAMPLES, RESAMPLES))
    return _compare_values(
        found=_of_set(measure, found, resamples),
        reference=_of_set(measure, reference, resamples),
        resamples=resamples,
        higher_is_better=higher_is_better,
    )


def value_of(measure: Measure, found: np.ndarray) -> float:
    """The value of the whole set."""
    if isinstance(measure, SumMetric):
        sums = found.sum(axis=0, dtype=np.float64)
        (value,) = measure.values(sums[None])
        return float(value)
    if isinstance(measure, SetMetric):
        once = np.ones(len(found), np.int64)
        return measure.prepare(found)(once)
    return float(found.mean())


def compare(scores: np.ndarray, reference: np.ndarray, higher_is_better: bool) -> Accuracy:
    """Mean of `scores`, and its drop against `reference`, scores of the same samples; both float64 [n].

    Samples that got worse and better are McNemar's discordant pairs where scores are 0 and 1.
    """
    loss = reference - scores
    if not higher_is_better:
        loss = -loss
    # resampling n samples is drawing how often each distinct loss occurs, which is far cheaper
    samples = len(loss)
    values, counts = np.unique(loss, return_counts=True)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(samples, counts / samples, size=RESAMPLES)
    means = draws @ values / samples
    low, high = np.quantile(means, TAILS)
    return Accuracy(
        value=float(scores.mean()),
        reference=float(reference.mean()),
        samples=samples,
        drop_points=100 * float(loss.mean()),
        drop_interval_points=(100 * float(low), 100 * float(high)),
        confidence=CONFIDENCE,
        lost=int((loss > 0).sum()),
        gained=int((loss < 0).sum()),
    )


Drawn: TypeAlias = "tuple[int, float, np.ndarray]"  # how many samples, the value of all, and those of drawings


def _of_sums(measure: SumMetric, found: np.ndarray) -> Drawn:
    """Values of drawings, of which only the sums count."""
    samples = len(found)
    values = []
    block = max(1, BLOCK // samples)
    counts = _drawings(samples)
    for start in range(0, RESAMPLES, block):
        drawings = min(block, RESAMPLES - start)
        drawn = np.stack([counts() for _ in range(drawings)])
        sums = drawn.astype(np.float64) @ found
        values.append(measure.values(sums))
    return samples, value_of(measure, found), np.concatenate(values)


def _of_set(measure: SetMetric, found: np.ndarray, resamples: int) -> Drawn:
    value = measure.prepare(found)
    counts = _drawings(len(found))
    drawn = [value(counts()) for _ in range(resamples)]
    once = np.ones(len(found), np.int64)
    return len(found), value(once), np.array(drawn)


def _drawings(samples: int) -> Callable[[], np.ndarray]:
    """How often each sample is drawn, each time it is called; the same drawings for both models."""
    generator = np.random.default_rng(0)

    def counts() -> np.ndarray:
        positions = generator.integers(0, samples, samples)
        return np.bincount(positions, minlength=samples)

    return counts


def _compare_values(
    found: Drawn,
    reference: Drawn,
    resamples: int,
    higher_is_better: bool,
) -> Accuracy:
    sign = 1 if higher_is_better else -1
    samples, value, drawn = found
    _, before, drawn_before = reference
    drops = sign * (drawn_before - drawn)
    low, high = np.quantile(drops, TAILS)
    return Accuracy(
        value=value,
        reference=before,
        samples=samples,
        drop_points=100 * sign * (before - value),
        drop_interval_points=(100 * float(low), 100 * float(high)),
        confidence=CONFIDENCE,
        lost=None,
        gained=None,
        resamples=resamples if resamples < RESAMPLES else None,
    )
