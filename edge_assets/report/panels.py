"""What both kinds of plots show of variants: accuracy against size and, where it was timed, against latency."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_assets.core.evidence import Row
from edge_assets.core.sizes import KIB


@dataclass(frozen=True)
class Point:
    """A variant in a panel, at `x` on its axis."""

    row: Row
    x: float


def panels(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """One point per verified variant, by the panel's axis: one or two panels."""
    sized = [Point(row, row.size_bytes / KIB) for row in rows if row.size_bytes and row.accuracy is not None]
    timed = [Point(point.row, point.row.latency_ms.typical) for point in sized if point.row.latency_ms]
    found = {"artifact size (KiB)": sized}
    if timed:
        found["P50 latency at batch 1 (ms)"] = timed
    return found
