"""The scorecard in a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from edge_assets.core.evidence import Row

STYLES = {"released": "bold green", "baseline": "dim"}


def print_rows(checkpoint: str, rows: Sequence[Row]) -> None:
    """One table per target, and a line that says where it was measured."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    by_target: dict[str, list[Row]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
    for target, mine in by_target.items():
        console.print(_table(f"{checkpoint} on {target}: {_where(mine)}", mine))


def _where(rows: Sequence[Row]) -> str:
    """Where one target's rows were measured, or why nowhere."""
    for row in rows:
        if row.measured_on:
            return f"measured on {row.measured_on}, mode {row.mode}"
    return rows[0].not_measured or "not measured"


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    for name in ("variant", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("size KiB", "ratio", "accuracy", "drop points", "P50 ms", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            row.artifact,
            row.verdict,
            _number(row.size_bytes, "{:,.0f}", unit=1024),
            _number(row.size_ratio, "{:.2f}"),
            _number(row.accuracy, "{:.2f} %", unit=0.01),
            _number(row.accuracy_drop_points, "{:.2f}"),
            _number(row.p50_ms, "{:.3f}"),
            _number(row.peak_memory_bytes, "{:.0f}", unit=2**20),
            row.reason,
            style=STYLES.get(row.verdict),
        )
    return table


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


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
        console.print(f"{total:,} bytes ({total / 2**20:,.1f} MiB) {verb}")
    else:
        console.print(f"nothing {verb}")
    for note in notes:
        console.print(note, style="yellow", markup=False)
