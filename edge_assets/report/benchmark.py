"""The benchmark report of one checkpoint on one target."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_assets.core.evidence import Latency, Measured, Row
from edge_assets.core.shapes import record, written
from edge_assets.report import plots
from edge_assets.report.tables import frame


def write(folder: Path, rows: Sequence[Row], measured: Measured, timed: Mapping[str, Latency]) -> dict[str, object]:
    """Write `benchmark.csv`, `benchmark.json` and the plots into `folder`. Returns the report's facts.

    `timed` are latencies at batch 1, by variant.
    """
    frame(rows).to_csv(folder / "benchmark.csv", index=False)
    whole = record(measured)
    whole["rows"] = written(rows)  # the judged ones: the measurement has its own file
    (folder / "benchmark.json").write_text(json.dumps(whole, indent=1))
    (folder / "accuracy.png").write_bytes(plots.accuracy(rows))
    if timed:
        (folder / "latency.png").write_bytes(plots.latency_distribution(timed))
    return {"variants": len(rows), "mode": measured.mode}
