"""Three engines: Chromium, Firefox and WebKitGTK are each driven for real, where they are installed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core import tools
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.statistics import Mode
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.errors import EdgeAssetsError, MissingTool, Refused
from edge_assets.families.browser import BROWSER
from edge_assets.pipeline.cell import Cell
from edge_assets.targets import is_this_machine
from edge_assets.targets import machine as machine_module
from edge_assets.targets.machine import BROWSERS, browser
from edge_assets.targets.project import catalog, target
from edge_assets.toolchains.web import ort_web
from edge_assets.toolchains.web.chromium import Server
from edge_assets.toolchains.web.engine import Engine, ScriptError, open_engine
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

TARGETS = {"chromium": "browser-wasm", "firefox": "browser-firefox", "webkit": "browser-webkit"}
SHORT = Mode("short", 64, 1)


def demand(name: str) -> None:
    """Skip where a browser is not installed."""
    if browser(name) is None:
        pytest.skip(f"{name} is not installed: apt-get install {BROWSERS[name].packages}")


@pytest.fixture(params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    demand(request.param)
    return str(request.param)


@pytest.fixture
def engine(name: str) -> Iterator[Engine]:
    opened = open_engine(name)
    yield opened
    opened.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "index.html").write_text("<!doctype html><title>a page</title>")
    server = Server({"/": tmp_path})
    yield server
    server.close()


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    return Cell(TINY, BROWSER, target("browser-wasm"), checkpoint, store, log=lambda _line: None)


def test_functions_of_a_page_are_awaited_and_what_they_throw_is_told(name: str, engine: Engine, page: Server) -> None:
    engine.open(f"{page.url}/")
    assert engine.evaluate("async () => document.title") == "a page"
    given = {"text": "ä\n\"'", "numbers": [1, 2.5, None, True]}
    assert engine.evaluate("async (one, two) => [two, one]", [given, 3]) == [3, given]
    assert engine.evaluate("() => undefined") is None
    assert engine.evaluate("() => crossOriginIsolated") is True
    with pytest.raises(ScriptError, match="no such thing"):
        engine.evaluate("async () => { throw new Error('no such thing'); }")
    assert engine.evaluate("() => 2 + 2") == 4, "it goes on after an error"
    assert any(digit in engine.version for digit in "0123456789")
    assert engine.peak_memory_bytes() > 2**20


def states_of(group: int) -> set[str]:
    """Of the processes of a group; Z is one that ended, and is there until somebody asks how."""
    states = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _parent, own, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # another's, which ended meanwhile
        if int(own) == group:
            states.add(state)
    return states


def test_a_browser_leaves_no_process_and_no_profile_behind(name: str, page: Server) -> None:
    if name == "chromium":
        pytest.skip("Playwright ends it")
    engine = open_engine(name)
    engine.open(f"{page.url}/")
    process = engine.process  # type: ignore[attr-defined]
    folder = Path((engine.profile if name == "firefox" else engine.home).name)  # type: ignore[attr-defined]
    engine.close()
    assert not folder.exists()
    assert states_of(process.pid) <= {"Z"}


def test_a_browser_dies_with_the_process_that_drives_it(name: str) -> None:
    if name == "chromium":
        pytest.skip("Playwright ends it")
    code = "import sys, time; from edge_assets.toolchains.web.engine import open_engine; "
    code += f"engine = open_engine({name!r}); print(engine.process.pid, flush=True); time.sleep(600)"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    group = int(driver.stdout.readline())
    assert states_of(group) - {"Z"}
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while states_of(group) - {"Z"}:
        assert time.monotonic() < deadline, "the browser outlived its driver"
        time.sleep(0.1)


def test_an_engine_builds_verifies_and_times_the_bundle(name: str, cell: Cell) -> None:
    """The variants are those of every browser; what they compute and how fast is the engine's own."""
    one = replace(cell, target=target(TARGETS[name]))
    variants = {variant.name: variant for variant in BROWSER.variants}
    others = {other: cell.build(other) for other in variants["web_bundle"].others}
    model = one.variants.build(variants["onnx_model"], one.reference.build())
    bundle = one.variants.build(variants["web_bundle"], model, others)
    for built in (model, bundle):
        assert built.build.recipe.sha256 == cell.build(built.variant).build.recipe.sha256
        assert built.accuracy is not None, built.unverified
        assert built.parity is not None
        assert built.parity.snr_db is not None
        assert built.parity.snr_db > 100
        assert built.accuracy.samples == 597
        assert abs(built.accuracy.drop_points) <= 0.5
        assert built.evidence is not None
        assert f"browser:{name}" in built.evidence.recipe.tools
        assert built.runtime == RUNTIMES["ort_web"].by_browser.get(name, "ort_web")
    assert one.is_local
    contestants = one.measurement._contestants({"onnx_model": model})
    assert list(contestants) == ["onnx_model"]
    timed = [Contestant("onnx_model", model.build.sha256, one.verification.loadable(model.runtime, model.build))]
    row = one.measurement.interleaved(timed, SHORT, (1,))["onnx_model"]
    assert row.latency_ms is not None
    assert row.latency_ms["1"].queries >= 64
    assert row.latency_ms["1"].p50 is not None
    assert 0 < row.latency_ms["1"].p50 < 100
    assert 2**20 < row.baseline_bytes <= row.peak_bytes < 2**30


