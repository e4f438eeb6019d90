"""Two checkpoints side by side: what counts as a change, and what as a regression."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_assets.core.evidence import Accuracy, Row, Statistics
from edge_assets.report import page
from edge_assets.report.comparison import Change, Comparison, Shift, compare, regressions
from tests.tiny.spec import TINY

FP32 = Accuracy(
    value=0.9,
    reference=0.9,
    samples=1000,
    drop_points=0.0,
    drop_interval_points=(-0.3, 0.3),
    confidence=0.95,
    lost=0,
    gained=0,
)
WINNER = Row(
    model="tiny",
    checkpoint="tiny-00000000",
    family="cpu",
    target="graviton3",
    artifact="onnx_int8_static",
    format="onnx",
    precision="int8",
    recipe="int8_static_qdq_u8s8_perchannel_minmax",
    verdict="released",
    reason="smallest of 2",
    sha256="0" * 64,
    size_bytes=10_000,
    size_ratio=0.25,
    size_base="fp32 weights",
    accuracy=0.9,
    accuracy_drop_points=0.1,
    accuracy_drop_interval_points=(-0.3, 0.5),  # half a width of 0.4: with fp32's 0.3 it makes 0.5
    threads=1,
    parameters=100,
    flops=200,
)
CERTAIN = replace(WINNER, accuracy_drop_interval_points=(0.1, 0.1))
EAGER = replace(WINNER, artifact="checkpoint", verdict="baseline", precision="fp32", recipe="fp32")


def timed(row: Row, ms: float) -> Row:
    statistics = Statistics(queries=64, mean=ms, std=0.0, p50=ms, p90=None, p95=None, p99=None)
    return replace(row, latency_ms=statistics)


def changed(before: list[Row], after: list[Row], fp32: Accuracy | None = FP32, higher_is_better: bool = True) -> Change:
    (change,) = compare(before, after, fp32, higher_is_better)
    return change


def shift_of(change: Change, name: str) -> Shift:
    shift = change.shift(name)
    assert shift is not None
    return shift


# --- accuracy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "higher_is_better", "verdict"),
    [
        (0.906, True, "better"),
        (0.904, True, "same"),
        (0.896, True, "same"),
        (0.894, True, "worse"),
        (0.906, False, "worse"),
        (0.894, False, "better"),
    ],
)
def test_an_accuracy_is_other_only_beyond_the_interval_of_all_three_drops(
    after: float, higher_is_better: bool, verdict: str
) -> None:
    change = changed([WINNER], [replace(CERTAIN, accuracy=after)], higher_is_better=higher_is_better)
    accuracy = shift_of(change, "accuracy")
    assert accuracy.verdict == verdict
    assert accuracy.interval == pytest.approx((accuracy.difference - 0.5, accuracy.difference + 0.5))
    assert accuracy.difference == pytest.approx(100 * after - 90)


def test_without_samples_in_common_accuracies_are_not_compared_and_the_rest_is() -> None:
    change = changed([WINNER], [replace(CERTAIN, accuracy=0.5, size_bytes=20_000)], fp32=None)
    assert change.shift("accuracy") is None
    assert shift_of(change, "size").verdict == "worse"
    assert change.regression(1.0) is None


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_loss_is_a_regression_beyond_the_interval_and_over_the_gate(higher_is_better: bool) -> None:
    sign = -1 if higher_is_better else 1

    def regression(points: float, before: Row, gate: float) -> str | None:
        after = replace(CERTAIN, accuracy=0.9 + sign * points / 100)
        return changed([before], [after], higher_is_better=higher_is_better).regression(gate)

    assert regression(1.2, WINNER, gate=1.0) == (
        "graviton3: 1.20 points worse than before (0.70 to 1.70), over the gate of 1.00"
    )
    assert regression(0.8, WINNER, gate=1.0) is None, "worse, and within the gate"
    uncertain = replace(WINNER, accuracy_drop_interval_points=(-2.0, 2.0))
    assert regression(1.2, uncertain, gate=1.0) is None, "over the gate, and within the interval"
    assert regression(-1.2, WINNER, gate=1.0) is None, "better"


# --- releases ------------------------------------------------------------------------------------------


def test_a_target_on_which_nothing_ships_any_more_is_a_regression() -> None:
    refused = replace(WINNER, verdict="failed_accuracy")
    change = changed([WINNER], [refused])
    assert change.winner_changed
    assert change.shifts == ()
    assert regressions([change], 1.0) == ["graviton3: onnx_int8_static was released before, now nothing may be"]


def test_a_target_on_which_nothing_shipped_before_is_none() -> None:
    refused = replace(WINNER, verdict="failed_accuracy")
    first = changed([refused], [WINNER])
    still = changed([refused], [refused])
    new = changed([], [WINNER])
    assert (first.winner_changed, still.winner_changed, new.winner_changed) == (True, False, True)
    assert regressions([first, still, new], 1.0) == []


def test_each_target_is_compared_with_itself() -> None:
    phone = replace(WINNER, target="pixel-8", family="android", size_bytes=40_000)
    other = replace(phone, artifact="litert_int8_static", size_bytes=30_000)
    first, second = compare([WINNER, phone], [WINNER, other], FP32, True)
    assert (first.target, first.family, first.winner_changed) == ("graviton3", "cpu", False)
    assert (second.target, second.family, second.winner_changed) == ("pixel-8", "android", True)
    assert (shift_of(second, "size").before, shift_of(second, "size").after) == (40_000 / 1024, 30_000 / 1024)


# --- size, speed, memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "verdict"), [(10_150, "same"), (10_300, "worse"), (9_700, "better")])
def test_sizes_are_other_beyond_two_percent(after: int, verdict: str) -> None:
    assert shift_of(changed([WINNER], [replace(WINNER, size_bytes=after)]), "size").verdict == verdict


@pytest.mark.parametrize(("after", "verdict"), [(2**26, "same"), (2**27, "worse"), (2**25, "better")])
def test_memory_is_compared_where_both_were_measured(after: int, verdict: str) -> None:
    before = replace(WINNER, peak_memory_bytes=2**26)
    assert shift_of(changed([before], [replace(WINNER, peak_memory_bytes=after)]), "memory").verdict == verdict
    assert changed([before], [WINNER]).shift("memory") is None


@pytest.mark.parametrize(
    ("eager", "winner", "verdict"),
    [(8.0, 4.0, "same"), (8.0, 2.0, "better"), (8.0, 8.0, "worse")],
    ids=["a slower machine", "faster on a slower machine", "slower too"],
)
def test_speed_is_that_against_eager_in_the_same_session(eager: float, winner: float, verdict: str) -> None:
    before = [timed(EAGER, 4.0), timed(WINNER, 2.0)]
    after = [timed(EAGER, eager), timed(WINNER, winner)]
    speed = shift_of(changed(before, after), "speed")
    assert (speed.before, speed.after, speed.verdict) == (2.0, eager / winner, verdict)


def test_speed_is_not_known_where_one_of_them_was_not_timed() -> None:
    before = [timed(EAGER, 4.0), timed(WINNER, 2.0)]
    assert changed(before, [timed(EAGER, 4.0), WINNER]).shift("speed") is None
    assert changed(before, [EAGER, timed(WINNER, 2.0)]).shift("speed") is None


# --- the page ------------------------------------------------------------------------------------------


def compared(before: list[Row], after: list[Row], fp32: Accuracy | None) -> Comparison:
    changes = compare(before, after, fp32, True)
    return Comparison(
        before="old-00000000",
        after="new-00000000",
        metric="accuracy",
        is_share=True,
        fp32=fp32,
        changes=changes,
        regressions=regressions(changes, TINY.gates.max_accuracy_drop_points),
    )


def test_the_page_says_what_changed_and_what_is_a_regression(tmp_path: Path) -> None:
    worse = replace(CERTAIN, accuracy=0.8, artifact="onnx_fp16")
    page.write_comparison(tmp_path / "page.html", TINY, compared([WINNER], [worse], FP32))
    text = (tmp_path / "page.html").read_text()
    assert "graviton3: 10.00 points worse than before (9.50 to 10.50), over the gate of 2.00" in text
    assert "<b>onnx_fp16</b> (changed)" in text
    assert "90.00 → 80.00 ▼ worse" in text
    assert "-10.00 (-10.50 to -9.50)" in text
    assert "9.77 → 9.77 same" in text
    assert "src=" not in text
    assert "http" not in text


def test_the_page_says_why_accuracies_are_not_compared(tmp_path: Path) -> None:
    page.write_comparison(tmp_path / "page.html", TINY, compared([WINNER], [WINNER], None))
    text = (tmp_path / "page.html").read_text()
    assert "not evaluated on the same samples, so their values of accuracy are not compared" in text
    assert "Regressions" not in text
