"""Models with states, or with their batch elsewhere than first, in headless Chromium: verified, timed, in an app."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from edge_assets.core.arranged import joined_queries, queries
from edge_assets.core.session import Loadable, Session, layout_of
from edge_assets.core.types import Built
from edge_assets.devices.browser import BrowserVariant, measure, serve_browser_device
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.machine import browser
from edge_assets.toolchains.web.chromium import Chromium, Server
from resources.store import ArtifactStore
from tests.devices.test_browser_device import Elsewhere, asked_of
from tests.tiny import columns, stream
from tests.tiny.columns import COLUMNS
from tests.tiny.stream import STEPS, STREAM, sequences
from tests.toolchains.cells import cell_of

BUNDLED = ("onnx_model", "onnx_fp16", "onnx_int8_static", "web_bundle")


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return cell_of(store, STREAM, stream.network(), tmp_path_factory.mktemp("stream"), "browser-wasm")


@pytest.fixture(scope="module")
def builts(cell: Cell) -> dict[str, Built]:
    return cell.build_all()


@pytest.fixture(scope="module")
def bundle(cell: Cell, builts: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact = builts["web_bundle"].artifact
    assert artifact is not None, builts["web_bundle"].build.refused
    return shutil.copytree(cell.store.checkout(artifact), tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def page(bundle: Path) -> Iterator[Page]:
    """A page beside the bundle, with `edge.open()`, `edge.step(stream, frames)` and its scores as lists."""
    server = Server({"/bundle/": bundle})
    with Chromium() as chromium:
        opened = chromium.browser.new_page()
        opened.goto(f"{server.url}/bundle/manifest.json")
        opened.evaluate(
            """async () => {
                const { EdgeModel } = await import("/bundle/loader.js");
                const model = await EdgeModel.load("/bundle/", { offline: false });
                const step = async (stream, frames) => {
                    const data = Float32Array.from(frames.flat());
                    const { scores } = await stream.run({ frame: { type: "float32", data, dims: [frames.length, 4] } });
                    return Array.from(scores.data);
                };
                window.edge = { model, step };
            }"""
        )
        yield opened
    server.close()


def expected_states(frames: np.ndarray) -> list[np.ndarray]:
    """The state [2, batch, 16] after each step of sequences [batch, steps, 4], by PyTorch."""
    model, state, states = stream.network(), torch.zeros(2, len(frames), 16), []
    with torch.inference_mode():
        for step in range(frames.shape[1]):
            state = model(torch.from_numpy(frames[:, step]), state)["h_next"]
            states.append(state.numpy())
    return states


def expected_scores(frames: np.ndarray) -> list[list[float]]:
    """The scores of each step of sequences, flat, by PyTorch."""
    model = stream.network()
    with torch.inference_mode():
        return [model.scores(torch.from_numpy(state[1])).flatten().tolist() for state in expected_states(frames)]


# --- verified and timed --------------------------------------------------------------------------------


def test_a_streaming_network_is_verified_over_whole_sequences(builts: dict[str, Built]) -> None:
    for name in BUNDLED:
        assert builts[name].failed is None, builts[name].failed
        accuracy, parity = builts[name].accuracy, builts[name].parity
        assert accuracy is not None, builts[name].unverified
        assert accuracy.value > 0.9, name
        assert parity is not None
        assert set(parity.by_output) == {"scores", "h_next"}
    for name in ("onnx_model", "web_bundle"):
        parity = builts[name].parity
        assert parity is not None
        assert parity.snr_db is not None
        assert parity.snr_db > 100, name


@pytest.mark.slow
def test_a_streaming_network_is_timed_and_released(cell: Cell, builts: dict[str, Built]) -> None:
    released = Judgement(cell, builts, cell.measure(builts, "rapid")).release()
    assert released.artifact is not None
    folder = cell.store.checkout(released.artifact)
    (manifest,) = folder.rglob("web_bundle/manifest.json")
    states = json.loads(manifest.read_text())["layout"]["states"]
    assert states == {"h": {"output": "h_next", "shape": [2, 16], "axis": 1, "dtype": "float32"}}
    card = (folder / "MODEL_CARD.md").read_text()
    assert "A `model.stream()` of `loader.js` runs a sequence step by step, and keeps `h` between them." in card
    assert "infer.py" not in card


@pytest.mark.parametrize("name", ["onnx_model", "web_bundle"])
def test_a_timed_query_is_one_step_with_the_states_of_the_one_before(
    cell: Cell, builts: dict[str, Built], name: str
) -> None:
    frames = sequences(2, seed=3)["frame"]
    with cell.verification.loadable("ort_web", builts[name].build).opened(1) as session:
        watch_states(session)
        for _ in range(STEPS + 1):
            assert session.time({"frame": frames}) > 0  # type: ignore[attr-defined]  # of sessions with a clock
        seen = session.engine.evaluate("() => window.seen")  # type: ignore[attr-defined]  # a browser's
    expected = expected_states(frames)
    for step, found in enumerate(seen):
        np.testing.assert_allclose(found, expected[step % STEPS].ravel(), atol=1e-5, err_msg=f"step {step}")
    assert len(seen) == STEPS + 1


def watch_states(session: Session) -> None:
    """Note in the page what its states are after each step."""
    session.engine.evaluate(  # type: ignore[attr-defined]  # a browser's
        """async () => {
            const { States } = await import("/bundle/layout.js");
            const keep = States.prototype.keep;
            window.seen = [];
            States.prototype.keep = function (outputs) {
                keep.call(this, outputs);
                window.seen.push(Array.from(this.kept.h.data));
            };
        }"""
    )


@pytest.mark.parametrize("name", ["onnx_model", pytest.param("web_bundle", marks=pytest.mark.slow)])
def test_a_network_with_its_batch_last_and_a_scalar_is_verified_too(
    store: ArtifactStore, tmp_path: Path, name: str
) -> None:
    cell = cell_of(store, COLUMNS, columns.network(), tmp_path, "browser-wasm")
    built = cell.build(name)
    assert built.failed is None, built.failed
    assert built.parity is not None, built.unverified
    assert built.parity.snr_db is not None
    assert built.parity.snr_db > 100
    feeds = {name: array for name, array in columns.signals(8, seed=3).items() if name != "label"}
    with cell.verification.loadable("ort_web", built.build).opened(1) as session:
        assert session.run(feeds)["scores"].shape == (8, 3)
        assert session.time(feeds) > 0  # type: ignore[attr-defined]  # of sessions with a clock


@pytest.mark.parametrize("name", ["firefox", "webkit"])
def test_other_engines_keep_states_too(bundle: Path, name: str) -> None:
    if browser(name) is None:
        pytest.skip(f"{name} is not installed")
    options = {
        "inputs": ["frame", "h"],
        "outputs": ["scores", "h_next"],
        "execution_provider": "wasm",
        "browser": name,
        "layout": layout_of(STREAM),
    }
    frames = sequences(3, seed=8)["frame"]
    with Loadable(f"ort_web_{name}", str(bundle), options).opened(1) as session:
        found = session.run({"frame": frames})
        assert session.time({"frame": frames}) > 0  # type: ignore[attr-defined]  # of sessions with a clock
    expected = np.array(expected_scores(frames)).reshape(STEPS, 3, 3).swapaxes(0, 1)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(found["h_next"], expected_states(frames)[-1].swapaxes(0, 1), atol=1e-5)


@pytest.mark.slow
def test_a_browser_that_opens_the_link_keeps_states_too(
    cell: Cell, builts: dict[str, Built], bundle: Path, page: Page
) -> None:
    assert page.context.browser is not None
    with serve_browser_device(bundle, seconds=300, log=lambda _line: None) as device:
        visitor = page.context.browser.new_page()
        visitor.goto(device.link)

        def work() -> object:
            device.wait()
            return measure(device, asked_of(cell, device, "onnx_model", "onnx_int8_static"))[0]

        found: dict[str, BrowserVariant] = Elsewhere(work).result(visitor)
        visitor.close()
    for name, variant in found.items():
        own = builts[name].verified
        assert own is not None
        assert variant.refused is None
        assert variant.verified is not None
        assert variant.verified.parity == own.parity, "the same answers as in this machine's Chromium"
        assert variant.verified.accuracy == own.accuracy
        assert variant.latency_ms is not None
        assert set(variant.latency_ms) == {"1", "8"}
        assert variant.latency_ms["1"].p50 is not None


def test_queries_that_a_page_keeps_are_the_steps_of_each_sequence_in_turn() -> None:
    frames = sequences(5, seed=9)["frame"]
    layout = layout_of(STREAM)
    assert layout is not None
    kept = joined_queries(queries({"frame": frames}, 2, layout))["frame"]
    assert kept.shape == (2 * STEPS, 2, 4), "the last sequence makes no query of two"
    np.testing.assert_array_equal(kept[STEPS + 1], frames[2:4, 1])


# --- in an app -----------------------------------------------------------------------------------------


def test_an_apps_stream_keeps_its_states_and_can_be_reset(page: Page) -> None:
    frames = sequences(1, seed=4)["frame"]
    found = page.evaluate(
        """async (frames) => {
            const stream = edge.model.stream();
            const once = [];
            for (const frame of frames) once.push(await edge.step(stream, [frame]));
            stream.reset();
            return [once, await edge.step(stream, [frames[0]])];
        }""",
        frames[0].tolist(),
    )
    expected = expected_scores(frames)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1], expected[0], atol=1e-5)


def test_streams_share_a_model_and_steps_run_in_the_order_in_which_they_are_asked_for(page: Page) -> None:
    first, second = (sequences(2, seed=seed)["frame"] for seed in (5, 6))
    found = page.evaluate(
        """([first, second]) => {
            const [one, other] = [edge.model.stream(), edge.model.stream()];
            return Promise.all(first.map((frames, step) => Promise.all([
                edge.step(one, frames),
                edge.step(other, second[step]),
            ])));
        }""",
        [first.swapaxes(0, 1).tolist(), second.swapaxes(0, 1).tolist()],
    )
    np.testing.assert_allclose([both[0] for both in found], expected_scores(first), atol=1e-5)
    np.testing.assert_allclose([both[1] for both in found], expected_scores(second), atol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ("{ frame: tensor([2, 4]) }", "the step before had 1 samples and this one has 2: reset the stream first"),
        ("{ frame: tensor([1, 4]), h: tensor([2, 1, 16]) }", "h are states, which the stream itself keeps"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_the_stream_goes_on(page: Page, feeds: str, reason: str) -> None:
    frames = sequences(1, seed=7)["frame"]
    found = page.evaluate(
        f"""async (frames) => {{
            const size = (dims) => dims.reduce((a, b) => a * b);
            const tensor = (dims) => ({{ type: "float32", data: new Float32Array(size(dims)), dims }});
            const stream = edge.model.stream();
            await edge.step(stream, [frames[0]]);
            const error = await stream.run({feeds}).then(() => null, (error) => error.message);
            return [error, await edge.step(stream, [frames[1]])];
        }}""",
        frames[0].tolist(),
    )
    assert reason in found[0]
    np.testing.assert_allclose(found[1], expected_scores(frames)[1], atol=1e-5)


def test_the_demo_says_why_it_cannot_show_a_sequence(page: Page) -> None:
    assert page.context.browser is not None
    demo = page.context.browser.new_page()
    demo.goto(page.url.replace("manifest.json", ""))
    expect(demo.locator("#error")).to_contain_text("takes a sequence step by step", timeout=60_000)
    demo.close()


@pytest.mark.parametrize("axis", [1, 2])
def test_the_pages_samples_are_placed_as_pythons(page: Page, axis: int) -> None:
    samples = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    found = page.evaluate(
        """async ([values, axis]) => {
            const { place } = await import("/bundle/layout.js");
            const x = { type: "int32", data: Int32Array.from(values), dims: [2, 3, 4] };
            const placed = place({ x }, { inputs: { x: axis } });
            return [placed.x.dims, Array.from(placed.x.data)];
        }""",
        [samples.ravel().tolist(), axis],
    )
    expected = np.moveaxis(samples, 0, axis)
    assert found == [list(expected.shape), expected.ravel().tolist()]


def test_the_pages_sequences_are_cut_into_steps_as_pythons(page: Page) -> None:
    frames = sequences(2, seed=10)["frame"]
    found = page.evaluate(
        """async (values) => {
            const frame = { type: "float32", data: Float32Array.from(values), dims: [2, 6, 4] };
            const stream = edge.model.stream();
            const scores = [];
            for (const step of edge.model.steps({ frame })) {
                const outputs = await stream.run(step);
                scores.push(Array.from(outputs.scores.data));
            }
            return scores;
        }""",
        frames.ravel().tolist(),
    )
    np.testing.assert_allclose(found, expected_scores(frames), atol=1e-5)
