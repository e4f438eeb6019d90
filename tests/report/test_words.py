"""Metrics in their own unit, and those beside the deciding one, where people read them."""

from dataclasses import replace
from pathlib import Path

from edge_assets.core.evidence import Gate
from edge_assets.report import charts, page, plots, terminal, words
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


def test_page_plots_and_terminal_say_it_so(tmp_path: Path, capsys: object) -> None:
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", [DEPTH])
    text = (tmp_path / "page.html").read_text()
    assert "2.5 rmse" in text
    assert "f1 0.9, worse by 0.0125 (0.005 to 0.02)" in text
    assert "250.00 %" not in text
    assert "which it is made from" not in text
    assert "rmse" in str(charts.target_plot([DEPTH]))
    assert plots.accuracy([DEPTH]).startswith(b"\x89PNG")
    terminal.print_winners("tiny-00000000", [DEPTH])


def test_the_page_says_how_far_a_variant_is_from_its_parent(tmp_path: Path) -> None:
    row = replace(WINNER, parent="onnx_model", parent_snr_db=31.4)
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", [row])
    assert "31 dB from onnx_model, which it is made from" in (tmp_path / "page.html").read_text()
