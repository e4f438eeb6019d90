"""The bundle's loader in pages that lack storage, memory that workers share, workers, or a secure context.

It loads the model all the same, predicts the same, and names what it could not do.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page

from edge_assets.core.benchmark.queries import Queries
from edge_assets.core.types import Built
from edge_assets.errors import Refused
from edge_assets.families.browser import BROWSER
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.machine import browser
from edge_assets.targets.project import target
from edge_assets.toolchains.web import chromium as chromium_module
from edge_assets.toolchains.web import ort_web
from edge_assets.toolchains.web.chromium import Chromium, Server
from edge_assets.toolchains.web.engine import open_engine
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

LOAD = """async (options) => {
    const warned = [];
    console.warn = (text) => warned.push(text);
    const { EdgeModel } = await import("/bundle/loader.js");
    const model = await EdgeModel.load("/bundle/", options);
    const pixels = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    const { logits } = await model.run({ image: { type: "float32", data: pixels, dims: [1, 1, 8, 8] } });
    const { problems, threads, cacheProblem, bytes } = model;
    const offline = await model.offline;
    return { logits: Array.from(logits.data), problems, threads, cacheProblem, bytes, offline, warned };
}"""
DENIED = """
for (const name of ["indexedDB", "caches"]) {
    Object.defineProperty(self, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}
"""
NO_SHARED_MEMORY = """
const post = MessagePort.prototype.postMessage;
MessagePort.prototype.postMessage = function (message, ...rest) {
    if (message instanceof SharedArrayBuffer) throw new DOMException("it cannot be cloned", "DataCloneError");
    return post.call(this, message, ...rest);
};
"""
# workers of blobs, as the runtime's threads are, fail as where a policy forbids them; the verifying worker runs
NO_THREADS = """
const Own = Worker;
self.Worker = class extends Own {
    constructor(url, options) {
        if (String(url).startsWith("blob:")) throw new DOMException("a policy forbids it", "SecurityError");
        super(url, options);
    }
};
"""
NO_WORKERS = (
    "self.Worker = class { constructor() { throw new DOMException('a policy forbids it', 'SecurityError'); } };"
)
BROKEN_WORKERS = """
const Own = Worker;
self.Worker = class extends Own {
    constructor(url, options) { super(new URL("absent.js", url), options); }
};
"""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    return Cell(TINY, BROWSER, target("browser-wasm"), checkpoint, store, log=lambda _line: None)


@pytest.fixture(scope="module")
def built(cell: Cell) -> Built:
    return cell.build("web_bundle")


@pytest.fixture(scope="module")
def server(cell: Cell, built: Built) -> Iterator[Server]:
    assert built.artifact is not None, built.build.refused
    opened = Server({"/bundle/": cell.store.checkout(built.artifact)})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


@pytest.fixture
def context(chromium: Chromium) -> Iterator[BrowserContext]:
    """The storage of a visitor who was never here."""
    opened = chromium.browser.new_context()
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Open:
    """A page of the bundle's origin, after a script that changes what the browser has."""

    def opened(script: str = "") -> Page:
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(f"{server.url}/bundle/manifest.json")
        return page

    return opened


@pytest.fixture(scope="module")
def expected(chromium: Chromium, server: Server) -> list[float]:
    """What the model gives where nothing is lacking."""
    context = chromium.browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/bundle/manifest.json")
    found = page.evaluate(LOAD, {"offline": False})
    context.close()
    assert found["problems"] == []
    assert found["warned"] == []
    assert found["threads"] == 1
    return list(found["logits"])


def test_with_storage_that_is_full_it_predicts_and_says_that_it_is_full(
    page: Open, server: Server, expected: list[float]
) -> None:
    opened = page()
    devtools = opened.context.new_cdp_session(opened)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 200_000})
    found = opened.evaluate(LOAD, {})
    assert found["logits"] == expected
    assert "storage for the page is full" in found["cacheProblem"]
    assert found["problems"] == [found["cacheProblem"]]
    assert any(found["cacheProblem"] in line for line in found["warned"])
    assert "do not fit into the browser's storage" in found["offline"]
    again = opened.context.new_page()
    again.goto(f"{server.url}/bundle/manifest.json")
    assert again.evaluate(LOAD, {"offline": False})["logits"] == expected


def test_with_storage_that_is_denied_it_predicts_and_says_so(page: Open, expected: list[float]) -> None:
    found = page(DENIED).evaluate(LOAD, {"offline": False})
    assert found["logits"] == expected
    assert "nothing is cached, IndexedDB is not available: denied" in found["cacheProblem"]
    assert any("nothing is cached" in line for line in found["warned"])


def test_where_service_workers_are_denied_the_reason_is_told(page: Open, expected: list[float]) -> None:
    script = """Object.defineProperty(Navigator.prototype, "serviceWorker", {
        get() { throw new DOMException("denied", "SecurityError"); },
    });"""
    found = page(script).evaluate(LOAD, {})
    assert found["logits"] == expected
    assert found["offline"] == "the service worker was not registered: denied"


def test_four_threads_in_an_isolated_page(page: Open, expected: list[float]) -> None:
    found = page().evaluate(LOAD, {"threads": 4, "offline": False})
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    assert found["threads"] == 4
    assert found["problems"] == []


