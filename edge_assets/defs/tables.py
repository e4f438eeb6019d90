"""Tables of Dagster's metadata: columns have types, and their descriptions say the units."""

import math
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from dagster import TableColumn

from edge_assets.core.evidence import Agreement, Gate, Parity, Row
from edge_assets.core.sizes import KIB, MIB, divided
from edge_assets.core.verify.sizes import SAMPLES
from edge_assets.hashing import Json
from edge_assets.report import words

Value = str | int | float | bool | None
Record = dict[str, Value]
DIGITS = 6  # that are shown of a number

NUMBERS = (
    TableColumn("size_kib", "float", "Artifact size in KiB, as the target holds it"),
    TableColumn(
        "accuracy", "float", "The deciding metric on the evaluation set; `metric` says which if it is not accuracy"
    ),
    TableColumn(
        "drop_points",
        "float",
        "Drop against PyTorch eager in points, hundredths of the metric's unit; below 0: better",
    ),
    TableColumn("p50_ms", "float", "Median latency in ms at batch 1, where measured on the target's own hardware"),
    TableColumn("snr_db", "float", "Outputs against PyTorch eager: signal-to-noise ratio in dB, the worst batch"),
    TableColumn("drop_low_points", "float", "Lower end of the drop's 95 % interval, in points"),
    TableColumn("drop_high_points", "float", "Upper end of the drop's 95 % interval, in points"),
    TableColumn("size_ratio", "float", "Size as a share of the fp32 weights"),
    TableColumn("cosine_mean", "float", "Mean cosine of the first output with fp32's, per evaluation sample"),
    TableColumn("p90_ms", "float", "90th percentile of the latency in ms at batch 1"),
    TableColumn("p99_ms", "float", "99th percentile of the latency in ms at batch 1"),
    TableColumn("throughput_per_s", "float", "Samples per second at batch 1"),
    TableColumn("joules", "float", "Energy of the whole device in J, a sample at batch 1"),
    TableColumn("load_ms", "float", "Time to open the artifact, in ms"),
    TableColumn("peak_memory_mib", "float", "Peak resident memory in MiB on the target's own hardware"),
    TableColumn("host_peak_memory_mib", "float", "Peak resident memory in MiB on the machine that measured"),
)
VARIANT = TableColumn("variant", "string", "The asset's name")
VERDICT = TableColumn("verdict", "string", "Released, or why not")
REASON = TableColumn("reason", "string", "One sentence")
TARGET = TableColumn("target", "string", "The hardware")
PRECISION = TableColumn("precision", "string", "Of weights, and of activations where both are quantized")
COMPUTED_BY = TableColumn("computed_by", "string", "Of each kind of number: its tier, and who computed it")
MEASURED_ON = TableColumn("measured_on", "string", "The machine of the times, or why there are none")
KNOWN_BY = TableColumn("known_by", "string", "How the accuracy is known, and whether it was timed")
AT_A_GLANCE = ("size_kib", "accuracy", "drop_points", "p50_ms", "snr_db")  # of NUMBERS, where several targets are shown
GATES = (
    TableColumn("gate", "string", "What has to hold for a release"),
    TableColumn("passed", "bool", "Empty where the evidence is missing, which blocks a release"),
    TableColumn("tier", "string", "How it is known: device, emulated, host, reference or graph"),
    TableColumn("evidence", "string", "What was found, and the limit"),
)
PARITY = (
    TableColumn("output", "string", "The model's output"),
    TableColumn("batch", "int", "Samples at once"),
    TableColumn("max_abs", "float", "Largest absolute difference from PyTorch eager"),
    TableColumn("max_rel", "float", "Largest relative difference"),
    TableColumn("cosine", "float", "Cosine with PyTorch eager's output"),
    TableColumn("snr_db", "float", "Signal-to-noise ratio in dB"),
    TableColumn("nan", "int", "Values that are not a number"),
    TableColumn("inf", "int", "Values that are infinite"),
)
AGREEMENT = (
    TableColumn("output", "string", "The model's output"),
    TableColumn("cosine_mean", "float", "Mean cosine with fp32's, per sample of the evaluation set"),
    TableColumn("cosine_min", "float", "The least cosine of a sample"),
    TableColumn("snr_db", "float", "Signal-to-noise ratio in dB over the evaluation set"),
)
MEMORY = (
    VARIANT,
    TableColumn("passed", "bool", "Whether it is within the budget; empty where it is not known"),
    TableColumn("tier", "string", "How it is known: device, emulated, host, reference or graph"),
    TableColumn("evidence", "string", "Peak resident memory, how it is known, and the budget"),
)
PROPERTIES = (TableColumn("name", "string"), TableColumn("value", "string"))
KINDS = {bool: "bool", int: "int", float: "float"}


def table(columns: Sequence[TableColumn], records: Iterable[Mapping[str, Value]]) -> dg.TableMetadataValue:
    """Records as a table of these columns."""
    shown = []
    for record in records:
        data = {column.name: rounded(record[column.name]) for column in columns}
        shown.append(dg.TableRecord(data))
    return dg.MetadataValue.table(shown, dg.TableSchema(list(columns)))


