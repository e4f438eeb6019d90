"""What measurements here and on devices have in common: what is queried, when it was, and how it is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_assets.core.evidence import Conditions, MeasuredVariant
from edge_assets.core.shapes import record, written
from edge_assets.later import np
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import MEASUREMENT_SAMPLES


def queried(data: Datasets, batch_sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Evaluation samples that queries cycle through, as many as the largest batch at least."""
    samples = range(max(MEASUREMENT_SAMPLES, *batch_sizes))
    evaluation = data.first_feeds(data.evaluation, len(samples))
    return {name: array.take(samples, axis=0, mode="wrap") for name, array in evaluation.items()}


def now() -> str:
    """UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def written_down(conditions: Conditions, rows: Mapping[str, MeasuredVariant], folder: Path) -> Mapping[str, object]:
    """The measurement as it is kept; returns its facts."""
    facts = record(conditions)
    (folder / "measurement.json").write_text(json.dumps(facts | {"rows": written(rows)}, indent=1))
    return facts
