"""Two checkpoints side by side: per target what got better or worse, and whether another variant ships now.

An accuracy is better or worse only where the difference is beyond its interval. That one puts together, as the root of
the sum of their squares, the half widths of three intervals over the same evaluation samples: of fp32 after against
fp32 before, and of each variant's drop against its own fp32. Latencies of two sessions are not comparable as they are:
what is compared is how many times as fast as PyTorch eager in the same session.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_assets.core.evidence import Accuracy, Row
from edge_assets.core.sizes import KIB, MIB
from edge_assets.report import words

Verdict = Literal["better", "worse", "same"]
NOTHING = "nothing"
SIZE_TIE = 0.02  # relative: sizes closer than this are the same, as where a winner is chosen
SPEED_TIE = 0.05  # relative: speeds of two sessions differ by so much by themselves
MEMORY_TIE = 0.05


@dataclass(frozen=True)
class Shift:
    """One number of what ships on a target, before and after. `interval` is that of the difference, in its unit.

    `label` is what it is called; a metric of a unit of its own has no `unit` besides its name.
    """

    name: Literal["accuracy", "size", "speed", "memory"]
    label: str
    unit: str
    before: float
    after: float
    verdict: Verdict
    interval: tuple[float, float] | None = None

    @property
    def heading(self) -> str:
        """Of the column that it stands in."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float, sign: str = "") -> str:
        """A value of its kind; `sign` "+" shows that of positive ones too."""
        return f"{value:{sign}.2f}" if self.unit else f"{value:{sign}.4g}"

    @property
    def difference(self) -> float:
        """After less before."""
        return self.after - self.before


@dataclass(frozen=True)
class Change:
    """One target: what shipped, what ships now, and how that differs."""

    family: str
    target: str
    before: Row | None
    after: Row | None
    shifts: tuple[Shift, ...]

    @property
    def winner_changed(self) -> bool:
        """Whether another variant ships now, or one where there was none, or none where there was one."""
        return self.shipped_before != self.shipped_after

    @property
    def shipped_before(self) -> str:
        """The artifact that shipped, or "nothing"."""
        return self.before.artifact if self.before else NOTHING

    @property
    def shipped_after(self) -> str:
        """The artifact that ships now, or "nothing"."""
        return self.after.artifact if self.after else NOTHING

    def shift(self, name: str) -> Shift | None:
        """The shift of that name, where both checkpoints have the number."""
        for shift in self.shifts:
            if shift.name == name:
                return shift
        return None

    def regression(self, max_drop_points: float) -> str | None:
        """Why the newer release is a regression: there is none any more, or its score is worse by more than the gate.

        Worse is the metric's own: for an error rate, it is more.
        """
        if self.before and not self.after:
            return f"{self.target}: {self.before.artifact} was released before, now nothing may be"
        accuracy = self.shift("accuracy")
        if accuracy is None or accuracy.verdict != "worse":
            return None
        loss = abs(accuracy.difference)
        gate = max_drop_points if accuracy.unit else max_drop_points / 100
        if loss <= gate:
            return None
        low, high = accuracy.interval or (accuracy.difference, accuracy.difference)
        half = (high - low) / 2
        by = f"{accuracy.shown(loss)} {accuracy.unit}".strip()
        if accuracy.label != "accuracy":
            by = f"{accuracy.label} {by}"
        return (
            f"{self.target}: {by} worse than before ({accuracy.shown(loss - half)} to {accuracy.shown(loss + half)}), "
            f"over the gate of {accuracy.shown(gate)}"
        )


@dataclass(frozen=True)
class Comparison:
    """A checkpoint against an earlier one, both by their keys.

    `metric` is the deciding one, and `is_share` whether it is shown in percent. `fp32` is the newer one's value of it
    in PyTorch eager against the older one's; None where they have no evaluation samples in common. `regressions` has a
    sentence for each target that became worse by more than the gate.
    """

    before: str
    after: str
    metric: str
    is_share: bool
    fp32: Accuracy | None
    changes: Sequence[Change]
    regressions: Sequence[str]


