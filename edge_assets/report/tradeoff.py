"""The measured tradeoffs of each scheme, beside what is usually promised for it.

A ratio compares with the unquantized variant of the same format on the same target: what changed is the scheme
alone. Speed is compared only where both were timed on the target's hardware, in one interleaved measurement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Promise:
    """What is commonly said of a scheme: points of accuracy lost, times smaller, times faster; low and high."""

    drop_points: tuple[float, float]
    smaller: tuple[float, float]
    faster: tuple[float, float]
    where: str  # the hardware that the speed is promised on


@dataclass(frozen=True)
class Tradeoff:
    """One scheme in one format on one target, as measured."""

    scheme: str
    artifact: str
    target: str
    base: str  # the fp32 artifact that the ratios compare with
    drop_points: float
    drop_interval_points: tuple[float, float]
    smaller: float
    faster: float | None  # None: not measured on the target
    promise: Promise | None
    remark: str  # where reality differs from the promise


# The customer's field guide, "Quantization Tradeoffs"
PROMISES = {
    "fp16": Promise((0.0, 0.1), (2, 2), (1.5, 2), "GPUs"),
    "int8 dynamic": Promise((0.5, 1), (2, 4), (1.5, 3), "CPUs"),
    "int8 static": Promise((1, 2), (3, 4), (2, 4), "CPUs"),
    "int8 QAT": Promise((0, 0.5), (3, 4), (2, 4), "CPUs"),
    "int4": Promise((1, 3), (4, 8), (2, 4), "GPUs"),
}

OVERHEAD = "scales, zero points and what stays in fp32"
WHY_LARGE = {"tensorrt": "the engine's kernels"}


def scheme(row: Row) -> str:
    """The scheme's usual name, from the recipe's: `int8_static_qdq_...` is int8 static."""
    recipe, precision = str(row["recipe"]), str(row["precision"])
    if precision == "int8":
        kinds = {"dynamic": "int8 dynamic", "qat": "int8 QAT", "static": "int8 static", "full": "int8 static"}
        return next((name for kind, name in kinds.items() if f"_{kind}" in recipe), "int8 weights")
    return {"lut6": "6-bit palette", "lut4": "4-bit palette"}.get(precision, precision)


def tradeoffs(rows: Rows) -> list[Tradeoff]:
    """One line per verified variant below fp32, ordered by scheme; targets that share its bytes share its line."""
    bases: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row["precision"] == "fp32" and row["size_bytes"]:
            bases.setdefault((row["target"], row["format"]), row)  # the plain conversion comes first
    seen: dict[tuple[str, bool], Tradeoff] = {}
    for row in rows:
        if row["precision"] == "fp32" or row["accuracy"] is None:
            continue
        base = bases.get((row["target"], row["format"]))
        entry = _tradeoff(row, base)
        known = seen.get((row["sha256"], entry.faster is not None))
        if known is None:
            seen[row["sha256"], entry.faster is not None] = entry
    order = [*PROMISES, "int8 weights", "6-bit palette", "4-bit palette"]
    return sorted(seen.values(), key=lambda t: (order.index(t.scheme) if t.scheme in order else len(order), t.artifact))


def _tradeoff(row: Row, base: Row | None) -> Tradeoff:
    name = scheme(row)
    low, high = row["accuracy_drop_interval_points"]
    smaller = base["size_bytes"] / row["size_bytes"] if base else 1 / row["size_ratio"]
    timed = base and row["latency_ms"] and base["latency_ms"]
    faster = _p50(base) / _p50(row) if base and timed else None
    promise = PROMISES.get(name)
    return Tradeoff(
        scheme=name,
        artifact=row["artifact"],
        target=row["target"],
        base=base["artifact"] if base else row["size_base"],
        drop_points=row["accuracy_drop_points"],
        drop_interval_points=(low, high),
        smaller=smaller,
        faster=faster,
        promise=promise,
        remark=_remark(promise, row["format"], row["accuracy_drop_points"], smaller, faster) if promise else "",
    )


def _p50(row: Row) -> float:
    return float(row["latency_ms"]["p50"] or row["latency_ms"]["mean"])


def _remark(promise: Promise, kind: str, drop: float, smaller: float, faster: float | None) -> str:
    remarks = []
    if drop > promise.drop_points[1]:
        remarks.append(f"loses more than the promised {promise.drop_points[1]:g} points")
    if smaller < promise.smaller[0] * 0.95:
        remarks.append(f"less small than promised: {WHY_LARGE.get(kind, OVERHEAD)} weigh in a small model")
    if faster is not None and faster < 1:
        remarks.append("slower than fp32 on this target")
    elif faster is not None and faster < promise.faster[0]:
        remarks.append(f"less fast than promised, which is for {promise.where}")
    return "; ".join(remarks)
