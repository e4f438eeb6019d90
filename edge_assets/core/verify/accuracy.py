"""Task metric on the whole evaluation set, and its drop against fp32 with a confidence interval.

Both models see the same samples, so the drop is estimated from paired per-sample scores: its interval is far
narrower than that of two separate accuracies. The interval is a percentile bootstrap over samples (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), seeded.
"""

from collections.abc import Callable, Iterable

import numpy as np

from edge_assets.core.evidence import Accuracy
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import DataError
from edge_assets.spec.source import call

BATCH = 64
RESAMPLES = 2000
CONFIDENCE = 0.95


def top1_accuracy(outputs: Feeds, labels: np.ndarray) -> np.ndarray:
    """1 where the largest value of the first output is at the label, else 0; float64 [n]."""
    first = next(iter(outputs.values()))
    hits: np.ndarray = first.argmax(axis=-1) == labels
    return hits.astype(np.float64)


BUILT_IN = {"top1_accuracy": top1_accuracy}


def metric(name: str) -> Callable[[Feeds, np.ndarray], np.ndarray]:
    """The built-in metric or the function `package.module:function` names, which raises UserCodeError."""
    if name in BUILT_IN:
        return BUILT_IN[name]

    def own(outputs: Feeds, labels: np.ndarray) -> np.ndarray:
        scores: np.ndarray = call(name, "metric", outputs, labels)
        return scores

    return own


def scores_name(outputs: Iterable[str]) -> str:
    """What per-sample scores are called beside outputs, one of which may have the name itself."""
    return "scores_of_the_metric" if "scores" in outputs else "scores"


def score(name: str, outputs: Feeds, labels: np.ndarray) -> np.ndarray:
    """Scores of the metric, one per sample. Raises DataError if a custom metric gives another shape or NaN."""
    scores = np.asarray(metric(name)(outputs, labels), np.float64)
    if scores.shape != (len(labels),) or not np.isfinite(scores).all():
        raise DataError(
            f"metric {name} must give {len(labels)} finite scores, one per sample; got shape {scores.shape}"
        )
    return scores


def run_all(session: Session, feeds: Feeds, batch: int = BATCH) -> dict[str, np.ndarray]:
    """Outputs for the whole set, `batch` samples at a time."""
    count = len(next(iter(feeds.values())))
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, batch):
        batched = {name: array[start : start + batch] for name, array in feeds.items()}
        for name, output in session.run(batched).items():
            parts.setdefault(name, []).append(output)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def compare(scores: np.ndarray, reference: np.ndarray, higher_is_better: bool) -> Accuracy:
    """Mean of `scores`, and its drop against `reference`, scores of the same samples; both float64 [n].

    Samples that got worse and better are McNemar's discordant pairs where scores are 0 and 1.
    """
    loss = reference - scores
    if not higher_is_better:
        loss = -loss
    # resampling n samples is drawing how often each distinct loss occurs, which is far cheaper
    values, counts = np.unique(loss, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(loss), counts / len(loss), size=RESAMPLES)
    means = draws @ values / len(loss)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Accuracy(
        value=float(scores.mean()),
        reference=float(reference.mean()),
        samples=len(scores),
        drop_points=100 * float(loss.mean()),
        drop_interval_points=(100 * float(low), 100 * float(high)),
        confidence=CONFIDENCE,
        lost=int((loss > 0).sum()),
        gained=int((loss < 0).sum()),
    )
