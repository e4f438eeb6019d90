"""Pages and tables for people, from the rows of a real build."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from edge_assets.core.evidence import Graph, Row, Statistics
from edge_assets.core.shapes import read, record
from edge_assets.core.sizes import readable_size
from edge_assets.report import page, terminal
from edge_assets.report.tradeoff import refusals, tradeoffs
from edge_assets.spec.tiers import MEANINGS, TIERS
from edge_assets.toolchains.web.chromium import Chromium
from tests.conftest import Project
from tests.tiny.spec import TINY

LATENCY = Statistics(queries=100, mean=2.1, std=0.1, p50=2.0, p90=2.4, p95=None, p99=None)
TARGETS = ["graviton3", "timed", "twin", "broken"]  # of the page, in its order


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
            row = replace(row, latency_ms=latency, not_measured=None)  # noqa: PLW2901
            row = replace(row, throughput_per_s=500.0, peak_memory_bytes=2**26)  # noqa: PLW2901
        timed.append(row)
    return [*found, *timed]


# --- the page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Chromium() as opened:
        yield opened.browser


@pytest.fixture
def path(rows: list[Row], tmp_path: Path) -> Path:
    """The page of both targets, of one like the first, and of one on which nothing may be released."""
    untimed = [row for row in rows if row.target == "graviton3"]
    twin = [replace(row, target="twin") for row in untimed]
    broken = [replace(row, target="broken") for row in untimed if row.verdict != "released"]
    broken[0] = replace(broken[0], not_measured=f"{broken[0].not_measured}; built ahead of time")
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", [*rows, *twin, *broken])
    return tmp_path / "page.html"


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Page]:
    """The page in a browser, which asked nothing of a network for it and reported no error."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    shown = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto(path.as_uri())
    yield shown
    context.close()
    assert asked == [path.as_uri()]
    assert errors == []


def first_table(shown: Page) -> dict[str, list[str]]:
    """What ships where: the cells of each target."""
    table = shown.locator("table").first
    cells = {}
    for line in table.locator("tbody tr").all():
        name, *values = line.locator("th, td").all_inner_texts()
        cells[name] = values
    return cells


def test_the_page_says_what_ships_where_and_footnotes_how_it_is_known(opened: Page, rows: list[Row]) -> None:
    expect(opened.locator("h1")).to_have_text("tiny tiny-00000000: 3 of 4 targets have a release")
    cells = first_table(opened)
    assert list(cells) == TARGETS
    (winner,) = [row for row in rows if row.target == "timed" and row.verdict == "released"]
    assert winner.size_bytes is not None
    assert winner.accuracy is not None
    assert cells["timed"][:2] == ["cpu", winner.artifact]
    assert readable_size(winner.size_bytes) in cells["timed"]
    assert f"{100 * winner.accuracy:.2f} %" in cells["timed"]
    latency = "1.000 ms" if winner.precision == "int8" else "2.000 ms"
    assert cells["timed"][-2:] == [latency, "host, timed rapid\xa0[2]"]
    assert cells["graviton3"][-2:] == ["not measured", "host, not timed\xa0[1]"]
    assert cells["twin"] == cells["graviton3"], "targets whose numbers are known in the same way share a footnote"
    assert cells["broken"] == ["cpu", "nothing may be released", "verified\xa0[3]"]
    footnotes = opened.locator("ol li").all_inner_texts()
    assert len(footnotes) == 3
    assert re.match(
        r"latency not measured: no device attached; (its instruction set .*; )?accuracy and parity with .* \(host\)",
        footnotes[0],
    )
    measured = "latency, memory and load time on timed (some CPU), mode rapid; accuracy and parity with "
    assert footnotes[1].startswith(measured)
    assert footnotes[2].startswith("latency not measured: no device attached; ")
    assert "; built ahead of time; " in footnotes[2]


def test_the_matrix_has_every_target_and_scheme_with_its_outcome(opened: Page) -> None:
    matrix = opened.locator("table.matrix")
    schemes = matrix.locator("thead th").all_inner_texts()
    assert schemes[:2] == ["target", "fp32"]
    assert {"fp16", "int8 dynamic", "int8 static"} <= set(schemes)
    lines = matrix.locator("tbody tr")
    assert lines.locator("th").all_inner_texts() == TARGETS
    shipping = lines.locator("td[data-verdict=released]")
    expect(shipping.locator(".mark")).to_have_text(["★", "★", "★"])
    refused = lines.locator("td[data-scheme='int8 dynamic']")
    expect(refused).to_have_count(4)
    for cell in refused.all():
        expect(cell).to_contain_text("refused")


def test_the_page_says_what_each_tier_of_evidence_means(opened: Page) -> None:
    expect(opened.locator("dl dt")).to_have_text(list(TIERS))
    expect(opened.locator("dl dd")).to_have_text(list(MEANINGS.values()))


