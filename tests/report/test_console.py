"""Tables in terminals of any width: numbers are whole, text wraps, what has no room is named."""

from dataclasses import replace
from typing import cast

import pytest
from rich.text import Text

from edge_assets.cli import devices as listed
from edge_assets.cli.emulators import hint, print_emulators
from edge_assets.core.evidence import Observation, Provenance, Row, Statistics
from edge_assets.devices.inventory import Device, Inventory
from edge_assets.report import terminal, words
from edge_assets.report.console import WIDTH, Column, Line, console, print_table
from edge_assets.spec.tiers import Tier
from tests.report.test_comparison import WINNER

REASON = "fastest of 12 variants that passed every gate, measured on the target's own hardware"
LONG = replace(
    WINNER,
    target="android-midrange",
    artifact="tensorrt_engine_fp16",
    size_bytes=1234 * 1024 + 512,
    reason=REASON,
    latency_ms=Statistics(queries=100, mean=21.0, std=0.1, p50=12.345, p90=22.0, p95=None, p99=None),
    peak_memory_bytes=1234 * 2**20,
    mode="rapid",
    provenance={"accuracy": Provenance("reference", "another engine")},
)
WINNERS = {"KiB": "1,234.5", "% of fp32": "25", "accuracy %": "90.00", "drop points": "0.10", "P50 ms": "12.345"}
VARIANTS = {"size KiB": "1,234", "ratio": "0.25", "accuracy": "90.00 %", "drop points": "0.10", "P50 ms": "12.345"}


def wide(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A terminal of that width, without colours."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "dumb", "COLUMNS": str(width), "LINES": "30"}.items():
        monkeypatch.setenv(name, value)


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, row: Row, every: bool
) -> str:
    """The scorecard in a terminal, no line of whose table is longer than that."""
    wide(monkeypatch, width)
    if every:
        terminal.print_rows("tiny-00000000", [row])
    else:
        terminal.print_winners("tiny-00000000", [row])
    text = capsys.readouterr().out
    table = [line for line in text.splitlines()[1:] if not line.startswith("left out")]
    assert max(len(line.rstrip()) for line in table) <= width
    return text


@pytest.mark.parametrize("width", [40, 80, 100, 140, 200])
@pytest.mark.parametrize("every", [False, True])
def test_a_number_is_whole_or_its_column_is_named_as_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, every: bool
) -> None:
    text = printed(monkeypatch, capsys, width, LONG, every)
    table, _, rest = text.partition("left out at")
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "tensorrt_engine_fp16" in table
    for heading, number in (VARIANTS if every else WINNERS).items():
        assert (f" {number}" in table) != (heading in rest), heading
    assert bool(rest) == (width < 140)
    if rest:
        assert rest.endswith("; --json has all\n")


def test_who_computed_the_accuracy_is_said_beside_it_and_what_a_better_tier_says_of_a_part() -> None:
    """The number that is shown is this machine's; of the emulated CPU are 64 samples and the parity."""
    host = Provenance("host", "ONNX Runtime")
    row = replace(LONG, latency_ms=None, provenance={"accuracy": host, "parity": Provenance("emulated", "Cortex-A76")})
    assert words.known_by(row) == "host; parity emulated, not timed"
    seen = []
    for tier, device, samples, drop in (
        ("emulated", "cortex-a76", 64, -1.5),
        ("emulated", "arm-max", 64, 0.0),
        ("host", None, 2000, 0.2),
    ):
        observation = Observation(
            tier=cast(Tier, tier),
            by=str(device),
            device=device,
            samples=samples,
            accuracy=0.95 - drop / 100,
            accuracy_drop_points=drop,
            accuracy_drop_interval_points=(drop - 1, drop + 1),
            parity_snr_db=30.0,
        )
        seen.append(observation)
    assert words.known_by(replace(row, observations=tuple(seen))) == "host; emulated 95.00 % of 64, not timed"
    assert words.tier(replace(row, provenance=None)) == "unknown"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_target_s_table_has_tier_and_reason_at_every_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    text = printed(monkeypatch, capsys, width, LONG, every=True)
    first, *more = text.partition("left out")[0].splitlines()[4:]
    start = first.index("fastest")
    assert "reference" in first[:start]
    reason = [first[start:], *(line[start:] for line in more)]
    assert " ".join(part.strip() for part in reason) == REASON


def test_a_long_word_breaks_where_even_one_column_has_no_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide(monkeypatch, 10)
    columns = [Column("name", need=2), Column("size", need=1, is_number=True)]
    print_table(console(), "all", columns, [Line([Text("a" * 15), "1,234"])])
    assert capsys.readouterr().out.splitlines() == [
        "all",
        "name      ",
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 10,
        "a" * 10,
        "aaaaa     ",
        "left out at 10 columns: size; --json has all",
    ]


def test_without_a_terminal_lines_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == WIDTH
    monkeypatch.setenv("COLUMNS", "200")
    assert console().width == 200


def test_what_lists_of_devices_and_emulated_cpus_name_is_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.delenv("COLUMNS", raising=False)
    board = Device(name="the-browser-of-the-second-floor", target="browser-webgpu", address="browser")
    monkeypatch.setattr(listed, "devices", lambda: Inventory({board.name: board}))
    assert listed.print_devices()
    printed = capsys.readouterr().out
    assert board.name in printed
    assert "comes by itself: edge-assets devices browser" in printed
    monkeypatch.setenv("EDGE_ASSETS_EMULATORS", "/nowhere")
    assert hint(("graviton3", "raspberry-pi-5", "graviton3", "l4")) == (
        "the arithmetic of graviton3, raspberry-pi-5 can be emulated here: "
        "edge-assets emulator install arm-max cortex-a76"
    )
    assert hint(("l4",)) is None
    print_emulators()
    assert "raspberry-pi-5, snapdragon-8, android-midrange" in capsys.readouterr().out
    monkeypatch.setattr(listed, "devices", Inventory)
    assert listed.print_devices()
    assert '[tool.edge_assets] devices = "devices.yaml"' in capsys.readouterr().out