def compare(before: Sequence[Row], after: Sequence[Row], fp32: Accuracy | None, higher_is_better: bool) -> list[Change]:
    """One change per target that both or either of two checkpoints were judged on, in the order of the rows.

    `fp32` is the newer checkpoint's accuracy in PyTorch eager against the older one's; None where they were not
    evaluated on the same samples, so that their accuracies are not compared.
    """
    targets = {row.target: row.family for row in (*after, *before)}
    changes = []
    for target, family in targets.items():
        old, new = _with_verdict(before, target, "released"), _with_verdict(after, target, "released")
        shifts: list[Shift] = []
        if old and new:
            if fp32:
                shifts += _accuracy_shifts(old, new, fp32, higher_is_better)
            eager_before = _with_verdict(before, target, "baseline")
            eager_after = _with_verdict(after, target, "baseline")
            shifts += _other_shifts(old, new, eager_before, eager_after)
        change = Change(
            family=family,
            target=target,
            before=old,
            after=new,
            shifts=tuple(shifts),
        )
        changes.append(change)
    return changes


def regressions(changes: Sequence[Change], max_drop_points: float) -> list[str]:
    """A sentence for each target on which the newer checkpoint is a regression."""
    sentences = (change.regression(max_drop_points) for change in changes)
    return [sentence for sentence in sentences if sentence]


def columns_of(changes: Sequence[Change]) -> dict[str, str]:
    """Headings of the numbers that any target has of both checkpoints, by name."""
    headings: dict[str, str] = {}
    for change in changes:
        for shift in change.shifts:
            headings[shift.name] = shift.heading
    return headings


def _with_verdict(rows: Sequence[Row], target: str, verdict: str) -> Row | None:
    for row in rows:
        if row.target == target and row.verdict == verdict:
            return row
    return None


def _accuracy_shifts(old: Row, new: Row, fp32: Accuracy, higher_is_better: bool) -> Iterator[Shift]:
    """In points, or, of a metric with a unit of its own, in that."""
    if old.accuracy is None or new.accuracy is None:
        return
    before, after = words.scaled(new, 100 * old.accuracy), words.scaled(new, 100 * new.accuracy)
    low, high = fp32.drop_interval_points
    half = words.scaled(new, math.hypot((high - low) / 2, _half_width(old), _half_width(new)))
    difference = after - before
    gain = difference if higher_is_better else -difference
    verdict: Verdict = "same"
    if gain > half:
        verdict = "better"
    elif gain < -half:
        verdict = "worse"
    yield Shift(
        name="accuracy",
        label=words.metric(new),
        unit="" if new.own_unit else "points",
        before=before,
        after=after,
        verdict=verdict,
        interval=(difference - half, difference + half),
    )


def _other_shifts(old: Row, new: Row, eager_before: Row | None, eager_after: Row | None) -> Iterator[Shift]:
    if old.size_bytes and new.size_bytes:
        verdict = _relative(old.size_bytes, new.size_bytes, SIZE_TIE)
        yield Shift("size", "size", "KiB", old.size_bytes / KIB, new.size_bytes / KIB, verdict)
    before, after = _speed(old, eager_before), _speed(new, eager_after)
    if before and after:
        verdict = _relative(1 / before, 1 / after, SPEED_TIE)
        yield Shift("speed", "speed", "times as fast as PyTorch eager", before, after, verdict)
    if old.peak_memory_bytes and new.peak_memory_bytes:
        verdict = _relative(old.peak_memory_bytes, new.peak_memory_bytes, MEMORY_TIE)
        yield Shift("memory", "memory", "MiB", old.peak_memory_bytes / MIB, new.peak_memory_bytes / MIB, verdict)


def _half_width(row: Row) -> float:
    low, high = row.accuracy_drop_interval_points or (0.0, 0.0)
    return (high - low) / 2


def _speed(row: Row, eager: Row | None) -> float | None:
    """How many times as fast as PyTorch eager in the same session."""
    if row.latency_ms is None or eager is None or eager.latency_ms is None:
        return None
    return eager.latency_ms.typical / row.latency_ms.typical


def _relative(before: float, after: float, tie: float) -> Verdict:
    """Of numbers that are the better the smaller they are."""
    if abs(after - before) <= tie * before:
        return "same"
    return "better" if after < before else "worse"
