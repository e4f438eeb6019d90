"""The scorecard in a terminal."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

STYLES = {"released": "bold green", "baseline": "dim"}


def print_scorecard(checkpoint: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One table per target, and a line that says where it was measured."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    for target, group in groupby(rows, key=lambda row: row["target"]):
        mine = list(group)
        timed = next((row for row in mine if row["measured_on"]), None)
        where = f"measured on {timed['measured_on']}, mode {timed['mode']}" if timed else mine[0]["not_measured"]
        table = Table(title=f"{checkpoint} on {target}: {where}", title_justify="left", expand=True)
        for name in ("variant", "verdict"):
            table.add_column(name, no_wrap=True)
        for name in ("size KiB", "ratio", "accuracy", "drop points", "P50 ms", "peak MiB"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("why", overflow="fold", ratio=1)
        for row in mine:
            table.add_row(*_cells(row), style=STYLES.get(row["verdict"]))
        console.print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    latency, memory = row["latency_ms"] or {}, row["peak_memory_bytes"]
    return [
        row["artifact"],
        row["verdict"],
        _number(row["size_bytes"] and row["size_bytes"] / 1024, "{:,.0f}"),
        _number(row["size_ratio"], "{:.2f}"),
        _number(row["accuracy"] and 100 * row["accuracy"], "{:.2f} %"),
        _number(row["accuracy_drop_points"], "{:.2f}"),
        _number(latency.get("p50"), "{:.3f}"),
        _number(memory and memory / 2**20, "{:.0f}"),
        row["reason"],
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def print_freed(counts: Mapping[str, int], sizes: Mapping[str, int], notes: Sequence[str], dry_run: bool) -> None:
    """What a collection freed, or would free, by kind; then what it left, and why."""
    console = Console(highlight=False, soft_wrap=True)
    verb = "would be freed" if dry_run else "freed"
    if counts:
        table = Table()
        table.add_column("what", no_wrap=True)
        table.add_column("number", justify="right", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)
        for kind, count in counts.items():
            table.add_row(kind, f"{count:,}", f"{sizes[kind]:,}")
        console.print(table)
    total = sum(sizes.values())
    console.print(f"{total:,} bytes ({total / 2**20:,.1f} MiB) {verb}" if counts else f"nothing {verb}")
    for note in notes:
        console.print(note, style="yellow", markup=False)
