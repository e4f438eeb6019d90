"""The real UIs in headless Chromium: what was materialized and logged is there to be seen."""

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import ROOT, Project

SHOTS = ROOT / "test-screenshots"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """`edge-assets serve` over a copy of the built state; stopped by Ctrl-C, leaving no process behind."""
    project = built.copy_to(tmp_path_factory.mktemp("served"))
    ports = [str(free_port()), str(free_port())]
    command = ("serve", "--dagster-port", ports[0], "--mlflow-port", ports[1])
    process = project.start(*command, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "Ctrl-C stops both" in line:
            break
    urls = re.findall(r"http://127\.0\.0\.1:\d+", printed)
    assert len(urls) == 2, printed
    yield urls[0], urls[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) in (0, 130)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "a server outlived serve"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the browser test needs Chromium: apt-get install chromium"
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1500, "height": 950})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def test_dagster_shows_the_materialized_partition(served: tuple[str, str], page: Page) -> None:
    page.goto(f"{served[0]}/assets/tiny/cpu/onnx_int8_static?view=partitions")
    expect(page.get_by_text("Materialized (1)")).to_be_visible(timeout=60_000)
    page.get_by_text("graviton3", exact=True).first.click()
    expect(page.get_by_text("accuracy_drop_points")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("int8_static_qdq_s8s8_perchannel_minmax").first).to_be_visible()
    page.screenshot(path=SHOTS / "dagster-partition.png")


def test_dagster_shows_the_checks(served: tuple[str, str], page: Page) -> None:
    page.goto(f"{served[0]}/assets/tiny/cpu/onnx_int8_static?view=checks")
    for check in ("parity", "accuracy", "size"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "dagster-checks.png")


def test_dagster_shows_the_graph(served: tuple[str, str], page: Page) -> None:
    page.goto(f"{served[0]}/locations/edge_assets/asset-groups/tiny_cpu")
    expect(page.get_by_text("benchmark_report").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "dagster-graph.png")


def test_mlflow_shows_the_runs(served: tuple[str, str], page: Page) -> None:
    page.goto(served[1])
    page.goto(f"{served[1]}/#/experiments/1/runs")
    expect(page.get_by_text(re.compile(r"graviton3 tiny-[0-9a-f]{8}")).first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "mlflow-runs.png")


def test_mlflow_shows_the_registered_release(served: tuple[str, str], page: Page) -> None:
    page.goto(f"{served[1]}/#/models/tiny.graviton3")
    expect(page.get_by_text("released").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "mlflow-release.png")
