"""Pages and tables for people, from the rows of a real build."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.evidence import Graph, Row, Statistics
from edge_assets.core.shapes import read, record
from edge_assets.report import page
from edge_assets.report.tradeoff import refusals, tradeoffs
from tests.conftest import Project
from tests.tiny.spec import TINY

LATENCY = Statistics(queries=100, mean=2.1, std=0.1, p50=2.0, p90=2.4, p95=None, p99=None)


@pytest.fixture
def rows(built: Project) -> list[Row]:
    """One target as it was built, and the same as if a second one had been timed, where int8 takes half as long."""
    printed = json.loads(built.run("scorecard", "--model", "tiny", "--json").stdout)
    found = [read(Row, row) for row in printed]
    timed = []
    for row in found:
        row = replace(row, target="timed", measured_on="timed (some CPU)", mode="rapid", threads=1)  # noqa: PLW2901
        if row.sha256:
            latency = replace(LATENCY, p50=1.0 if row.precision == "int8" else 2.0)
            peak = {"throughput_per_s": 500.0, "peak_memory_bytes": 2**26}
            row = replace(row, latency_ms=latency, not_measured=None, **peak)  # noqa: PLW2901
        timed.append(row)
    return [*found, *timed]


def test_a_page_of_timed_and_untimed_targets_says_which_is_which(rows: list[Row], tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", rows)
    text = (tmp_path / "page.html").read_text()
    assert "on timed (some CPU), mode rapid" in text
    assert "latency: not measured: no device attached" in text
    assert text.count("data:image/png;base64,") == 1, "one plot per family"
    assert "Tradeoffs, measured and promised" in text


def test_speed_is_compared_only_where_both_were_timed(rows: list[Row]) -> None:
    static = {entry.faster: entry for entry in tradeoffs(rows) if entry.artifact == "onnx_int8_static"}
    assert set(static) == {None, 2.0}
    assert static[2.0].target == "timed"
    assert static[2.0].base == "onnx_model"
    assert static[2.0].scheme == "int8 static"
    assert static[2.0].smaller > 1.5


def test_a_promise_that_is_not_kept_is_remarked(rows: list[Row]) -> None:
    slow = [replace(row, latency_ms=replace(LATENCY, p50=9.0)) if row.precision == "fp16" else row for row in rows]
    (half,) = [entry for entry in tradeoffs(slow) if entry.scheme == "fp16" and entry.target == "timed"]
    assert half.faster is not None
    assert half.faster < 1
    assert "slower than fp32 on this target" in half.remark


def test_slow_int8_says_why_as_far_as_graph_and_machine_tell(rows: list[Row]) -> None:
    slow = []
    for row in rows:
        if row.target != "timed":
            continue
        if row.graph:
            row = replace(row, graph=Graph(convolutions=4, depthwise=2, matrix_products=1))  # noqa: PLW2901
        if row.precision == "int8":
            row = replace(row, recipe="int8_static_qdq_u8s8_perchannel_reducedrange_minmax")  # noqa: PLW2901
        slow.append(replace(row, latency_ms=replace(LATENCY, p50=0.9 if row.precision == "int8" else 0.5)))
    (static,) = [entry for entry in tradeoffs(slow) if entry.artifact == "onnx_int8_static"]
    assert static.faster is not None
    assert static.faster < 1
    assert "slower than fp32 on this target: no VNNI, 2 of 4 convolutions are depthwise" in static.remark
    assert "fp32 takes 0.50 ms, too little for what int8 saves" in static.remark
    assert static.effort_seconds is not None
    assert static.effort_seconds > 0


def test_refused_schemes_are_listed_once_with_their_reason(rows: list[Row]) -> None:
    (reason,) = [reason for artifact, reason in refusals(rows) if artifact == "onnx_int8_dynamic"]
    assert "ConvInteger" in reason


@pytest.mark.parametrize("activations", ["u16", "i16"])
def test_sixteen_bit_activations_say_why_they_are_slow(rows: list[Row], activations: str) -> None:
    slow = []
    for row in rows:
        if row.target == "timed" and row.artifact == "onnx_int8_static":
            wide = f"int8_static_qdq_{activations}s8_perchannel_minmax"
            row = replace(row, recipe=wide, latency_ms=replace(LATENCY, p50=9.0))  # noqa: PLW2901
        slow.append(row)
    (static,) = [entry for entry in tradeoffs(slow) if entry.artifact == "onnx_int8_static" and entry.faster]
    assert "CPUs have no products of 16-bit activations" in static.remark


def test_a_row_of_an_earlier_version_is_still_shown(rows: list[Row], tmp_path: Path) -> None:
    later = {"graph", "delegation", "effort_seconds", "agreement", "memory_estimate", "cosine_mean"}
    early = []
    for row in rows:
        kept = {name: value for name, value in record(row).items() if name not in later}
        if row.precision == "int8":
            kept["recipe"] = "int8_static_qdq_u8s8_conv_minmax"
        early.append(read(Row, kept))
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", early)
    assert "int8_static_qdq_u8s8_conv_minmax" in (tmp_path / "page.html").read_text()
    assert "int8 static" in {entry.scheme for entry in tradeoffs(early)}
