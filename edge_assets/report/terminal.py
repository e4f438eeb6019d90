"""The scorecard in a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_assets.core.evidence import Row
from edge_assets.report import matrix, words
from edge_assets.report.comparison import Change, Comparison, Shift, columns_of
from edge_assets.report.console import Column, Line, console, print_table
from edge_assets.report.tradeoff import usual_name

STYLES = {"released": "bold green", "baseline": "dim"}


def print_winners(checkpoint: str, rows: Sequence[Row]) -> None:
    """What ships where, one line per target, and how many variants of each were judged."""
    metric, drop = words.headings(rows)
    if drop != "drop":  # a share
        metric = f"{metric}\n%"
    columns = [
        Column("target", need=10),
        Column("ships", need=9),
        Column("scheme", need=3),
        Column("KiB", need=4, is_number=True),
        Column("% of\nfp32", need=2, is_number=True),
        Column(metric, need=7, is_number=True),
        Column(drop.replace(" ", "\n"), need=6, is_number=True),
        Column("P50\nms", need=5, is_number=True),
        Column("variants", need=1, is_number=True),
        Column("known by", need=8),
    ]
    lines = []
    for line in matrix.lines(rows):
        lines.append(Line(_winner_cells(line), style=None if line.winner else "red"))
    print_table(console(), f"{checkpoint}: what ships where", columns, lines)


def _winner_cells(line: matrix.Line) -> list[str]:
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
    names = columns_of(comparison.changes)
    columns = [Column("target", need=len(names) + 2), Column("ships", need=len(names) + 1)]
    for number, heading in enumerate(names.values()):
        columns.append(Column(heading, need=len(names) - number, is_number=True))
    lines = []
    for change in comparison.changes:
        shifts = [_shift(change.shift(name)) for name in names]
        lines.append(Line([change.target, _shipping(change), *shifts]))
    place = console()
    title = f"{comparison.after} against {comparison.before}"
    print_table(place, title, columns, lines, elsewhere="the page has all")
    for sentence in comparison.regressions:
        place.print(f"regression: {sentence}", style="red", markup=False)


def _shipping(change: Change) -> str:
    if not change.winner_changed:
        return change.shipped_after
    return f"{change.shipped_before} -> {change.shipped_after}"


def _shift(shift: Shift | None) -> str | Text:
    if shift is None:
        return "not known"
    style = {"better": "green", "worse": "red", "same": "dim"}[shift.verdict]
    return Text(f"{shift.shown(shift.before)} -> {shift.shown(shift.after)} ").append(shift.verdict, style)


def print_rows(checkpoint: str, rows: Sequence[Row]) -> None:
    """One table per target with every variant, and a line that says where it was measured."""
    metric, drop = words.headings(rows)
    columns = [
        Column("variant", need=10),
        Column("verdict", need=9),
        Column("size\nKiB", need=3, is_number=True),
        Column("ratio", need=2, is_number=True),
        Column(metric, need=6, is_number=True),
        Column(drop.replace(" ", "\n"), need=5, is_number=True),
        Column("P50\nms", need=4, is_number=True),
        Column("peak\nMiB", need=1, is_number=True),
        Column("known by", need=7),
        Column("why", need=8, least=16),
    ]
    place = console()
    for line in matrix.lines(rows):
        title = f"{checkpoint} on {line.target}: {_where(line.rows)}"
        lines = [Line(_row_cells(row), style=STYLES.get(row.verdict)) for row in line.rows]
        print_table(place, title, columns, lines)


def _where(rows: Sequence[Row]) -> str:
    """Where one target's rows were measured, or why nowhere."""
    for row in rows:
        if row.measured_on:
            return f"measured on {row.measured_on}, mode {row.mode}"
    return rows[0].not_measured or "not measured"


def _row_cells(row: Row) -> list[str]:
    return [
        row.artifact,
        row.verdict,
        _number(row.size_bytes, "{:,.0f}", unit=1024),
        _number(row.size_ratio, "{:.2f}"),
        words.score(row),
        words.drop(row),
        _number(row.p50_ms, "{:.3f}"),
        _number(row.peak_memory_bytes, "{:.0f}", unit=2**20),
        words.tier(row) if row.accuracy is not None else "-",
        row.reason,
    ]


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def print_freed(counts: Mapping[str, int], sizes: Mapping[str, int], notes: Sequence[str], dry_run: bool) -> None:
    """What a collection freed, or would free, by kind; then what it left, and why."""
    place = Console(highlight=False, soft_wrap=True)
    verb = "would be freed" if dry_run else "freed"
    if counts:
        table = Table()
        table.add_column("what", no_wrap=True)
        table.add_column("number", justify="right", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)
        for kind, count in counts.items():
            table.add_row(kind, f"{count:,}", f"{sizes[kind]:,}")
        place.print(table)
        total = sum(sizes.values())
        place.print(f"{total:,} bytes ({total / 2**20:,.1f} MiB) {verb}")
    else:
        place.print(f"nothing {verb}")
    for note in notes:
        place.print(note, style="yellow", markup=False)
