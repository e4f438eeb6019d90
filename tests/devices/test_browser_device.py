"""A browser that opens a link and becomes a device: measured for real in Chromium, and whom the link refuses."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Page, expect

from edge_assets.cli import browser_device
from edge_assets.cli.commands import main
from edge_assets.core.benchmark.statistics import MODES, Mode
from edge_assets.core.evidence import Observed
from edge_assets.devices import browser_lease
from edge_assets.devices.browser import BrowserDevice, BrowserVariant, DeviceGone, measure, serve_browser_device
from edge_assets.devices.browser_lease import Described, Lease, PageFault, Refusal, Reopened
from edge_assets.devices.browser_server import DeviceServer
from edge_assets.errors import EdgeAssetsError
from edge_assets.families.browser import BROWSER
from edge_assets.pipeline import identity
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.machine import browser
from edge_assets.targets.project import target
from edge_assets.toolchains.web.chromium import Chromium
from edge_assets.toolchains.web.engine import open_engine
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

PACKAGE = str(BROWSER.package)
SHORT = Mode("short", 64, 1)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
DESCRIBED = {
    "user_agent": FIREFOX,
    "platform": "Linux x86_64",
    "threads": 8,
    "memory_gib": None,
    "is_isolated": True,
    "is_secure": True,
    "has_touch": False,
    "adapter": None,
    "clock_ms": 0.02,
}


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    return Cell(TINY, BROWSER, target("browser-wasm"), checkpoint, store, log=lambda _line: None)


@pytest.fixture(scope="module")
def bundle(cell: Cell) -> Path:
    cell.build_all()
    return browser_device.bundle_of(cell)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    context = chromium.browser.new_context()
    yield context.new_page()
    context.close()


class Elsewhere:
    """Work with the device in a thread: the page's driver belongs to the test's own."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.found: Any = None
        self.error: BaseException | None = None
        self.work = work
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.found = self.work()
        except BaseException as error:
            self.error = error

    def result(self, page: Page | None = None, seconds: float = 120) -> Any:
        """What the work gave, while the page lives on."""
        deadline = time.monotonic() + seconds
        while self.thread.is_alive():
            assert time.monotonic() < deadline, "the device's work did not end"
            if page is not None:
                page.wait_for_timeout(50)
            else:
                time.sleep(0.05)
        if self.error is not None:
            raise self.error
        return self.found


def asked_of(cell: Cell, device: BrowserDevice, *names: str, **changes: Any) -> Any:
    builts = browser_device.built_variants(cell, names)
    found = browser_device.assignment(cell, builts, device.described, None, None, None, "rapid")
    return replace(found, mode=SHORT, **changes)


def described_as(**changes: Any) -> Described:
    given: dict[str, Any] = DESCRIBED | changes
    return Described(**given)


