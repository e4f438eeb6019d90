"""Rows as tables, with units in the column names."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Mapping[str, Any]]


def frame(rows: Rows) -> "pd.DataFrame":
    """The columns that people compare, one line per variant; missing values where not measured."""
    import pandas as pd

    return pd.DataFrame([_flat(row) for row in rows])


def markdown(rows: Rows) -> str:
    """The same table as Markdown, `-` where not measured."""
    table = frame(rows).drop(columns=["sha256"])
    return table.to_markdown(index=False, floatfmt=".4g", missingval="-")


def plain(records: Rows) -> str:
    """Records as they are, as a Markdown table."""
    import pandas as pd

    return pd.DataFrame(list(records)).to_markdown(index=False, floatfmt=".4g", missingval="-")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    latency = row["latency_ms"] or {}
    interval = row["accuracy_drop_interval_points"]
    memory = row["peak_memory_bytes"]
    return {
        "target": row["target"],
        "artifact": row["artifact"],
        "precision": row["precision"],
        "verdict": row["verdict"],
        "size (KiB)": row["size_bytes"] and row["size_bytes"] / 1024,
        f"size / {row['size_base']}": row["size_ratio"],
        "accuracy": row["accuracy"],
        "drop (points)": row["accuracy_drop_points"],
        "95 % interval (points)": f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else None,
        "SNR (dB)": row["parity_snr_db"],
        "P50 (ms)": latency.get("p50"),
        "P90 (ms)": latency.get("p90"),
        "P99 (ms)": latency.get("p99"),
        "throughput (1/s)": row["throughput_per_s"],
        "peak memory (MiB)": memory and memory / 2**20,
        "measured on": row["measured_on"] or row["not_measured"],
        "sha256": row["sha256"],
    }
