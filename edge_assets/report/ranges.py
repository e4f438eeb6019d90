"""The measured tradeoff of each scheme and format once, with its range over the targets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_assets.report.tradeoff import Promise, Tradeoff

Range = tuple[float, float]


@dataclass(frozen=True)
class SchemeRange:
    """A scheme in one format over all its targets: least and largest drop, factors and effort (seconds).

    The drop is in points, or in the unit of a metric that has its own.
    """

    scheme: str
    format: str
    targets: list[str]
    drop: Range
    smaller: Range
    faster: Range | None  # None: timed on no target
    timed_on: list[str]
    effort_seconds: Range | None
    promise: Promise | None
    remarks: list[str]


def by_scheme(tradeoffs: Sequence[Tradeoff]) -> list[SchemeRange]:
    """One line per scheme and format, in the order of the tradeoffs."""
    groups: dict[tuple[str, str], list[Tradeoff]] = {}
    for entry in tradeoffs:
        groups.setdefault((entry.scheme, entry.format), []).append(entry)
    return [_over(entries) for entries in groups.values()]


def _over(entries: Sequence[Tradeoff]) -> SchemeRange:
    first = entries[0]
    targets: list[str] = []
    timed_on: list[str] = []
    faster: list[float] = []
    efforts: list[float] = []
    for entry in entries:
        targets += entry.targets
        if entry.faster is not None:
            timed_on.append(entry.target)
            faster.append(entry.faster)
        if entry.effort_seconds is not None:
            efforts.append(entry.effort_seconds)
    drops = [entry.drop for entry in entries]
    smaller = [entry.smaller for entry in entries]
    remarks = [entry.remark for entry in entries if entry.remark]
    return SchemeRange(
        scheme=first.scheme,
        format=first.format,
        targets=_distinct(targets),
        drop=(min(drops), max(drops)),
        smaller=(min(smaller), max(smaller)),
        faster=_range(faster),
        timed_on=_distinct(timed_on),
        effort_seconds=_range(efforts),
        promise=first.promise,
        remarks=_distinct(remarks),
    )


def _range(values: Sequence[float]) -> Range | None:
    return (min(values), max(values)) if values else None


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
