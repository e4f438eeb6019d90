"""The benchmark report of one checkpoint on one target."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_assets.report import plots
from edge_assets.report.tables import frame

Rows = Sequence[Mapping[str, Any]]


def write(folder: Path, rows: Rows, measured: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `benchmark.csv`, `benchmark.json` and the plots into `folder`."""
    frame(rows).to_csv(folder / "benchmark.csv", index=False)
    (folder / "benchmark.json").write_text(json.dumps({**facts, "rows": list(rows)}, indent=1))
    (folder / "accuracy.png").write_bytes(plots.accuracy(rows))
    if facts["mode"]:
        (folder / "latency.png").write_bytes(plots.latency_distribution(measured))
    return {"variants": len(rows), "mode": facts["mode"]}