def test_the_tables_fit_a_window_of_1300_pixels(browser: Browser, rows: list[Row], tmp_path: Path) -> None:
    """With names, numbers and notes as long as those of real models."""
    long = []
    for row in rows:
        name = row.artifact
        if row.verdict == "released":
            name = "executorch_int8_per_channel"
        long.append(
            replace(
                row,
                target=f"android-midrange-{row.target}",
                artifact=name,
                recipe="int8_static_qdq_u8s8_perchannel_reducedrange_minmax",
                throughput_per_s=12_345.0,
                latency_ms=row.latency_ms and replace(row.latency_ms, p50=123.456, p90=234.567),
                host_peak_memory_bytes=300 * 2**20,
                disturbed="12 of 12 turns were disturbed",
            )
        )
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", long)
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    shown = context.new_page()
    shown.goto((tmp_path / "page.html").as_uri())
    shown.evaluate("document.querySelectorAll('details[data-target]').forEach(one => one.open = true)")
    assert shown.evaluate("document.documentElement.scrollWidth") <= 1300
    tables = shown.locator("details[data-target] .scroll")
    lacking = tables.evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
    assert lacking == [0, 0]
    context.close()


def test_the_page_is_one_small_file_that_needs_no_network(path: Path, opened: Page) -> None:
    assert path.stat().st_size <= 3 * 10**6
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["page.html"]
    assert opened.locator("script[src], link, img").count() == 0
    assert opened.evaluate("typeof Bokeh.embed.embed_item") == "function"


def test_without_scripts_the_first_table_is_there_and_no_filter_that_does_nothing(browser: Browser, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    shown = context.new_page()
    shown.goto(path.as_uri())
    expect(shown.locator("table").first).to_be_visible()
    expect(shown.locator("table").first.locator("tbody tr")).to_have_count(4)
    expect(shown.locator("table.matrix")).to_be_visible()
    expect(shown.locator("form")).to_be_hidden()
    context.close()


def choose(shown: Page, name: str, value: str) -> None:
    """Set one of the filters."""
    shown.locator(f"select[name={name}]").select_option(value)


def test_filters_hide_rows_of_other_targets_columns_of_other_schemes_and_fade_other_verdicts(opened: Page) -> None:
    lines = opened.locator("table").first.locator("tbody tr")
    choose(opened, "target", "timed")
    assert [line.is_visible() for line in lines.all()] == [False, True, False, False]
    expect(opened.locator("details[data-target=graviton3]")).to_be_hidden()
    choose(opened, "target", "all")
    choose(opened, "verdict", "released")
    assert [line.is_visible() for line in lines.all()] == [True, True, True, False]
    expect(opened.locator("table.matrix td[data-verdict=refused].faded:visible")).to_have_count(
        3
    )  # of the lines that are left
    choose(opened, "verdict", "all")
    choose(opened, "scheme", "int8 static")
    expect(opened.locator("table.matrix thead th[data-scheme]:visible")).to_have_text(["int8 static"])
    choose(opened, "scheme", "all")
    choose(opened, "family", "cpu")
    assert all(line.is_visible() for line in lines.all())


def test_opening_a_target_draws_its_plot_once(opened: Page) -> None:
    details = opened.locator("details[data-target=timed]")
    assert opened.locator(".plot canvas").count() == 0, "nothing is drawn before it is asked for"
    details.locator("> summary").click()
    expect(details.locator(".plot canvas").first).to_be_visible(timeout=30_000)
    drawn = details.locator(".plot canvas").count()
    details.locator("> summary").click()
    expect(details.locator(".plot")).to_be_hidden()
    details.locator("> summary").click()
    expect(details.locator(".plot canvas").first).to_be_visible()
    assert details.locator(".plot canvas").count() == drawn
    assert opened.locator("details[data-target=graviton3] .plot canvas").count() == 0


def test_a_link_to_a_target_opens_it(opened: Page) -> None:
    opened.locator("table").first.get_by_role("link", name="timed", exact=True).click()
    expect(opened.locator("details[data-target=timed]")).to_have_attribute("open", "")
    expect(opened.locator("details[data-target=timed] .plot canvas").first).to_be_visible(timeout=30_000)


def test_the_keyboard_reaches_every_target_and_opens_it(opened: Page) -> None:
    focused = "document.activeElement.closest('details')?.dataset.target + ' ' + document.activeElement.localName"
    reached = []
    for _ in range(100):
        opened.keyboard.press("Tab")
        place = opened.evaluate(focused)
        if place.endswith(" summary"):
            reached.append(place.split()[0])
        if place == "timed summary":
            opened.keyboard.press("Enter")
        if place == "broken summary":
            break
    assert reached[0] == "graviton3"
    assert "timed" in reached
    expect(opened.locator("details[data-target=timed] .plot canvas").first).to_be_visible(timeout=30_000)


# --- tradeoffs -----------------------------------------------------------------------------------------


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
    assert "fp32 takes 0.500 ms, too little for what int8 saves" in static.remark
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


def test_a_verdict_of_a_later_version_is_shown_in_its_own_words(
    rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = [replace(row, verdict="failed_energy") if row.artifact == "onnx_fp16" else row for row in rows]
    page.write(tmp_path / "page.html", TINY, "tiny-00000000", later)
    assert "failed energy" in (tmp_path / "page.html").read_text()
    terminal.print_winners("tiny-00000000", later)
    terminal.print_rows("tiny-00000000", later)
    assert "failed_energy" in capsys.readouterr().out


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