def post(address: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(address, body, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# --- measured for real -----------------------------------------------------------------------------------


def test_chromium_opens_the_link_and_is_measured_as_this_machines_browsers_are(
    cell: Cell, bundle: Path, page: Page
) -> None:
    said: list[str] = []
    with serve_browser_device(bundle, seconds=300, log=said.append) as device:
        page.goto(device.link)

        def work() -> object:
            described = device.wait()
            found, remarks = measure(device, asked_of(cell, device))
            return described, found, remarks

        described, found, remarks = Elsewhere(work).result(page)
    expect(page.locator("#status")).to_have_text("Done. Thank you: you can close this page.")
    assert described.engine == "chromium"
    assert described.is_isolated
    assert described.is_secure
    assert described.threads >= 1
    assert 0 < described.clock_ms < 1
    assert set(found) == {"onnx_model", "onnx_fp16", "onnx_int8_static"}
    assert remarks == [] or all("clock" in remark for remark in remarks)
    builts = browser_device.built_variants(cell, ())
    for name, variant in found.items():
        own = builts[name].verified
        assert own is not None
        assert variant.verified is not None
        assert variant.verified.accuracy == own.accuracy, "the same answers as in this machine's Chromium"
        assert variant.verified.parity == own.parity
        assert variant.latency_ms is not None
        assert variant.latency_ms["1"].queries >= 64
        assert variant.latency_ms["1"].p50 is not None
        assert variant.latency_ms["1"].histogram is not None
        assert set(variant.latency_ms) == {"1", "8"}
        assert variant.warm_up is not None
        artifact = builts[name].artifact
        assert artifact is not None
        assert variant.sha256 == artifact.sha256
    assert any("interleaved" in line for line in said)


@pytest.mark.parametrize("name", ["firefox", "webkit"])
def test_another_engine_that_opens_the_link_is_a_device_too(cell: Cell, bundle: Path, name: str) -> None:
    if browser(name) is None:
        pytest.skip(f"{name} is not installed")
    engine = open_engine(name)
    try:
        with serve_browser_device(bundle, seconds=300, log=lambda _line: None) as device:

            def work() -> object:
                device.wait()
                return measure(device, asked_of(cell, device, "onnx_model"))[0]["onnx_model"]

            waiting = Elsewhere(work)
            engine.open(device.link)
            variant = waiting.result()
            described = device.described
        assert described.engine == name
        assert described.is_isolated
        assert variant.verified.parity.snr_db > 100
        assert variant.latency_ms["1"].p50 > 0
    finally:
        engine.close()


def test_what_a_browser_cannot_run_is_refused_and_the_others_are_measured(
    cell: Cell, bundle: Path, page: Page, tmp_path: Path
) -> None:
    import shutil

    broken = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((broken / "manifest.json").read_text())
    chunk = manifest["files"][manifest["variants"]["onnx_fp16"]["file"]]["chunks"][0]["path"]
    (broken / chunk).write_bytes(b"damaged")
    with serve_browser_device(broken, seconds=300, log=lambda _line: None) as device:
        page.goto(device.link)

        def work() -> object:
            device.wait()
            return measure(device, asked_of(cell, device, "onnx_model", "onnx_fp16", batch_sizes=(1,)))[0]

        found: dict[str, BrowserVariant] = Elsewhere(work).result(page)
    assert chunk in str(found["onnx_fp16"].refused)
    assert "is corrupt" in str(found["onnx_fp16"].refused)
    assert found["onnx_fp16"].latency_ms is None
    assert found["onnx_model"].latency_ms is not None


def test_a_page_that_is_opened_anew_goes_on_where_it_was(bundle: Path, page: Page) -> None:
    said: list[str] = []
    feeds = {"image": np.zeros((2, 1, 8, 8), np.float32)}
    with serve_browser_device(bundle, seconds=300, log=said.append) as device:
        page.goto(device.link)

        def before() -> object:
            device.wait()
            device.keep(feeds, batch=1)
            session = device.load("onnx_model", ["logits"], "wasm", 1)
            return session, session.run(feeds)["logits"]

        session, expected = Elsewhere(before).result(page)
        page.goto("about:blank")  # closed, and then opened again in the same browser
        page.goto(device.link)
        page.wait_for_timeout(300)

        def after() -> object:
            outputs = session.run(feeds)["logits"]
            return outputs, session.ask("time", batch=1, queries=5, seconds=5)

        outputs, times = Elsewhere(after).result(page)
    np.testing.assert_array_equal(outputs, expected)
    assert len(times["ms"]) == 5
    assert any("the page was opened anew: 2 things are loaded again" in line for line in said)


def test_the_command_measures_prints_and_keeps_a_record(
    cell: Cell, bundle: Path, page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_ASSETS_HOME", str(tmp_path))
    monkeypatch.setattr(browser_device, "cell_of", lambda *_given: cell)
    monkeypatch.setattr("edge_assets.defs.resources.store_resource", lambda: Opens(cell.store))
    monkeypatch.setattr("edge_assets.registry.registry", Chooses)
    monkeypatch.setitem(MODES, "rapid", SHORT)
    said: list[str] = []
    monkeypatch.setattr("click.echo", lambda line="", **_options: said.append(str(line)))

    def work() -> object:
        return CliRunner().invoke(
            main, ["devices", "browser", "--variant", "onnx_model", "--samples", "64"], catch_exceptions=False
        )

    waiting = Elsewhere(work)
    deadline = time.monotonic() + 60
    while not (links := [word for line in said for word in line.split() if word.startswith("http://127.0.0.1")]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    page.goto(links[0])
    result = waiting.result(page)
    assert result.exit_code == 0, result.output
    (place,) = (tmp_path / "devices" / "browser").iterdir()
    record = json.loads(place.read_text())
    assert record["tier"] == "device"
    assert record["engine"] == "chromium"
    assert record["evaluated_samples"] == 64
    assert record["variants"]["onnx_model"]["verified"]["accuracy"]["samples"] == 64
    assert record["variants"]["onnx_model"]["latency_ms"]["1"]["p50"] > 0
    assert record["described"]["is_isolated"] is True
    assert str(place) in said[-1]

    model = cell.build("onnx_model")
    assert cell.observe({"onnx_model": model})["onnx_model"].elsewhere is None, "the tiny model has no such target"
    place.write_text(json.dumps(record | {"matches_target": True}))
    (known,) = cell.observe({"onnx_model": model})["onnx_model"].elsewhere or ()
    observed = known.said(Observed)
    assert (observed.tier, observed.accuracy.samples) == ("device", 64)
    assert observed.timed is not None
    _shown_as_any_devices(cell, monkeypatch, record["variants"]["onnx_model"]["latency_ms"]["1"]["p50"])
    place.write_text("{}")  # is left out, and named in the log
    assert cell.observe({"onnx_model": model})["onnx_model"].elsewhere is None


def _shown_as_any_devices(cell: Cell, monkeypatch: pytest.MonkeyPatch, p50: float) -> None:
    """The latency of the record in the row, the card and MLflow's numbers, where this machine is not the target."""
    monkeypatch.setattr(identity, "is_this_machine", lambda *_given: False)
    away = replace(cell)
    builts = away.observe({name: away.build(name) for name in ("checkpoint", "onnx_model", PACKAGE)})
    judgement = Judgement(away, builts, away.measure(builts, "rapid"))
    row = judgement.winning_row()
    assert row.p50_ms == p50
    assert row.measured_numbers()["latency_p50_ms"] == p50
    assert row.mode == "short"
    assert row.not_measured is None
    assert row.provenance is not None
    assert row.provenance["latency"].tier == "device"
    assert row.provenance["latency"].by == row.measured_on
    assert re.fullmatch(r"browser-wasm \(Chrom\S+ .*, wasm, \d+ thread\(s\)\)", str(row.measured_on)), row.measured_on
    assert row.peak_memory_bytes is None, "no browser tells it"
    assert "P50" in row.reason
    report = judgement.report().artifact
    assert report is not None
    assert "latency.png" in {file.path for file in report.files}
    released = judgement.release().artifact
    assert released is not None
    card = (cell.store.checkout(released) / "MODEL_CARD.md").read_text()
    assert f"queries, mode short, on {row.measured_on} |" in card


class Opens:
    """A resource of a store that is there."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def open(self) -> ArtifactStore:
        return self.store


class Chooses:
    """A registry of one model."""

    def chosen(self, _name: str | None) -> object:
        return TINY


# --- whom the link refuses -------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Lease, str]]:
    (tmp_path / "manifest.json").write_text("{}")
    lease = Lease(60, lambda _line: None)
    server = DeviceServer(lease, tmp_path)
    yield lease, server.link
    server.close()


def claim(link: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    return post(f"{link}claim", json.dumps(DESCRIBED).encode(), headers)


def test_the_link_works_once(served: tuple[Lease, str], chromium: Chromium) -> None:
    _, link = served
    status, _ = claim(link)
    assert status == 200
    status, sentence = claim(link)
    assert status == 409
    assert sentence.startswith("This link works once, and was opened already, in Firefox 153.0 on Linux x86_64.")
    assert claim(link, {"Cookie": "edge-assets-lease=forged"})[0] == 409
    context = chromium.browser.new_context()
    page = context.new_page()
    page.goto(link)
    expect(page.locator("#status")).to_contain_text("This link works once")
    context.close()


def test_a_forged_token_gets_nothing(served: tuple[Lease, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_assets.devices.browser_server.WRONG_TOKEN", 0)
    lease, link = served
    forged = link.replace(lease.token, "a" * len(lease.token))
    assert claim(forged) == (403, "This is not the link of a measurement that is going on.")
    root = link[: link.index(lease.token)]
    for path in ("", "bundle/manifest.json", f"{'a' * 14}/bundle/manifest.json", lease.token):
        with pytest.raises(urllib.error.HTTPError, match="40[34]"):
            urllib.request.urlopen(f"{root}{path}", timeout=30)
    assert urllib.request.urlopen(f"{link}bundle/manifest.json", timeout=30).read() == b"{}"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{link}harness.html", timeout=30)


def test_an_answer_is_taken_once_and_only_of_the_lease(served: tuple[Lease, str]) -> None:
    lease, link = served
    _, answer = claim(link)
    secret = {"X-Lease": json.loads(answer)["lease"]}
    waiting = Elsewhere(lambda: lease.call("run", [1], 1))
    request = json.loads(post(f"{link}work", b"", secret)[1])
    assert (request["function"], request["arguments"]) == ("run", [1])
    address = f"{link}answers/{request['id']}"
    assert post(f"{address}/0/2", b'{"value"', {"X-Lease": "forged"})[0] == 403
    assert post(f"{address}/0/2", b'{"value"', secret)[0] == 204
    assert post(f"{address}/0/2", b'{"value"', secret)[0] == 409
    assert post(f"{address}/1/3", b": 2}", secret)[0] == 400
    assert post(f"{address}/1/2", b": 2}", secret)[0] == 204
    assert waiting.result() == 2
    late = (409, f"Request {request['id']} was answered already, or is not waited for any more.")
    assert post(f"{address}/1/2", b": 3}", secret) == late
    assert post(f"{link}work", b"", {"X-Lease": "forged"})[0] == 403
    assert post(f"{link}alive", b"", secret)[0] == 204
    assert post(f"{link}answers/1/x/1", b"", secret)[0] == 404


@pytest.mark.parametrize(
    "body", [b"no JSON", b"{}", json.dumps(DESCRIBED | {"threads": "many"}).encode(), b"1" * 20000]
)
def test_a_claim_that_says_nothing_of_a_browser_is_refused(served: tuple[Lease, str], body: bytes) -> None:
    lease, link = served
    assert post(f"{link}claim", body)[0] in (400, 413)
    assert lease.browser is None


def test_a_page_that_was_replaced_is_told_so() -> None:
    lease = Lease(60, lambda _line: None)
    old = lease.claim(DESCRIBED, None)
    with pytest.raises(Refusal, match="works once"):
        lease.claim(DESCRIBED | {"user_agent": "another browser"}, old)
    new = lease.claim(DESCRIBED, old)
    with pytest.raises(Refusal, match="Another page was opened with this link since"):
        lease.work(old, 0)
    assert lease.work(new, 0) is None
    with pytest.raises(Reopened):
        lease.call("run", [], 1)


def test_a_browser_that_comes_or_answers_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceGone, match="no browser opened the link until"):
        Lease(0, lambda _line: None).wait_for_browser()
    monkeypatch.setattr(browser_lease, "SILENCE", 0)
    said: list[str] = []
    lease = Lease(1.5, said.append)
    secret = lease.claim(DESCRIBED, None)
    with pytest.raises(DeviceGone, match="the browser did not answer 'run' before its time ended at"):
        lease.call("run", [], 1)
    assert len(said) == 1
    assert "the tab may be closed or the phone asleep. Open the link again" in said[0]
    with pytest.raises(Refusal, match="The time for this measurement ended") as refusal:
        lease.answer(secret, 1, 0, 1, b"{}")
    assert refusal.value.status == 410
    with pytest.raises(Refusal, match="ended"):
        lease.claim(DESCRIBED, secret)


def test_what_the_page_throws_and_what_is_no_answer_are_faults() -> None:
    lease = Lease(60, lambda _line: None)
    secret = lease.claim(DESCRIBED, None)
    for number, (body, words) in enumerate(
        [(b'{"error": "no memory"}', "no memory"), (b"{", "is no JSON"), (b"[]", "nothing")], start=1
    ):
        waiting = Elsewhere(lambda: lease.call("run", [], 1))
        request = lease.work(secret, 10)
        assert request is not None
        assert request.number == number
        lease.answer(secret, number, 0, 1, body)
        with pytest.raises(PageFault, match=words):
            waiting.result()


def test_an_address_that_cannot_be_listened_on_and_a_certificate_that_is_none(tmp_path: Path) -> None:
    lease = Lease(60, lambda _line: None)
    with pytest.raises(EdgeAssetsError, match=r"203\.0\.113\.1, port 0, cannot be listened on"):
        DeviceServer(lease, tmp_path, host="203.0.113.1")
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(EdgeAssetsError, match=r"the certificate .*none\.pem with the key"):
        DeviceServer(lease, tmp_path, certificate=(tmp_path / "none.pem", tmp_path / "none.pem"))


@pytest.mark.parametrize(
    ("agent", "platform", "touch", "title", "engine"),
    [
        (FIREFOX, "Linux x86_64", False, "Firefox 153.0 on Linux x86_64", "firefox"),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 "
            "Mobile Safari/537.36",
            "Android",
            True,
            "Chrome 156.0.0.0 on Android",
            "chromium",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "CriOS/150.0.1 Mobile/15E148 Safari/604.1",
            "iPhone",
            True,
            "Chrome 150.0.1 on iPhone",
            "webkit",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/26.0 Safari/605.1.15",
            "MacIntel",
            True,
            "Safari or WebKitGTK 26.0 on iPad",
            "webkit",
        ),
        ("curl/8", "", False, "an unknown browser of unknown version on an unknown system", "unknown"),
    ],
)
def test_a_browser_is_named_by_what_it_says(agent: str, platform: str, touch: bool, title: str, engine: str) -> None:
    described = described_as(user_agent=agent, platform=platform, has_touch=touch)
    assert (described.title, described.engine) == (title, engine)


def test_a_demanded_target_that_the_browser_is_not_measures_nothing(cell: Cell) -> None:
    described = described_as()
    with pytest.raises(EdgeAssetsError, match=r"\(engine firefox, wasm\) is not browser-wasm"):
        browser_device.measured_target(cell, described, None, is_demanded=True)
    assert browser_device.measured_target(cell, described, None, is_demanded=False) is None


def test_webgpu_is_timed_on_no_software_and_asked_of_no_browser_without_it() -> None:
    from edge_assets.devices.browser import _why_untimed

    of = described_as

    software = browser_lease.Adapter("mesa llvmpipe", True)
    assert _why_untimed(of(adapter=software), "wasm") is None
    assert "software adapter there (mesa llvmpipe)" in str(_why_untimed(of(adapter=software), "webgpu"))
    assert _why_untimed(of(adapter=browser_lease.Adapter("apple metal-3", False)), "webgpu") is None
    with pytest.raises(EdgeAssetsError, match="has no WebGPU adapter"):
        _why_untimed(of(), "webgpu")
    with pytest.raises(EdgeAssetsError, match="in a secure context alone: serve by HTTPS"):
        _why_untimed(of(is_secure=False), "webgpu")
