"""Tables in Dagster's metadata: typed columns whose descriptions have the units, and no columns that say nothing."""

from dataclasses import replace

import dagster as dg

from edge_assets.core.evidence import Difference, Gate, Parity, Row, Statistics
from edge_assets.defs import tables

ROW = Row(
    model="tiny",
    checkpoint="c",
    family="cpu",
    target="graviton3",
    artifact="onnx_model",
    format="onnx",
    precision="fp32",
    recipe="fp32",
    verdict="released",
    reason="the only one",
    size_bytes=1536,
    size_base="fp32 weights",
    accuracy=0.95133333333,
    accuracy_drop_points=0.25,
    accuracy_drop_interval_points=(-0.5, 1.0),
    not_measured="not measured: no device attached",
    threads=1,
    parameters=1,
    flops=1,
)
LOST = replace(ROW, artifact="onnx_fp16", verdict="dominated", reason="larger")
TIMES = Statistics(queries=64, mean=2.0, std=0.1, p50=1.5, p90=2.5, p95=None, p99=None)
UNITS = {"kib": "KiB", "mib": "MiB", "ms": "ms", "db": "dB", "points": "points"}


def columns(table: dg.TableMetadataValue) -> dict[str, str]:
    """Types by name."""
    return {column.name: column.type for column in table.schema.columns}


def test_a_table_of_variants_has_the_numbers_that_there_are() -> None:
    table = tables.variants([ROW, LOST])
    assert columns(table) == {
        **dict.fromkeys(["variant", "verdict", "precision"], "string"),
        **dict.fromkeys(["size_kib", "accuracy", "drop_points", "drop_low_points", "drop_high_points"], "float"),
    }
    first, second = (dict(record.data) for record in table.records)
    assert (first["size_kib"], first["accuracy"], first["drop_low_points"]) == (1.5, 0.951333, -0.5)
    assert second["variant"] == "onnx_fp16"
    timed = tables.variants([ROW, replace(LOST, latency_ms=TIMES)])
    assert [record.data["p50_ms"] for record in timed.records] == [None, 1.5]
    assert "p99_ms" not in columns(timed)


def test_each_number_has_its_unit_in_its_description() -> None:
    for column in tables.NUMBERS:
        unit = UNITS.get(column.name.rpartition("_")[2])
        assert column.description, column.name
        assert unit is None or unit in column.description, column.name
    assert set(tables.numbers(ROW)) == {column.name for column in tables.NUMBERS}


def test_what_was_released_says_on_what_hardware_and_why() -> None:
    (record,) = tables.released([ROW, LOST]).records
    assert record.data["target"] == "graviton3"
    assert record.data["variant"] == "onnx_model"
    assert record.data["known_by"] == "unknown, not timed"
    (why,) = tables.reasons([ROW, LOST]).records
    assert why.data == {
        "target": "graviton3",
        "reason": "the only one",
        "measured_on": "not measured: no device attached",
        "computed_by": None,
    }
    assert tables.released([LOST]).records == []


def test_tables_of_several_targets_have_no_sentences_and_few_numbers() -> None:
    """A sentence in a cell makes its row taller than the page."""
    timed = replace(ROW, latency_ms=TIMES)
    assert list(columns(tables.released([timed]))) == [
        *("target", "variant", "precision", "size_kib", "accuracy", "drop_points", "p50_ms", "known_by"),
    ]
    assert list(columns(tables.variants_by_target([timed])))[:4] == ["target", "variant", "verdict", "precision"]
    assert {"reason", "measured_on"}.isdisjoint(columns(tables.variants_by_target([timed])))
    assert "computed_by" not in columns(tables.variants([timed]))
    assert list(columns(tables.computed_by_variant([timed]))) == ["variant", "computed_by"]


def test_verdicts_gates_and_parity() -> None:
    assert columns(tables.verdicts([ROW])) == dict.fromkeys(["variant", "verdict", "reason"], "string")
    (gate,) = tables.gates([Gate("size", None, "size not measured")]).records
    assert gate.data == {"gate": "size", "passed": None, "tier": None, "evidence": "size not measured"}
    one = Difference(max_abs=0.5, max_rel=None, cosine=1.0, snr_db=30.0, nan=0, inf=0)
    parity = Parity(**vars(one), by_output={"logits": {"1": one, "5": one}})
    table = tables.parity_by_output(parity)
    assert [record.data["batch"] for record in table.records] == [1, 5]
    assert columns(table)["nan"] == "int"
    assert table.records[0].data["max_rel"] is None


def test_what_a_build_says_in_records_has_a_column_for_each_name() -> None:
    table = tables.plain([{"layer": "a", "bits": 8}, {"layer": "b", "bits": None, "snr_db": 1.5, "kept": [1, 2]}])
    assert columns(table) == {"layer": "string", "bits": "int", "snr_db": "float", "kept": "string"}
    assert [dict(record.data) for record in table.records] == [
        {"layer": "a", "bits": 8, "snr_db": None, "kept": None},
        {"layer": "b", "bits": None, "snr_db": 1.5, "kept": "[1, 2]"},
    ]
