"""What a build shows of how far it is."""

from io import StringIO

import pytest
from rich.console import Console

from edge_assets.cli.progress import Display, Estimate, Key, left_in_words
from edge_assets.cli.workers import Finished, Said

MODEL, INT8, PACKAGE = ("cpu", "onnx_model"), ("cpu", "onnx_int8_static"), ("apple", "coreml_package_fp16")


# --- time left -----------------------------------------------------------------------------------------


def test_nothing_is_claimed_while_nothing_is_known() -> None:
    estimate = Estimate([MODEL, INT8])
    assert estimate.left() is None
    estimate.done(MODEL, 10.0)
    assert estimate.left() == 10.0


def test_what_an_asset_took_earlier_counts_and_one_that_is_unknown_takes_the_usual_time() -> None:
    estimate = Estimate([MODEL, INT8, PACKAGE], earlier={MODEL: 10.0, INT8: 50.0})
    assert estimate.left() == 10.0 + 50.0 + 30.0


def test_this_build_counts_for_more_than_an_earlier_one_and_a_reused_asset_for_less() -> None:
    waiting: list[Key] = [MODEL, MODEL, MODEL]  # on three targets
    estimate = Estimate(waiting, earlier={MODEL: 500.0})
    estimate.done(MODEL, 20.0)
    estimate.done(MODEL, 0.1)  # reused
    assert estimate.left() == 20.0


def test_several_at_once_take_a_share_of_the_time() -> None:
    assert Estimate([MODEL, MODEL], at_once=2, earlier={MODEL: 60.0}).left() == 60.0


def test_an_asset_that_nobody_waited_for_changes_no_count() -> None:
    estimate = Estimate([MODEL])
    estimate.done(INT8, 5.0)
    assert estimate.waiting == [MODEL]
    assert estimate.left() == 5.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "estimating"),
        (10.0, "less than a minute left"),
        (50.0, "about 1 min left"),
        (89.0, "about 1 min left"),
        (600.0, "about 10 min left"),
    ],
)
def test_times_are_coarse(seconds: float | None, words: str) -> None:
    assert left_in_words(seconds) == words


# --- what is shown -------------------------------------------------------------------------------------


def shown(estimate: Estimate, quiet: bool = False, terminal: bool = False) -> str:
    """What a build of two assets prints."""
    written = StringIO()
    display = Display(Console(file=written, force_terminal=terminal, width=120, color_system=None), quiet)
    display.say("planned")
    with display.over(estimate):
        display.hear(Said("exporting", "graviton3"))
        display.hear(Finished("cpu", "onnx_model", seconds=600.0))
    return written.getvalue()


def test_lines_name_their_target_where_several_are_built_at_once() -> None:
    alone = shown(Estimate([MODEL, INT8]))
    assert alone.splitlines() == ["planned", "exporting"]
    together = shown(Estimate([MODEL, INT8], at_once=2))
    assert together.splitlines() == ["planned", f"{'graviton3':>16} exporting"]


def test_a_terminal_has_a_bar_with_what_is_done_and_about_what_is_left() -> None:
    printed = shown(Estimate([MODEL, INT8]), terminal=True)
    assert "exporting" in printed
    assert "1/2" in printed
    assert "about 10 min left" in printed


def test_quiet_is_quiet() -> None:
    assert shown(Estimate([MODEL, INT8]), quiet=True, terminal=True).strip("\x1b[?25hl\n") == ""