@pytest.mark.parametrize("name", ["firefox", "webkit"])
def test_four_threads_in_other_engines_or_one_and_the_reason(
    name: str, server: Server, expected: list[float], tmp_path: Path
) -> None:
    """WebKitGTK's workers share no memory, though it says that the page is isolated."""
    if browser(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "page.html").write_text("<!doctype html>")
    served = Server({"/": tmp_path, **server.routes})
    engine = open_engine(name)
    try:
        engine.open(f"{served.url}/page.html")
        found = engine.evaluate(LOAD, [{"threads": 4, "offline": False}])
    finally:
        engine.close()
        served.close()
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    if found["threads"] == 4:
        assert found["problems"] == []
    else:
        (problem,) = found["problems"]
        assert problem.startswith("1 thread instead of 4: workers cannot share memory")


def test_a_page_that_is_not_isolated_gets_one_thread_and_the_reason(
    page: Open, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium_module, "ISOLATION", {})
    found = page().evaluate(LOAD, {"threads": 4, "offline": False})
    assert found["logits"] == expected
    assert found["threads"] == 1
    (problem,) = found["problems"]
    assert problem.startswith("1 thread instead of 4: the page is not cross-origin isolated")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (NO_SHARED_MEMORY, "workers cannot share memory: it cannot be cloned"),
        (NO_THREADS, "the runtime's threads failed"),
    ],
)
def test_where_threads_cannot_start_there_is_one_and_the_reason(
    page: Open, expected: list[float], script: str, reason: str
) -> None:
    found = page(script).evaluate(LOAD, {"threads": 4, "offline": False})
    assert found["logits"] == expected
    assert found["threads"] == 1
    (problem,) = found["problems"]
    assert problem.startswith(f"1 thread instead of 4: {reason}")


def test_a_second_load_with_other_threads_says_what_it_got(page: Open) -> None:
    opened = page()
    assert opened.evaluate(LOAD, {"offline": False})["problems"] == []
    found = opened.evaluate(LOAD, {"threads": 2, "offline": False})
    assert found["threads"] == 1
    assert found["problems"] == ["1 thread instead of 2: this page started the runtime so"]


@pytest.mark.parametrize("script", [NO_WORKERS, BROKEN_WORKERS])
def test_without_workers_files_are_verified_in_the_page(page: Open, expected: list[float], script: str) -> None:
    found = page(script).evaluate(LOAD, {"offline": False})
    assert found["logits"] == expected
    assert found["bytes"]["wire"] > 2**20
    (problem,) = found["problems"]
    assert problem.startswith("files are verified in the page itself, the verifying worker failed: ")


def test_without_a_secure_context_hashes_are_computed_in_javascript(page: Open, expected: list[float]) -> None:
    opened = page("Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined });")
    lengths = [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]
    found = opened.evaluate(
        """async (lengths) => {
            const { sha256 } = await import("/bundle/sha256.js");
            const all = Uint8Array.from({ length: 1000 }, (_, i) => (7 * i) % 256);
            return Promise.all(lengths.map((length) => sha256(all.subarray(0, length))));
        }""",
        lengths,
    )
    content = bytes((7 * i) % 256 for i in range(1000))
    assert found == [hashlib.sha256(content[:length]).hexdigest() for length in lengths]
    assert opened.evaluate(LOAD, {"offline": False})["logits"] == expected


def test_webgpu_on_software_is_run_and_never_timed(cell: Cell) -> None:
    artifact = cell.build("onnx_model").artifact
    assert artifact is not None
    session = ort_web.open_session(
        cell.store.checkout(artifact),
        threads=1,
        inputs=["image"],
        outputs=["logits"],
        execution_provider="webgpu",
    )
    assert isinstance(session, ort_web.OrtWebSession)
    try:
        feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
        assert session.run(feeds)["logits"].shape == (1, 10)
        assert Queries(session, feeds).warm_up(1, 8)["queries"] == 8, "its memory is measured"
        with pytest.raises(Refused, match=r"not measured: WebGPU runs on a software adapter here \(.*swiftshader"):
            session.time(feeds)
    finally:
        session.close()


@pytest.mark.parametrize(
    ("info", "is_software"),
    [
        ({"vendor": "google", "architecture": "swiftshader"}, True),
        ({"vendor": "mesa", "description": "llvmpipe (LLVM 15.0.6, 256 bits)"}, True),
        ({"vendor": "microsoft", "description": "Microsoft Basic Render Driver"}, True),
        ({"vendor": "apple", "architecture": "metal-3", "isFallbackAdapter": True}, True),
        ({"vendor": "apple", "architecture": "metal-3"}, False),
        ({"vendor": "qualcomm", "architecture": "adreno-7xx"}, False),
        ({}, False),
    ],
)
def test_an_adapter_is_software_by_what_it_says(page: Open, info: dict[str, object], is_software: bool) -> None:
    found = page().evaluate(
        """async (info) => {
            Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => ({ info }) } });
            const { findAdapter } = await import("/bundle/adapter.js");
            return (await findAdapter()).isSoftware;
        }""",
        info,
    )
    assert found is is_software


def test_without_an_adapter_webgpu_is_not_measured_for_that_reason() -> None:
    assert ort_web.why_untimed(None) == "not measured: this browser has no WebGPU adapter"
    assert ort_web.why_untimed({"name": "apple", "isSoftware": False}) is None
