"""The scorecard in a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from edge_assets.core.evidence import Row
from edge_assets.report import matrix, words
from edge_assets.report.comparison import Change, Comparison, Shift, columns_of
from edge_assets.report.matrix import Line
from edge_assets.report.tradeoff import usual_name

STYLES = {"released": "bold green", "baseline": "dim"}


def print_winners(checkpoint: str, rows: Sequence[Row]) -> None:
    """What ships where, one line per target, and how many variants of each were judged."""
    table = Table(title=f"{checkpoint}: what ships where", title_justify="left")
    for name in ("target", "ships", "scheme"):
        table.add_column(name, no_wrap=True)
    metric, drop = words.headings(rows)
    if drop != "drop":  # a share
        metric = f"{metric} %"
    for name in ("KiB", "% of fp32", metric, drop, "P50 ms", "variants"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("known by", no_wrap=True)
    for line in matrix.lines(rows):
        table.add_row(*_winner_cells(line), style=None if line.winner else "red")
    _console().print(table)


def _winner_cells(line: Line) -> list[str]:
    row = line.winner
    judged = str(len(line.rows))
    if row is None:
        unknown = [""] * 6
        return [line.target, "nothing may be released", *unknown, judged, "see --target"]
    latency = row.latency_ms
    return [
        line.target,
        row.artifact,
        usual_name(row),
        _number(row.size_bytes, "{:,.1f}", unit=1024),
        _number(row.size_ratio, "{:.0f}", unit=0.01),
        words.score(row).removesuffix(" %").removesuffix(f" {row.own_unit}"),
        words.drop(row),
        _number(latency.typical if latency else None, "{:.3f}"),
        judged,
        words.known_by(row),
    ]


def print_comparison(comparison: Comparison) -> None:
    """Two checkpoints side by side: what ships on each target, and what got better or worse."""
    table = Table(title=f"{comparison.after} against {comparison.before}", title_justify="left")
    for name in ("target", "ships"):
        table.add_column(name)
    columns = columns_of(comparison.changes)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for change in comparison.changes:
        cells = [_shift(change.shift(name)) for name in columns]
        table.add_row(change.target, _shipping(change), *cells)
    console = _console()
    console.print(table)
    for sentence in comparison.regressions:
        console.print(f"regression: {sentence}", style="red", markup=False)


def _shipping(change: Change) -> str:
    if not change.winner_changed:
        return change.shipped_after
    return f"{change.shipped_before} -> {change.shipped_after}"


def _shift(shift: Shift | None) -> str:
    if shift is None:
        return "not known"
    mark = {"better": "[green]better[/]", "worse": "[red]worse[/]", "same": "[dim]same[/]"}[shift.verdict]
    return f"{shift.shown(shift.before)} -> {shift.shown(shift.after)} {mark}"


def print_rows(checkpoint: str, rows: Sequence[Row]) -> None:
    """One table per target with every variant, and a line that says where it was measured."""
    console = _console()
    for line in matrix.lines(rows):
        console.print(_table(f"{checkpoint} on {line.target}: {_where(line.rows)}", line.rows))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=150)


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
    for name in ("size KiB", "ratio", *words.headings(rows), "P50 ms", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            row.artifact,
            row.verdict,
            _number(row.size_bytes, "{:,.0f}", unit=1024),
            _number(row.size_ratio, "{:.2f}"),
            words.score(row),
            words.drop(row),
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
