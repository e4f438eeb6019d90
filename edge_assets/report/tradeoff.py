"""The measured tradeoffs of each scheme, beside what is usually promised for it.

A ratio compares with the unquantized variant of the same format on the same target: what changed is the scheme
alone. Speed is compared only where both were timed on the target's hardware, in one interleaved measurement.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edge_assets.core.evidence import Graph, Row
from edge_assets.core.select import TIE
from edge_assets.core.sizes import readable_ms
from edge_assets.report import words


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
    format: str
    recipe: str
    target: str
    targets: tuple[str, ...]  # all that share its bytes and, where it was timed, that one alone
    base: str  # the fp32 artifact that the ratios compare with
    drop: float  # in points, or in the unit of a metric that has its own
    drop_interval: tuple[float, float]
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

INT8_WEIGHTS = "int8 weights"
INT8_NAMES: Mapping[str | None, str] = {
    "dynamic": "int8 dynamic",
    "static": "int8 static",
    "full": "int8 static",
    "qat": "int8 QAT",
}  # by the kind of scheme
PALETTES = {"lut6": "6-bit palette", "lut4": "4-bit palette"}
ORDER = [*PROMISES, INT8_WEIGHTS, *PALETTES.values()]  # of the table
SIXTEEN_BITS = ("u16", "s16", "i16")
OVERHEAD = "scales, zero points and what stays in fp32"
SMALL_BYTES = 16 * 2**20  # of the fp32 file below which overheads weigh
SMALL_MS = 1.0  # P50 of fp32 below which conversions between int8 and fp32 weigh
DEPTHWISE_SHARE = 0.2  # of the convolutions
WHY_LARGE = {"tensorrt": "the engine's kernels"}


def usual_name(row: Row) -> str:
    """The scheme's usual name: `int8_static_qdq_...` is int8 static."""
    if row.precision == "int8" and row.scheme:
        return INT8_NAMES.get(row.scheme.kind, INT8_WEIGHTS)
    return PALETTES.get(row.precision, row.precision)


def tradeoffs(rows: Sequence[Row]) -> list[Tradeoff]:
    """One line per verified variant below fp32, ordered by scheme; targets that share its bytes share its line."""
    bases: dict[tuple[str, str], Row] = {}
    graphs: dict[str, Graph] = {}
    for row in rows:
        if row.precision == "fp32" and row.size_bytes:
            bases.setdefault((row.target, row.format), row)  # the plain conversion comes first
        if row.graph:
            graphs[row.target] = row.graph
    seen: dict[tuple[str, str | None, str | None], Tradeoff] = {}
    targets: dict[tuple[str, str | None, str | None], list[str]] = {}
    for row in rows:
        if row.precision == "fp32" or row.accuracy is None:
            continue
        entry = _tradeoff(row, bases.get((row.target, row.format)), graphs.get(row.target))
        timed_on = row.target if entry.faster is not None else None
        key = (row.artifact, row.sha256, timed_on)
        seen.setdefault(key, entry)
        targets.setdefault(key, []).append(row.target)
    entries = [replace(entry, targets=tuple(targets[key])) for key, entry in seen.items()]
    return sorted(entries, key=_place)


def _place(entry: Tradeoff) -> tuple[int, str]:
    """Where it stands in the table."""
    if entry.scheme in ORDER:
        return ORDER.index(entry.scheme), entry.artifact
    return len(ORDER), entry.artifact


