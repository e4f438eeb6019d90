"""The measured tradeoff of each scheme and format once, with its range over the targets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_assets.report.tradeoff import Promise, Tradeoff

Range = tuple[float, float]


@dataclass(frozen=True)
class SchemeRange:
    """A scheme in one format over all its targets: least and largest drop (points), factors and effort (seconds)."""

    scheme: str
    format: str
    artifacts: list[str]
    targets: list[str]
    drop_points: Range
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
    timed = [entry for entry in entries if entry.faster is not None]
    drop = _range(entry.drop_points for entry in entries)
    smaller = _range(entry.smaller for entry in entries)
    assert drop is not None and smaller is not None
    return SchemeRange(
        scheme=first.scheme,
        format=first.format,
        artifacts=_distinct(entry.artifact for entry in entries),
        targets=_distinct(target for entry in entries for target in entry.targets),
        drop_points=drop,
        smaller=smaller,
        faster=_range(entry.faster for entry in timed),
        timed_on=_distinct(entry.target for entry in timed),
        effort_seconds=_range(entry.effort_seconds for entry in entries),
        promise=first.promise,
        remarks=_distinct(entry.remark for entry in entries if entry.remark),
    )


def _range(values: Iterable[float | None]) -> Range | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
