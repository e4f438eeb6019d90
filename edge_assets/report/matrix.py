"""Targets against schemes: what became of each, and how it is shown without colour alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from edge_assets.core.evidence import Row
from edge_assets.report import tradeoff

# how a verdict is shown: its mark, its words, and the class of its colour; the best first
VERDICTS = {
    "released": ("★", "released", "won"),
    "not_selected": ("✓", "passed, not selected", "passed"),
    "dominated": ("✓", "passed, dominated", "passed"),
    "slower_than_baseline": ("✓", "passed, slower than PyTorch", "passed"),
    "failed_accuracy": ("✗", "failed accuracy", "gate"),
    "failed_parity": ("✗", "failed parity", "gate"),
    "failed_size": ("✗", "failed size", "gate"),
    "failed_memory": ("✗", "failed memory", "gate"),
    "missing_evidence": ("?", "missing evidence", "unknown"),
    "unverified": ("?", "not verified", "unknown"),
    "failed": ("!", "build failed", "broken"),
    "refused": ("-", "refused", "absent"),
    "unavailable": ("-", "tool not installed", "absent"),
    "baseline": ("=", "what the others are compared with", "absent"),
}
ORDER = list(VERDICTS)


def shown_as(verdict: str, metric: str = "accuracy") -> tuple[str, str, str]:
    """Mark, words and class of a verdict; one that a later version gave has its own words.

    `metric` is what the deciding one is called.
    """
    mark, words, kind = VERDICTS.get(verdict, ("?", verdict.replace("_", " "), "unknown"))
    if verdict == "failed_accuracy":
        words = f"failed {metric}"
    return mark, words, kind


def place_of(verdict: str) -> int:
    """Where a verdict stands among all: the one that a person asks for first, an unknown one last."""
    return ORDER.index(verdict) if verdict in ORDER else len(ORDER)


@dataclass(frozen=True)
class Line:
    """One target: its variants by scheme, the best of each first, and the one that ships."""

    family: str
    target: str
    winner: Row | None
    by_scheme: dict[str, list[Row]]
    rows: list[Row]

    @property
    def verdicts(self) -> str:
        """The words that the page filters by."""
        return " ".join(sorted({row.verdict for row in self.rows}))


def lines(rows: Sequence[Row]) -> list[Line]:
    """One line per target, in the order of the rows."""
    return [_line(target, list(mine)) for target, mine in groupby(rows, key=lambda row: row.target)]


def _line(target: str, rows: list[Row]) -> Line:
    winner = next((row for row in rows if row.verdict == "released"), None)
    by_scheme: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_rank):
        if row.verdict != "baseline":
            by_scheme.setdefault(tradeoff.usual_name(row), []).append(row)
    return Line(family=rows[0].family, target=target, winner=winner, by_scheme=by_scheme, rows=rows)


def _rank(row: Row) -> tuple[int, int]:
    """By verdict; among equals the smaller artifact first."""
    return place_of(row.verdict), row.size_bytes or 0


def schemes(table: Sequence[Line]) -> list[str]:
    """The schemes that any target has, from fp32 down to the fewest bits."""
    found = {scheme for line in table for scheme in line.by_scheme}
    known = [scheme for scheme in ("fp32", *tradeoff.ORDER) if scheme in found]
    return known + sorted(found.difference(known))