def verdicts(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """Every variant's verdict and why."""
    return table((VARIANT, VERDICT, REASON), [_of_row(row) for row in rows])


def variants(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """Every variant of one target with the numbers that there are of any."""
    return _with_numbers((VARIANT, VERDICT, PRECISION), rows, NUMBERS)


def computed_by_variant(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """Who computed each variant's numbers: sentences, which make rows tall."""
    return table((VARIANT, COMPUTED_BY), [_of_row(row) for row in rows])


def variants_by_target(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """Every variant of every target with the numbers that people compare first."""
    return _at_a_glance((TARGET, VARIANT, VERDICT, PRECISION), rows)


def released(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """What was released on each target, with the numbers that people compare first."""
    return _at_a_glance((TARGET, VARIANT, PRECISION), _winners(rows))


def reasons(rows: Sequence[Row]) -> dg.TableMetadataValue:
    """Why that was released on each target, and where it was timed: sentences, which make rows tall."""
    return table((TARGET, REASON, COMPUTED_BY, MEASURED_ON), [_of_row(row) for row in _winners(rows)])


def gates(outcomes: Sequence[Gate]) -> dg.TableMetadataValue:
    """The outcome of each gate of one variant."""
    records: list[Record] = []
    for gate in outcomes:
        records.append({"gate": gate.name, "passed": gate.passed, "tier": gate.tier, "evidence": gate.sentence})
    return table(GATES, records)


def memory(outcomes: Mapping[str, Gate]) -> dg.TableMetadataValue:
    """The memory gate of each variant, by name."""
    records: list[Record] = []
    for name, gate in outcomes.items():
        records.append({"variant": name, "passed": gate.passed, "tier": gate.tier, "evidence": gate.sentence})
    return table(MEMORY, records)


def parity_by_output(parity: Parity) -> dg.TableMetadataValue:
    """How far each output is from PyTorch eager's, in each batch size, and in other sizes of dynamic axes."""
    records: list[Record] = []
    for output, batches in parity.by_output.items():
        for batch, difference in batches.items():
            records.append({"output": output, "batch": int(batch), **vars(difference)})
    for size, outputs in (parity.by_size or {}).items():
        for output, difference in outputs.items():
            records.append({"output": f"{output}, {size}", "batch": SAMPLES, **vars(difference)})
    return table(PARITY, records)


def agreement_by_output(agreement: Mapping[str, Agreement]) -> dg.TableMetadataValue:
    """How each output agrees with fp32's over the evaluation set."""
    return table(AGREEMENT, [{"output": output, **vars(entry)} for output, entry in agreement.items()])


def properties(values: Mapping[str, object]) -> dg.TableMetadataValue:
    """Names and values; a list's entries one after the other."""
    records: list[Record] = []
    for name, value in values.items():
        text = ", ".join(str(entry) for entry in value) if isinstance(value, list | tuple) else value
        records.append({"name": name, "value": None if text is None else str(text)})
    return table(PROPERTIES, records)


def plain(records: Sequence[Mapping[str, Json]]) -> dg.TableMetadataValue:
    """Records as a build says them; the columns are those that any of them has."""
    kinds: dict[str, str] = {}
    for record in records:
        for name, value in record.items():
            if value is not None:
                kinds.setdefault(name, KINDS.get(type(value), "string"))
    columns = [TableColumn(name, kind) for name, kind in kinds.items()]
    return table(columns, [{name: _cell(record.get(name)) for name in kinds} for record in records])


def numbers(row: Row) -> dict[str, float | None]:
    """A variant's numbers, by the names that plots and tables have for them. What was not measured is None."""
    low, high = row.accuracy_drop_interval_points or (None, None)
    p50, p90, p99 = None, None, None
    if row.latency_ms:
        p50, p90, p99 = row.latency_ms.p50, row.latency_ms.p90, row.latency_ms.p99
    return {
        "size_kib": divided(row.size_bytes, KIB),
        "size_ratio": row.size_ratio,
        "accuracy": row.accuracy,
        "drop_points": row.accuracy_drop_points,
        "drop_low_points": low,
        "drop_high_points": high,
        "snr_db": row.parity_snr_db,
        "cosine_mean": row.cosine_mean,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "throughput_per_s": row.throughput_per_s,
        "joules": row.joules,
        "load_ms": row.load_ms,
        "peak_memory_mib": divided(row.peak_memory_bytes, MIB),
        "host_peak_memory_mib": divided(row.host_peak_memory_bytes, MIB),
    }


def computed_by(row: Row) -> str | None:
    """Of each kind of number: its tier, and who computed it. None where nothing is known."""
    parts = [f"{kind}: {origin.tier}, {origin.by}" for kind, origin in (row.provenance or {}).items()]
    return "; ".join(parts) or None


def rounded(value: Value) -> Value:
    """A number as people read it; anything else as it is."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f"{value:.{DIGITS}g}")


def _winners(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.verdict == "released"]


def _at_a_glance(before: Sequence[TableColumn], rows: Sequence[Row]) -> dg.TableMetadataValue:
    shown = [column for column in NUMBERS if column.name in AT_A_GLANCE]
    return _with_numbers(before, rows, (*shown, KNOWN_BY))


def _with_numbers(
    before: Sequence[TableColumn], rows: Sequence[Row], after: Sequence[TableColumn]
) -> dg.TableMetadataValue:
    """A table of rows, without what none of them has: a page has room for few columns."""
    records = [_of_row(row) for row in rows]
    known = []
    for column in after:
        if any(record[column.name] is not None for record in records):
            known.append(column)
    return table((*before, *known), records)


def _of_row(row: Row) -> Record:
    """All that the columns show of a row."""
    record: Record = {
        "target": row.target,
        "variant": row.artifact,
        "verdict": row.verdict,
        "reason": row.reason,
        "precision": row.precision,
        "computed_by": computed_by(row),
        "measured_on": row.measured_on or row.not_measured,
        "known_by": words.known_by(row),
    }
    return record | numbers(row)


def _cell(value: Json) -> Value:
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