def refusals(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Schemes that were not built for this model, by artifact, each with its reason once."""
    refused = [(row.artifact, row.reason) for row in rows if row.verdict == "refused"]
    return list(dict.fromkeys(refused))


def _tradeoff(row: Row, base: Row | None, graph: Graph | None) -> Tradeoff:
    assert row.accuracy_drop_points is not None and row.accuracy_drop_interval_points
    low, high = row.accuracy_drop_interval_points
    name = usual_name(row)
    smaller, faster = _smaller(row, base), _faster(row, base)
    promise = PROMISES.get(name)
    remarks = [*_size_remarks(promise, row, base, smaller), *_speed_remarks(promise, row, base, graph, faster)]
    return Tradeoff(
        scheme=name,
        artifact=row.artifact,
        format=row.format,
        recipe=row.recipe,
        target=row.target,
        targets=(row.target,),
        base=base.artifact if base else row.size_base,
        drop=words.scaled(row, row.accuracy_drop_points),
        drop_interval=(words.scaled(row, low), words.scaled(row, high)),
        smaller=smaller,
        faster=faster,
        effort_seconds=row.effort_seconds,
        promise=promise,
        remark="; ".join(remarks),
    )


def _smaller(row: Row, base: Row | None) -> float:
    """How many times smaller than the base, or, without one, than what size ratios are relative to."""
    if base and base.size_bytes and row.size_bytes:
        return base.size_bytes / row.size_bytes
    assert row.size_ratio
    return 1 / row.size_ratio


def _faster(row: Row, base: Row | None) -> float | None:
    """How many times faster than the base, where both were timed on the target."""
    if base is None or base.latency_ms is None or row.latency_ms is None:
        return None
    return base.latency_ms.typical / row.latency_ms.typical


def _size_remarks(promise: Promise | None, row: Row, base: Row | None, smaller: float) -> Iterator[str]:
    """Where accuracy and size differ from the promise, and why, as far as the recipe tells."""
    if promise is None or row.accuracy_drop_points is None:
        return
    if row.own_unit is None and row.accuracy_drop_points > promise.drop_points[1]:
        yield f"loses more than the promised {promise.drop_points[1]:g} points"
    if smaller < promise.smaller[0] * 0.95:
        yield f"less small than promised: {_why_large(row, base)}"


def _speed_remarks(
    promise: Promise | None, row: Row, base: Row | None, graph: Graph | None, faster: float | None
) -> Iterator[str]:
    """Where speed differs from the promise, and why, as far as the graph, the recipe and the machine tell."""
    least = 1 - TIE
    if promise:
        least = promise.faster[0]
    if faster is None or faster >= least:
        return
    remark = "less fast than promised"
    if faster < 1 - TIE:
        remark = "slower than fp32 on this target"
    why = ", ".join(_why_slow(row, base, graph))
    if not why and promise:
        why = f"the promise is for {promise.where}"
    if why:
        remark += f": {why}"
    yield remark


def _why_large(row: Row, base: Row | None) -> str:
    if row.scheme and row.scheme.kept_layers:
        return f"{row.scheme.kept_layers} layers are kept in higher precision"
    what = WHY_LARGE.get(row.format, OVERHEAD)
    if base and base.size_bytes and base.size_bytes < SMALL_BYTES:
        return f"{what} weigh in a small model"
    return f"{what} weigh"


def _why_slow(row: Row, base: Row | None, graph: Graph | None) -> Iterator[str]:
    """Reasons that are known of this row, the weightiest first."""
    scheme, on_cpu = row.scheme, row.family == "cpu"
    if row.precision == "fp16" and on_cpu:
        yield "the CPU computes it in fp32, behind casts"
    if scheme and scheme.activations in SIXTEEN_BITS and on_cpu:
        yield "CPUs have no products of 16-bit activations and compute in fp32, between conversions"
        return
    if row.precision == "int4" and on_cpu:
        yield "weights are unpacked at every product"
    if row.precision != "int8":
        return
    if scheme and scheme.has_reduced_range:
        yield "no VNNI"
    if usual_name(row) == INT8_WEIGHTS:
        return
    if graph and graph.depthwise >= DEPTHWISE_SHARE * max(1, graph.convolutions):
        yield (
            f"{graph.depthwise} of {graph.convolutions} convolutions are depthwise, which int8 products do little for"
        )
    if base and base.latency_ms and base.latency_ms.typical < SMALL_MS:
        yield (
            f"fp32 takes {readable_ms(base.latency_ms.typical)}, too little for what int8 saves to outweigh its "
            "conversions"
        )
