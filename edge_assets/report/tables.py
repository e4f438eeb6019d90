"""Rows as tables, with units in the column names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Row
from edge_assets.core.sizes import KIB, MIB, divided
from edge_assets.report import words

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """The columns that people compare, one line per variant; missing values where not measured."""
    import pandas as pd

    metric, drop = words.headings(rows)
    return pd.DataFrame([_line(row, metric, drop) for row in rows])


def _line(row: Row, metric: str, drop: str) -> dict[str, str | float | None]:
    unit = " (points)" if "points" in drop else ""
    line: dict[str, str | float | None] = {
        "target": row.target,
        "artifact": row.artifact,
        "precision": row.precision,
        "verdict": row.verdict,
        "size (KiB)": divided(row.size_bytes, KIB),
        f"size / {row.size_base}": row.size_ratio,
        metric: row.accuracy,
        f"drop{unit}": _drop(row),
        f"95 % interval{unit}": _interval(row),
        "SNR (dB)": row.parity_snr_db,
        "P50 (ms)": row.p50_ms,
        "P90 (ms)": None,
        "P99 (ms)": None,
        "throughput (1/s)": row.throughput_per_s,
        "peak memory (MiB)": divided(row.peak_memory_bytes, MIB),
        "measured on": row.measured_on or row.not_measured,
        "sha256": row.sha256,
    }
    if row.latency_ms:
        line["P90 (ms)"] = row.latency_ms.p90
        line["P99 (ms)"] = row.latency_ms.p99
    return line


def _drop(row: Row) -> float | None:
    if row.accuracy_drop_points is None:
        return None
    return words.scaled(row, row.accuracy_drop_points)


def _interval(row: Row) -> str | None:
    if row.accuracy_drop_interval_points is None:
        return None
    return words.drop_interval(row)
