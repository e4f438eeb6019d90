"""Metrics in their own unit, and those beside the deciding one, where people read them."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.evidence import Gate
from edge_assets.report import charts, matrix, page, plots, terminal, words
from edge_assets.report.comparison import Comparison, compare
from edge_assets.report.tables import frame
from tests.report.test_comparison import FP32, WINNER
from tests.tiny.spec import TINY

DEPTH = replace(
    WINNER,
    own_unit="rmse",
    accuracy=2.5,
    accuracy_drop_points=12.0,
    accuracy_drop_interval_points=(-3.0, 27.0),
    metrics={"f1": replace(FP32, drop_points=1.25, drop_interval_points=(0.5, 2.0))},
    evidence=(Gate("accuracy", True, "within the gate"),),
)


def test_a_share_is_in_percent_and_points_and_anything_else_in_its_own_unit() -> None:
    assert (words.score(WINNER), words.drop(WINNER), words.drop_interval(WINNER)) == (
        "90.00 %",
        "0.10",
        "-0.30 to 0.50",
    )
    assert (words.score(DEPTH), words.drop(DEPTH), words.drop_interval(DEPTH)) == ("2.5 rmse", "0.12", "-0.03 to 0.27")
    assert words.score(replace(WINNER, accuracy=None)) == "-"
    assert list(words.other_metrics(DEPTH)) == ["f1 0.9, worse by 0.0125 (0.005 to 0.02)"]


def test_every_table_calls_a_metric_by_its_name_and_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f1 = replace(WINNER, metric="f1(average=micro)", verdict="failed_accuracy")
    assert (words.metric(WINNER), words.metric(f1), words.metric(DEPTH)) == ("accuracy", "f1(average=micro)", "rmse")
    assert words.headings([f1]) == ("f1(average=micro)", "drop points")
    assert words.headings([DEPTH]) == ("rmse", "drop")
    assert matrix.shown_as("failed_accuracy", words.metric(f1))[1] == "failed f1(average=micro)"
    assert {"accuracy", "drop (points)", "95 % interval (points)"} <= set(frame([WINNER]).columns)
    assert {"f1(average=micro)", "drop (points)"} <= set(frame([f1]).columns)
    depth = frame([DEPTH])
    assert list(depth[["rmse", "drop", "95 % interval"]].iloc[0]) == [2.5, 0.12, "-0.03 to 0.27"]
    for row in (f1, DEPTH):
        page.write(tmp_path / "page.html", TINY, "tiny-00000000", [row])
        visible = (tmp_path / "page.html").read_text().partition("</h1>")[2].partition("<script")[0]
        assert "accuracy" not in visible.replace("failed_accuracy", "")
        terminal.print_winners("tiny-00000000", [row])
        terminal.print_rows("tiny-00000000", [row])
        printed = capsys.readouterr().out.replace("failed_accuracy", "")
        assert "accuracy" not in printed
        assert ("points" in printed) == (row is f1)
        before, after = replace(row, verdict="released"), replace(row, verdict="released", accuracy=0.1)
        eager = replace(FP32, drop_interval_points=(-0.001, 0.001))
        (change,) = compare([before], [after], eager, higher_is_better=True)
        regression = change.regression(0.5)
        terminal.print_comparison(
            Comparison("a", "b", words.metric(row), row is f1, eager, [change], [str(regression)])
        )
        printed = capsys.readouterr().out
        assert "accuracy" not in printed
        assert words.metric(row) in printed
        assert regression is not None
        if row is DEPTH:
            assert regression.startswith("graviton3: rmse 2.4 worse than before (2.188 to 2.612)")
            assert regression.endswith("over the gate of 0.005")
            assert "2.5 -> 0.1" in printed
        else:
            assert regression.startswith("graviton3: f1(average=micro) 80.00 points worse than before")
        page.write_comparison(
            tmp_path / "both.html",
            TINY,
            Comparison("a", "b", words.metric(row), row is f1, eager, [change], []),
        )
        assert "accurac" not in (tmp_path / "both.html").read_text().partition("<body>")[2]


def test_page_plots_and_terminal_say_it_so(tmp_path: Path, capsys: object) -> None:
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", [DEPTH])
    text = (tmp_path / "page.html").read_text()
    assert "2.5 rmse" in text
    assert "f1 0.9, worse by 0.0125 (0.005 to 0.02)" in text
    assert "250.00 %" not in text
    assert "which it is made from" not in text
    assert "rmse" in str(charts.target_plot([DEPTH]))
    assert plots.accuracy([DEPTH]).startswith(b"\x89PNG")
    assert "accuracy" not in text.partition("<h2 id=")[2].partition("<script")[0]
    assert "points" not in text.partition("<h2 id=")[2].partition("<script")[0]
    terminal.print_winners("tiny-00000000", [DEPTH])


def test_the_page_says_how_far_a_variant_is_from_its_parent(tmp_path: Path) -> None:
    row = replace(WINNER, parent="onnx_model", parent_snr_db=31.4)
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", [row])
    assert "31 dB from onnx_model, which it is made from" in (tmp_path / "page.html").read_text()