def test_engines_agree_to_the_last_digits_that_floats_have(cell: Cell) -> None:
    feeds = {"image": TINY.preprocess.apply(cell.data.arrays(cell.data.evaluation))["image"][:5]}
    artifact = cell.build("onnx_model").artifact
    assert artifact is not None
    outputs = {}
    for name in TARGETS:
        if browser(name) is None:
            continue
        session = ort_web.open_session(
            cell.store.checkout(artifact),
            threads=1,
            inputs=["image"],
            outputs=["logits"],
            execution_provider="wasm",
            browser=name,
        )
        assert isinstance(session, ort_web.OrtWebSession)
        outputs[name] = session.run(feeds)["logits"]
        session.close()
    if len(outputs) < 2:
        pytest.skip("one browser alone is installed")
    first, *others = outputs.values()
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_what_an_engine_cannot_run_is_refused_in_the_runtimes_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(Refused, match="ONNX Runtime Web cannot run this model"):
        ort_web.open_session(
            tmp_path / "model.onnx",
            threads=1,
            inputs=["x"],
            outputs=["y"],
            execution_provider="wasm",
            browser=name,
        )


def test_a_browser_that_ends_in_the_middle_is_one_sentence(name: str, page: Server) -> None:
    if name == "chromium":
        pytest.skip("Playwright has a process of its own")
    engine = open_engine(name)
    engine.open(f"{page.url}/")
    os.killpg(engine.process.pid, 9)  # type: ignore[attr-defined]
    with pytest.raises(EdgeAssetsError, match="ended during|did not answer"):
        engine.evaluate("() => 1")
    engine.close()


# --- without an engine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_missing_engine_names_its_packages_and_its_target_is_nobody(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = BROWSERS[name].packages
    with pytest.raises(MissingTool, match=f"apt-get install {packages}"):
        open_engine(name)
    tools._browser.cache_clear()
    with pytest.raises(MissingTool, match=f"apt-get install {packages}"):
        tools.version(f"browser:{name}")
    tools._browser.cache_clear()
    assert not is_this_machine(target(TARGETS[name]), catalog().values())


def test_a_machine_is_one_target_of_each_browser_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "browser", lambda name: f"/usr/bin/{name}" if name != "webkit" else None)
    targets = catalog().values()
    here = [one.name for one in targets if one.family == "browser" and is_this_machine(one, targets)]
    assert here == ["browser-wasm", "browser-firefox"]


def test_webkit_is_missing_where_what_it_needs_beside_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for command in ("WebKitWebDriver", "xauth", "dbus-run-session"):
        (tmp_path / command).write_text("#!/bin/sh\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser("webkit") is None
    (tmp_path / "xvfb-run").write_text("#!/bin/sh\n")
    (tmp_path / "xvfb-run").chmod(0o755)
    assert browser("webkit") == str(tmp_path / "WebKitWebDriver")


def test_webgpu_is_asked_of_chromium_alone() -> None:
    with pytest.raises(EdgeAssetsError, match="WebGPU is driven in Chromium alone, not in firefox"):
        open_engine("firefox", webgpu=True)


def test_a_browser_that_cannot_start_says_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "firefox"
    stand_in.write_text("#!/bin/sh\necho cannot open display >&2\nexit 7\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr("edge_assets.toolchains.web.engine.browser", lambda _name: str(stand_in))
    with pytest.raises(EdgeAssetsError, match="Firefox could not be started: it ended with 7. cannot open display"):
        open_engine("firefox")


def test_the_extra_brings_what_the_drivers_import() -> None:
    import tomllib

    from tests.conftest import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {requirement.partition(">")[0] for requirement in extras["browser"]}
    for name in ("ort_web", "ort_web_firefox", "ort_web_webkit"):
        distributions = [one for one in RUNTIMES[name].distributions if ":" not in one]
        assert set(distributions) <= declared
