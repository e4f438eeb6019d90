"""Latency statistics that claim no more than their sample supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

from edge_assets.core.evidence import Histogram, Latency
from edge_assets.later import np

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Mode:
    """How long a measurement lasts: both counts must be reached."""

    name: str
    queries: int
    seconds: float


# MLPerf Mobile's run lengths (mlcommons/mobile_app_open, "rapid", "quick" and "submission" modes)
MODES = {
    "rapid": Mode("rapid", 64, 6),
    "quick": Mode("quick", 128, 10),
    "release": Mode("release", 1024, 60),
}


@cache
def least_queries(percentile: int) -> int:
    """Fewest queries from which MLPerf's early stopping reports a percentile at 99 % confidence.

    The smallest n with P(Binomial(n, 1 - p) <= 1) <= 1 %: if more than 1-p of all queries were slower than the
    estimate, seeing at most one such among n would be that unlikely. P90 needs 64, P95 130, P99 662
    (mlcommons/inference, loadgen early stopping).
    """
    p = percentile / 100
    n = 2
    while sum(comb(n, k) * (1 - p) ** k * p ** (n - k) for k in (0, 1)) > 1 - CONFIDENCE:
        n += 1
    return n


def summarize(milliseconds: Sequence[float], batch: int = 1, distribution: bool = False) -> Latency:
    """Mean, standard deviation, percentiles (None below their least count) and throughput of latencies in ms.

    With `distribution` their histogram too.
    """
    times = np.asarray(milliseconds)
    found: dict[int, float | None] = dict.fromkeys(PERCENTILES)
    for percentile in PERCENTILES:
        if len(times) >= least_queries(percentile):
            found[percentile] = float(np.percentile(times, percentile))
    mean = float(times.mean())
    return Latency(
        queries=len(times),
        mean=mean,
        std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        p50=found[50],
        p90=found[90],
        p95=found[95],
        p99=found[99],
        throughput_per_s=1000 * batch / mean,
        histogram=histogram(milliseconds) if distribution else None,
    )


def histogram(milliseconds: Sequence[float], bins: int = 60) -> Histogram:
    """Counts of latencies in `bins` equal bins up to the 99.5th percentile; the last takes the tail."""
    times = np.asarray(milliseconds)
    edges = np.linspace(times.min(), max(np.percentile(times, 99.5), times.min() * 1.01), bins + 1)
    counts, _ = np.histogram(np.minimum(times, edges[-1]), edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
