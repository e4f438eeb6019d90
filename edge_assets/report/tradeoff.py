"""The measured tradeoffs of each scheme, beside what is usually promised for it.

A ratio compares with the unquantized variant of the same format on the same target: what changed is the scheme
alone. Speed is compared only where both were timed on the target's hardware, in one interleaved measurement.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_assets.core.select import TIE

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
    recipe: str
    target: str
    base: str  # the fp32 artifact that the ratios compare with
    drop_points: float
    drop_interval_points: tuple[float, float]
    smaller: float
    faster: float | None  # None: not measured on the target
    effort_seconds: float | None  # of its build, with training or search, on the building machine; None in older rows
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
SMALL_BYTES = 16 * 2**20  # of the fp32 file below which overheads weigh
SMALL_MS = 1.0  # P50 of fp32 below which conversions between int8 and fp32 weigh
DEPTHWISE_SHARE = 0.2  # of the convolutions
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
    graphs = {row["target"]: row["graph"] for row in rows if row.get("graph")}
    seen: dict[tuple[str, str, str | None], Tradeoff] = {}
    for row in rows:
        if row["precision"] == "fp32" or row["accuracy"] is None:
            continue
        base = bases.get((row["target"], row["format"]))
        entry = _tradeoff(row, base, graphs.get(row["target"], {}))
        timed_on = row["target"] if entry.faster is not None else None
        seen.setdefault((row["artifact"], row["sha256"], timed_on), entry)
    order = [*PROMISES, "int8 weights", "6-bit palette", "4-bit palette"]
    return sorted(seen.values(), key=lambda t: (order.index(t.scheme) if t.scheme in order else len(order), t.artifact))


def refusals(rows: Rows) -> list[tuple[str, str]]:
    """Schemes that were not built for this model, by artifact, each with its reason once."""
    return list(dict.fromkeys((row["artifact"], row["reason"]) for row in rows if row["verdict"] == "refused"))


def _tradeoff(row: Row, base: Row | None, graph: Mapping[str, int]) -> Tradeoff:
    name = scheme(row)
    low, high = row["accuracy_drop_interval_points"]
    smaller = base["size_bytes"] / row["size_bytes"] if base else 1 / row["size_ratio"]
    timed = base and row["latency_ms"] and base["latency_ms"]
    faster = _p50(base) / _p50(row) if base and timed else None
    promise = PROMISES.get(name)
    return Tradeoff(
        scheme=name,
        artifact=row["artifact"],
        recipe=row["recipe"],
        target=row["target"],
        base=base["artifact"] if base else row["size_base"],
        drop_points=row["accuracy_drop_points"],
        drop_interval_points=(low, high),
        smaller=smaller,
        faster=faster,
        effort_seconds=row.get("effort_seconds"),
        promise=promise,
        remark="; ".join(_remarks(promise, row, base, graph, smaller, faster)),
    )


def _p50(row: Row) -> float:
    return float(row["latency_ms"]["p50"] or row["latency_ms"]["mean"])


def _remarks(
    promise: Promise | None,
    row: Row,
    base: Row | None,
    graph: Mapping[str, int],
    smaller: float,
    faster: float | None,
) -> Iterator[str]:
    """Where reality differs from the promise, and why, as far as the graph, the recipe and the machine tell."""
    drop = row["accuracy_drop_points"]
    if promise and drop > promise.drop_points[1]:
        yield f"loses more than the promised {promise.drop_points[1]:g} points"
    if promise and smaller < promise.smaller[0] * 0.95:
        yield f"less small than promised: {_why_large(row, base)}"
    least = promise.faster[0] if promise else 1 - TIE
    if faster is None or faster >= least:
        return
    why = ", ".join(_why_slow(row, base, graph)) or (f"the promise is for {promise.where}" if promise else "")
    what = "slower than fp32 on this target" if faster < 1 - TIE else "less fast than promised"
    yield f"{what}: {why}" if why else what


def _why_large(row: Row, base: Row | None) -> str:
    if kept := re.search(r"_keep(\d+)", str(row["recipe"])):
        return f"{kept[1]} layers are kept in higher precision"
    small = base is not None and base["size_bytes"] < SMALL_BYTES
    return f"{WHY_LARGE.get(row['format'], OVERHEAD)} weigh{' in a small model' if small else ''}"


def _why_slow(row: Row, base: Row | None, graph: Mapping[str, int]) -> Iterator[str]:
    """Reasons that are known of this row, the weightiest first."""
    if row["precision"] == "fp16" and row["family"] == "cpu":
        yield "the CPU computes it in fp32, behind casts"
    if re.search(r"_[us]16s8_", str(row["recipe"])) and row["family"] == "cpu":
        yield "CPUs have no products of 16-bit activations and compute in fp32, between conversions"
        return
    if row["precision"] == "int4" and row["family"] == "cpu":
        yield "weights are unpacked at every product"
    if row["precision"] == "int8" and "reducedrange" in str(row["recipe"]):
        yield "no VNNI"
    depthwise, convolutions = graph.get("depthwise", 0), graph.get("convolutions", 0)
    in_integers = row["precision"] == "int8" and scheme(row) != "int8 weights"
    if in_integers and depthwise >= DEPTHWISE_SHARE * max(1, convolutions):
        yield f"{depthwise} of {convolutions} convolutions are depthwise, which int8 products do little for"
    if in_integers and base and _p50(base) < SMALL_MS:
        yield f"fp32 takes {_p50(base):.2f} ms, too little for what int8 saves to outweigh its conversions"
