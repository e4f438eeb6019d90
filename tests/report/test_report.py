"""Pages and tables for people, from the rows of a real build."""

import json
from pathlib import Path
from typing import Any

import pytest

from edge_assets.report import page
from edge_assets.report.tradeoff import refusals, tradeoffs
from tests.conftest import Project
from tests.tiny.spec import TINY

LATENCY = {"queries": 100, "mean": 2.1, "std": 0.1, "p50": 2.0, "p90": 2.4, "p95": None, "p99": None}


@pytest.fixture
def rows(built: Project) -> list[dict[str, Any]]:
    """One target as it was built, and the same as if a second one had been timed, where int8 takes half as long."""
    found = json.loads(built.run("scorecard", "--model", "tiny", "--json").stdout)
    timed = [dict(row, target="timed", measured_on="timed (some CPU)", mode="rapid", threads=1) for row in found]
    for row in timed:
        if row["sha256"]:
            faster = 0.5 if row["precision"] == "int8" else 1.0
            row["latency_ms"] = LATENCY | {"p50": faster * 2.0}
            row |= {"throughput_per_s": 500.0, "peak_memory_bytes": 2**26, "not_measured": None}
    return [*found, *timed]


def test_a_page_of_timed_and_untimed_targets_says_which_is_which(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", rows)
    text = (tmp_path / "page.html").read_text()
    assert "on timed (some CPU), mode rapid" in text
    assert "latency: not measured: no device attached" in text
    assert text.count("data:image/png;base64,") == 1, "one plot per family"
    assert "Tradeoffs, measured and promised" in text


def test_speed_is_compared_only_where_both_were_timed(rows: list[dict[str, Any]]) -> None:
    static = {entry.faster: entry for entry in tradeoffs(rows) if entry.artifact == "onnx_int8_static"}
    assert set(static) == {None, 2.0}
    assert static[2.0].target == "timed"
    assert static[2.0].base == "onnx_model"
    assert static[2.0].scheme == "int8 static"
    assert static[2.0].smaller > 1.5


def test_a_promise_that_is_not_kept_is_remarked(rows: list[dict[str, Any]]) -> None:
    slow = [dict(row, latency_ms=LATENCY | {"p50": 9.0}) if row["precision"] == "fp16" else row for row in rows]
    (half,) = [entry for entry in tradeoffs(slow) if entry.scheme == "fp16" and entry.target == "timed"]
    assert half.faster is not None
    assert half.faster < 1
    assert "slower than fp32 on this target" in half.remark


def test_slow_int8_says_why_as_far_as_graph_and_machine_tell(rows: list[dict[str, Any]]) -> None:
    slow = [
        dict(row, latency_ms=LATENCY | {"p50": 0.9 if row["precision"] == "int8" else 0.5})
        | ({"graph": {"convolutions": 4, "depthwise": 2, "matrix_products": 1}} if row["graph"] else {})
        | ({"recipe": "int8_static_qdq_u8s8_perchannel_reducedrange_minmax"} if row["precision"] == "int8" else {})
        for row in rows
        if row["target"] == "timed"
    ]
    (static,) = [entry for entry in tradeoffs(slow) if entry.artifact == "onnx_int8_static"]
    assert static.faster is not None
    assert static.faster < 1
    assert "slower than fp32 on this target: no VNNI, 2 of 4 convolutions are depthwise" in static.remark
    assert "fp32 takes 0.50 ms, too little for what int8 saves" in static.remark
    assert static.effort_seconds is not None
    assert static.effort_seconds > 0


def test_refused_schemes_are_listed_once_with_their_reason(rows: list[dict[str, Any]]) -> None:
    (reason,) = [reason for artifact, reason in refusals(rows) if artifact == "onnx_int8_dynamic"]
    assert "ConvInteger" in reason
