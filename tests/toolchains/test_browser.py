"""The browser family in headless Chromium: the bundle online, cached, offline, corrupted; WebGPU; Transformers.js."""

import json
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from playwright.sync_api import Page, expect

from edge_assets.core import tools
from edge_assets.core.types import Built
from edge_assets.errors import MissingTool, Refused
from edge_assets.families.browser import BROWSER
from edge_assets.pipeline import release
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.preprocess import AudioPreprocessing, ImagePreprocessing, read_picture, read_wav
from edge_assets.targets import local_target
from edge_assets.targets.project import catalog, target
from edge_assets.toolchains.web import bundle as web_bundle
from edge_assets.toolchains.web import ort_web
from edge_assets.toolchains.web.chromium import RUNTIME, WEB, Chromium, Server
from resources import checkpoints
from resources.store import ArtifactStore
from tests.conftest import ROOT
from tests.sounds import assert_same
from tests.tiny.spec import MLP, TINY

SHOTS = ROOT / "test-screenshots"
BUNDLED = ["onnx_model", "onnx_fp16", "onnx_int8_static"]  # of a CNN: dynamic int8 and int4 are refused
DIGIT = 7  # of the evaluation images
INT8 = "models/tiny/onnx/model_quantized.onnx"
Serve = Callable[..., Server]  # serve(bundle folder, **{path: a file more})


@pytest.fixture(scope="module")
def cell(store: ArtifactStore, checkpoint_file: Path) -> Cell:
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    return Cell(TINY, BROWSER, target("browser-wasm"), checkpoint, store, log=lambda _line: None)


@pytest.fixture(scope="module")
def builts(cell: Cell) -> dict[str, Built]:
    """Every variant of the family for the tiny model on wasm, in the family's order."""
    return cell.build_all()


@pytest.fixture(scope="module")
def bundle(cell: Cell, builts: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as it is released, with the int8 variant as the winner."""
    artifact = builts["web_bundle"].artifact
    assert artifact is not None, builts["web_bundle"].build.refused
    folder = shutil.copytree(cell.store.checkout(artifact), tmp_path_factory.mktemp("served") / "bundle")
    release.choose(folder, "onnx_int8_static")
    return folder


@pytest.fixture
def changeable(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    """A page of a visitor who was never here."""
    context = chromium.browser.new_context(viewport={"width": 1000, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(folder: Path, **more: Path) -> Server:
        servers.append(Server({"/bundle/": folder, **{f"/{name}": path for name, path in more.items()}}))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def visit(page: Page, server: Server) -> Page:
    """The demo page, with the model ready."""
    page.goto(f"{server.url}/bundle/")
    expect(page.locator("#work")).to_be_visible(timeout=60_000)
    return page


def shown(page: Page) -> dict[str, str]:
    """The facts below the model."""
    names, values = page.locator("#facts dt").all_inner_texts(), page.locator("#facts dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def classify(page: Page, image: np.ndarray, folder: Path) -> str:
    """The demo's answer for an image uint8 [h, w, 1] that is chosen as a file."""
    import matplotlib.image

    path = folder / "digit.png"
    matplotlib.image.imsave(path, image[..., 0], cmap="gray", vmin=0, vmax=255)
    page.locator("#file").set_input_files(path)
    expect(page.locator("#classes li").first).to_be_visible(timeout=60_000)
    return page.locator("#answer").inner_text()


# --- what is in the bundle ---------------------------------------------------------------------------


@pytest.mark.slow
def test_every_variant_runs_in_chromium_as_accurately_as_natively(builts: dict[str, Built]) -> None:
    for name in (*BUNDLED, "web_bundle"):
        accuracy = builts[name].accuracy
        assert accuracy is not None, name
        assert accuracy.samples == 597, name
        assert accuracy.value > 0.9, name
        assert abs(accuracy.drop_points) <= 2.0, name
    assert "has no form for convolutions" in (builts["onnx_int4"].build.refused or "")


def test_chunks_join_to_the_artifacts_and_are_compressed_where_it_pays(
    cell: Cell, builts: dict[str, Built], bundle: Path
) -> None:
    import gzip
    import hashlib

    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["variants"]) == set(BUNDLED)
    for name, variant in manifest["variants"].items():
        entry = manifest["files"][variant["file"]]
        stored = [(bundle / chunk["path"]).read_bytes() for chunk in entry["chunks"]]
        whole = b"".join(
            gzip.decompress(part) if chunk["encoding"] == "gzip" else part
            for part, chunk in zip(stored, entry["chunks"], strict=True)
        )
        artifact = builts[name].artifact
        assert artifact is not None
        assert hashlib.sha256(whole).hexdigest() == artifact.sha256 == entry["sha256"]
        assert sum(map(len, stored)) == variant["wire_bytes"] <= variant["bytes"]
    wasm = manifest["files"]["runtime/ort-wasm-simd-threaded.wasm"]
    assert len(wasm["chunks"]) == -(-wasm["bytes"] // web_bundle.CHUNK) > 1
    assert sum(chunk["wire_bytes"] for chunk in wasm["chunks"]) < 0.5 * wasm["bytes"]
    listed = {file["path"] for file in manifest["shell"]} | {
        c["path"] for f in manifest["files"].values() for c in f["chunks"]
    }
    present = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert present == listed | {"manifest.json", "default.json"}


def test_incompressible_files_stay_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "noise"
    source.write_bytes(np.random.default_rng(0).bytes(web_bundle.CHUNK + 1000))
    entry = web_bundle.write_chunks(source, tmp_path / "out", "models/noise.onnx")
    assert [(c["bytes"], c["encoding"]) for c in entry["chunks"]] == [
        (web_bundle.CHUNK, "identity"),
        (1000, "identity"),
    ]


# --- visits ------------------------------------------------------------------------------------------


def test_first_visit_downloads_the_second_reads_the_cache_and_the_third_is_offline(
    cell: Cell, bundle: Path, page: Page, serve: Serve, tmp_path: Path
) -> None:
    server = serve(bundle)
    visit(page, server)
    raw = cell.data.arrays(cell.data.evaluation)
    label = str(raw["label"][DIGIT])
    assert classify(page, raw["image"][DIGIT], tmp_path) == label
    first = shown(page)
    assert first["Device"] == "wasm"
    assert first["Model"].startswith("onnx_int8_static")
    assert first["From the cache"] == "0.00 MiB"
    assert float(first["Downloaded"].split()[0]) > 2
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / "browser-demo.png", full_page=True)
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")

    server.sent.clear()
    visit(page, server)
    second = shown(page)
    assert second["Downloaded"] == "0.00 MiB"
    assert second["From the cache"] == first["Downloaded"]
    assert not [path for path, _size in server.sent if ".part" in path]

    server.close()
    with pytest.raises(Exception, match="ERR_CONNECTION_REFUSED"):
        page.context.new_page().goto(f"{server.url}/elsewhere")
    visit(page, server)
    assert classify(page, raw["image"][DIGIT], tmp_path) == label
    assert shown(page)["Downloaded"] == "0.00 MiB"


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_corrupt_chunk_is_named_and_nothing_runs(changeable: Path, page: Page, serve: Serve, damage: str) -> None:
    manifest = json.loads((changeable / "manifest.json").read_text())
    chunk = manifest["files"][INT8]["chunks"][0]["path"]
    content = bytearray((changeable / chunk).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        (changeable / chunk).unlink()
    else:
        (changeable / chunk).write_bytes(content if damage == "flipped" else content[:100])
    page.goto(f"{serve(changeable).url}/bundle/")
    expect(page.locator("#error")).to_be_visible(timeout=60_000)
    message = page.locator("#error").inner_text()
    reason = {"flipped": "is corrupt: sha256", "cut": "is corrupt: 100 bytes arrived", "missing": "HTTP 404"}[damage]
    assert chunk in message
    assert reason in message
    assert not page.locator("#work").is_visible()


def test_a_changed_runtime_is_named_and_never_runs(changeable: Path, page: Page, serve: Serve) -> None:
    module = json.loads((changeable / "manifest.json").read_text())["runtimes"]["wasm"]["module"]
    with (changeable / module).open("a") as file:
        file.write("\nself.planted = true;\n")
    page.goto(f"{serve(changeable).url}/bundle/")
    expect(page.locator("#error")).to_be_visible(timeout=60_000)
    assert f"{module} is corrupt: sha256" in page.locator("#error").inner_text()
    assert page.evaluate("self.planted") is None


def test_the_page_lets_no_script_run_but_the_bundles(bundle: Path, page: Page, serve: Serve) -> None:
    visit(page, serve(bundle))
    refused = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "self.planted = true";
            document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem"
    assert page.evaluate("self.planted") is None


def test_the_runtime_runs_with_threads(bundle: Path, page: Page, serve: Serve) -> None:
    server = serve(bundle)
    page.goto(f"{server.url}/bundle/")
    expect(page.locator("#work")).to_be_visible(timeout=60_000)
    other = page.context.new_page()  # a runtime takes its number of threads once
    other.goto(f"{server.url}/bundle/manifest.json")
    shape = other.evaluate(
        """async () => {
            const { EdgeModel } = await import("/bundle/loader.js");
            const model = await EdgeModel.load("/bundle/", { threads: 2 });
            const image = { type: "float32", data: new Float32Array(64), dims: [1, 1, 8, 8] };
            const { logits } = await model.run({ image });
            return [...logits.dims, model.ort.env.wasm.numThreads];
        }"""
    )
    assert shape == [1, 10, 2]


def test_the_service_worker_keeps_its_own_files_and_nothing_else(bundle: Path, page: Page, serve: Serve) -> None:
    server = serve(bundle, **{"bundle/api": ROOT / "pyproject.toml"})  # another application below the same folder
    visit(page, server)
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    visit(page, server)
    fetched = "async (url) => { try { return (await fetch(url)).status } catch { return 'unreachable' } }"
    assert page.evaluate(fetched, "/bundle/api?user=1") == 200
    assert page.evaluate(fetched, "/bundle/api") == 200
    manifest = json.loads((bundle / "manifest.json").read_text())
    kept = page.evaluate(
        """async () => {
            const [name] = await caches.keys();
            return (await (await caches.open(name)).keys()).map((request) => new URL(request.url).pathname);
        }"""
    )
    own = {f"/bundle/{file['path']}" for file in manifest["shell"]}
    assert set(kept) == own | {"/bundle/manifest.json", "/bundle/default.json"}
    server.close()
    assert page.evaluate(fetched, "/bundle/api?user=2") == "unreachable"
    assert page.evaluate(fetched, "/bundle/api") == "unreachable"
    assert page.evaluate(fetched, "/bundle/loader.js?v=2") == 200, "its own files, whatever the query"


def test_a_new_release_replaces_what_the_service_worker_keeps(changeable: Path, page: Page, serve: Serve) -> None:
    import hashlib

    server = serve(changeable)
    visit(page, server)
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    page.wait_for_function("caches.keys().then((names) => names.length)")
    path = changeable / "manifest.json"
    manifest = json.loads(path.read_text())
    (entry,) = (file for file in manifest["shell"] if file["path"] == "demo.css")
    style = (changeable / "demo.css").read_text() + "/* another release */\n"
    (changeable / "demo.css").write_text(style)
    path.write_text(json.dumps(manifest | {"description": "another release"}))
    text = "async () => { const kept = await caches.match('/bundle/demo.css'); return kept ? kept.text() : ''; }"
    visit(page, server)
    page.wait_for_timeout(500)
    assert "another release" not in page.evaluate(text), "a file that is not the manifest's is not kept"
    entry["sha256"] = hashlib.sha256(style.encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"description": "another release"}))
    visit(page, server)
    page.wait_for_function(f"({text})().then((kept) => kept.includes('another release'))")


def test_a_cache_that_lost_bits_is_fetched_anew(bundle: Path, page: Page, serve: Serve) -> None:
    server = serve(bundle)
    visit(page, server)
    page.evaluate(
        """() => new Promise((resolve, reject) => {
            const request = indexedDB.open("edge-assets", 1);
            request.onsuccess = () => {
                const store = request.result.transaction("chunks", "readwrite").objectStore("chunks");
                store.openCursor().onsuccess = ({ target }) => {
                    const cursor = target.result;
                    if (!cursor) return request.result.close(), resolve();
                    const value = cursor.value;
                    value.bytes[0] ^= 1;
                    cursor.update(value);
                    cursor.continue();
                };
                store.transaction.onerror = reject;
            };
        })"""
    )
    server.sent.clear()
    visit(page, server)
    assert [path for path, _size in server.sent if ".part" in path], "the damaged cache was believed"
    server.sent.clear()
    visit(page, server)
    assert not [path for path, _size in server.sent if ".part" in path], "the cache was not repaired"


def test_the_pages_preprocessing_is_pythons(cell: Cell, bundle: Path, page: Page, serve: Serve) -> None:
    raw = {"image": cell.data.arrays(cell.data.evaluation)["image"][:3]}
    page.goto(f"{serve(bundle).url}/bundle/manifest.json")
    found = page.evaluate(
        """async ([pixels, declared]) => {
            const { fromPixels } = await import("/bundle/preprocess.js");
            const { image } = fromPixels(Uint8Array.from(pixels), declared);
            return [image.dims, Array.from(image.data)];
        }""",
        [raw["image"].ravel().tolist(), TINY.preprocess.to_dict()],
    )
    expected = TINY.preprocess.apply(raw)["image"]
    assert found[0] == list(expected.shape)
    np.testing.assert_array_equal(np.array(found[1], np.float32), expected.ravel())


PIXELS = """async ([address, declared]) => {
    const { fromPicture, openPicture, pixelsOf, sizedFor } = await import("/bundle/preprocess.js");
    const picture = await openPicture(await (await fetch(address)).blob());
    const { data, dims } = fromPicture(picture, declared)[declared.input];
    return [Array.from(pixelsOf(picture, sizedFor(picture, declared))), Array.from(data), dims];
}"""
COLOUR = ImagePreprocessing("image", 24, 32, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
GREY = replace(COLOUR, channels=1, mean=(0.1,), std=(0.4,))
RANGE = replace(COLOUR, height=64, width=72, least=(24, 32))
ALPHA = replace(COLOUR, channels=4, mean=(0.1,) * 4, std=(0.4,) * 4)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# a profile by which red means blue: who applies it swaps the channels
SWAPPED = SRGB.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
PICTURES = [
    (replace(COLOUR, resize="stretch"), (96, 32), "RGB"),
    (replace(COLOUR, resize="stretch", filter="bicubic", antialias=False), (13, 70), "RGB"),
    (replace(COLOUR, resize="stretch", filter="nearest", order="BGR"), (41, 43), "RGB"),
    (replace(COLOUR, resize="crop", resize_to=(40,), filter="bicubic"), (97, 51), "RGB"),
    (replace(COLOUR, resize="crop", resize_to=(33, 47), filter="box"), (31, 200), "L"),
    (replace(COLOUR, resize="letterbox", fill=(10, 20, 30)), (96, 32), "RGBA"),
    (replace(COLOUR, resize="letterbox", align="start", other_channels="composite"), (9, 300), "RGBA"),
    (replace(GREY, resize="crop"), (50, 61), "RGB"),
    (replace(GREY, resize="stretch", other_channels="composite", background=(9, 99, 200)), (50, 61), "LA"),
    (replace(ALPHA, resize="stretch"), (30, 60), "RGBA"),
    (replace(COLOUR, other_channels="refuse"), (24, 32), "RGB"),
    (RANGE, (45, 33), "RGB"),
    (replace(RANGE, resize="stretch", multiple=8), (45, 27), "RGB"),
    (replace(RANGE, resize="letterbox", multiple=8, fill=(10, 20, 30)), (200, 31), "RGBA"),
]


@pytest.mark.parametrize(("declared", "size", "mode"), PICTURES)
def test_a_file_gives_the_page_pythons_numbers(
    declared: ImagePreprocessing,
    size: tuple[int, int],
    mode: str,
    bundle: Path,
    page: Page,
    serve: Serve,
    tmp_path: Path,
) -> None:
    """Bit for bit, with a colour profile that says something else than sRGB, and, if opaque, an orientation tag."""
    raw = np.random.default_rng(0).integers(0, 256, (*size, len(mode)), np.uint8)
    stored = raw if "A" in mode else np.ascontiguousarray(raw.transpose(1, 0, 2)[::-1])
    exif = Image.Exif()
    exif[0x0112] = 1 if "A" in mode else 6
    picture = Image.fromarray(stored[..., 0] if mode == "L" else stored, mode)
    picture.save(tmp_path / "photo.png", exif=exif, icc_profile=SWAPPED if "RGB" in mode else None)
    server = serve(bundle, **{"photo.png": tmp_path / "photo.png"})
    page.goto(f"{server.url}/bundle/manifest.json")
    pixels, values, shape = page.evaluate(PIXELS, ["/photo.png", declared.to_dict()])
    given = read_picture(tmp_path / "photo.png")
    assert np.array_equal(given, raw)
    assert np.array_equal(np.array(pixels), declared.fitted(given).reshape(-1))
    expected = declared.apply({"image": given[None]})["image"]
    assert shape == list(expected.shape)
    assert np.array_equal(np.array(values, np.float32), expected.reshape(-1))


def test_the_page_takes_no_other_size_without_resize(bundle: Path, page: Page, serve: Serve, tmp_path: Path) -> None:
    Image.new("RGB", (32, 96)).save(tmp_path / "photo.png")
    visit(page, serve(bundle))
    page.locator("#file").set_input_files(tmp_path / "photo.png")
    notes = page.locator("#notes")
    expect(notes).to_contain_text("photo.png: the model takes pictures of 8 x 8 pixels", timeout=10_000)
    expect(notes).to_contain_text("this one has 96 x 32")


HEARD = AudioPreprocessing(
    "image",
    16000,
    n_fft=14,
    hop=14,
    frames=8,
    log="db",
    mean=-20.0,
    std=10.0,
    axes=("channel", "mel", "time"),
)
HEAR = """async (address) => {
    const { EdgeModel, openSound } = await import("/bundle/loader.js");
    const model = await EdgeModel.load("/bundle/");
    const { input, sampling_rate } = model.manifest.preprocessing;
    const feeds = model.preprocess(await openSound(await (await fetch(address)).blob(), sampling_rate));
    const { logits } = await model.run(feeds);
    return [Array.from(feeds[input].data), feeds[input].dims, Array.from(logits.data)];
}"""


@pytest.fixture
def hearing(changeable: Path) -> Path:
    """The bundle of a model that takes a spectrogram for its picture."""
    manifest = json.loads((changeable / "manifest.json").read_text())
    spec = replace(TINY, preprocessing=HEARD)
    modules = [RUNTIME / web_bundle.RUNTIMES["wasm"][0]]
    manifest |= {"shell": web_bundle.write_shell(changeable, spec, modules), "preprocessing": HEARD.to_dict()}
    (changeable / "manifest.json").write_text(json.dumps(manifest))
    return changeable


def wav_file(path: Path, rate: int = 16000) -> Path:
    """A second of noise that grows louder."""
    noise = np.random.default_rng(0).normal(size=rate) * np.linspace(0, 9000, rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(noise.astype("<i2").tobytes())
    return path


def test_a_wav_file_gives_the_page_pythons_numbers(hearing: Path, page: Page, serve: Serve, tmp_path: Path) -> None:
    path = wav_file(tmp_path / "noise.wav")
    server = serve(hearing, **{"noise.wav": path})
    visit(page, server)
    expect(page.locator("#sounds")).to_contain_text("A WAV file with 16000 samples per second")
    assert "ms" not in shown(page)["Latency"], "nothing was heard yet"
    page.locator("#sound").set_input_files(path)
    expect(page.locator("#classes li").first).to_be_visible(timeout=60_000)
    values, shape, logits = page.evaluate(HEAR, "/noise.wav")
    expected = HEARD.apply({"image": [read_wav(path, 16000)]})["image"]
    assert shape == list(expected.shape)
    assert_same(np.array(values, np.float32), HEARD, read_wav(path, 16000))
    assert page.locator("#answer").inner_text() == str(np.argmax(logits))
    expect(page.locator("#heard")).to_contain_text("noise.wav, 1.00 s")


def test_the_page_says_which_sounds_it_takes(hearing: Path, page: Page, serve: Serve, tmp_path: Path) -> None:
    visit(page, serve(hearing))
    page.locator("#sound").set_input_files(wav_file(tmp_path / "other.wav", rate=8000))
    expect(page.locator("#notes")).to_contain_text("8000 samples per second, the model takes 16000: resample it first")
    page.locator("#sound").set_input_files(ROOT / "README.md")
    expect(page.locator("#notes")).to_contain_text("README.md: this is no WAV file.")


def test_a_changed_table_of_sounds_is_named(hearing: Path, page: Page, serve: Serve) -> None:
    table = hearing / "models" / "tiny" / "sound.json"
    table.write_text(table.read_text().replace("0.", "0.1", 1))
    page.goto(f"{serve(hearing).url}/bundle/")
    expect(page.locator("#error")).to_contain_text("models/tiny/sound.json is corrupt: sha256", timeout=60_000)


def test_a_bundles_recipe_has_the_tables_of_its_sounds() -> None:
    on = target("browser-wasm")
    assert "sound" not in web_bundle.parameters(TINY, on)
    assert web_bundle.parameters(replace(TINY, preprocessing=HEARD), on)["sound"]


def test_transformers_js_runs_the_layout(
    cell: Cell, builts: dict[str, Built], bundle: Path, page: Page, serve: Serve, tmp_path: Path
) -> None:
    runtime = "./bundle/runtime/ort.wasm.bundle.min.mjs"
    imports = {"imports": {"onnxruntime-web/webgpu": runtime, "onnxruntime-common": runtime}}
    (tmp_path / "app.html").write_text(f'<script type="importmap">{json.dumps(imports)}</script>')
    server = serve(bundle, **{"app.html": tmp_path / "app.html"})
    page.goto(f"{server.url}/app.html")
    feeds = {"image": TINY.preprocess.apply(cell.data.arrays(cell.data.evaluation))["image"][:4]}
    for dtype, name in (("fp32", "onnx_model"), ("q8", "onnx_int8_static")):
        logits = page.evaluate(
            """async ([dtype, pixels, dims]) => {
                const { open } = await import("/bundle/transformers.js");
                const { AutoModel, Tensor } = await open("/bundle/");
                const model = await AutoModel.from_pretrained("tiny", { dtype, device: "wasm" });
                const { logits } = await model({ image: new Tensor("float32", Float32Array.from(pixels), dims) });
                return Array.from(logits.data);
            }""",
            [dtype, feeds["image"].ravel().tolist(), list(feeds["image"].shape)],
        )
        direct = cell.verification.loadable("ort_web", builts[name].build).open(1)
        assert isinstance(direct, ort_web.OrtWebSession)
        expected = direct.run(feeds)["logits"]
        direct.close()
        np.testing.assert_allclose(np.array(logits, np.float32).reshape(4, 10), expected, atol=1e-5)
    assert all(path.startswith(("/bundle/", "/app.html", "/favicon")) for path, _size in server.sent)


# --- runtimes ----------------------------------------------------------------------------------------


def test_webgpu_gives_what_wasm_gives(cell: Cell, builts: dict[str, Built], store: ArtifactStore) -> None:
    artifact = builts["onnx_model"].artifact
    assert artifact is not None
    feeds = {"image": TINY.preprocess.apply(cell.data.arrays(cell.data.evaluation))["image"][:5]}
    outputs = {}
    for provider in ("wasm", "webgpu"):
        session = ort_web.open_session(
            store.checkout(artifact), threads=1, inputs=["image"], outputs=["logits"], execution_provider=provider
        )
        assert isinstance(session, ort_web.OrtWebSession)
        outputs[provider] = session.run(feeds)["logits"]
        session.close()
    np.testing.assert_allclose(outputs["webgpu"], outputs["wasm"], atol=1e-4)


def test_without_an_adapter_a_webgpu_bundle_runs_on_wasm_and_says_why(
    changeable: Path, page: Page, serve: Serve
) -> None:
    path = changeable / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["runtimes"]["webgpu"] = {"module": "runtime/absent.mjs", "wasm": "runtime/absent.wasm"}
    path.write_text(json.dumps(manifest))
    visit(page, serve(changeable))
    assert shown(page)["Device"] == "wasm"
    assert "webgpu: this browser has no adapter" in page.locator("#notes").inner_text()


def test_webgpu_is_never_timed() -> None:
    assert local_target(catalog().values(), "browser") == target("browser-wasm")
    assert target("browser-webgpu").device is None
    assert target("browser-webgpu").options["not_measured"] == "not measured: WebGPU runs on a software adapter here"


def test_a_query_is_timed_in_the_page_and_memory_is_the_renderers(cell: Cell, builts: dict[str, Built]) -> None:
    session = cell.verification.loadable("ort_web", builts["onnx_model"].build).open(1)
    assert isinstance(session, ort_web.OrtWebSession)
    feeds = {"image": TINY.preprocess.apply(cell.data.arrays(cell.data.evaluation))["image"][:1]}
    try:
        times = [session.time(feeds) for _ in range(50)]
        assert 0 < min(times) < 50
        assert len(set(times)) > 5, "a clock too coarse to tell queries apart"
        assert session.load_ms > 0
        assert 2**20 < session.baseline_bytes < session.peak_memory_bytes() < 2**30
    finally:
        session.close()


def test_what_the_runtime_cannot_run_is_refused_in_its_words(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["x"], ["y"], domain="example")], "g", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("example", 1)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(Refused, match="Unheard"):
        ort_web.open_session(tmp_path / "model.onnx", threads=1, inputs=["x"], outputs=["y"], execution_provider="wasm")


def test_missing_npm_packages_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "NODE_MODULES", tmp_path / "node_modules")
    with pytest.raises(MissingTool, match="onnxruntime-web is not installed: npm ci --ignore-scripts --prefix"):
        web_bundle.VARIANT.tool_versions()


def test_the_lock_names_no_registry_and_pins_by_hash() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert all(entry["integrity"] and "resolved" not in entry for entry in packages.values())


def test_a_type_checker_accepts_an_apps_use_of_the_loader_and_finds_mistakes() -> None:
    """The mistakes are marked `@ts-expect-error`: one that is not found is an error too."""
    checker = tools.NODE_MODULES / ".bin" / "tsc"
    if not checker.exists():
        pytest.skip(f"TypeScript is not installed: npm ci --ignore-scripts --prefix {WEB}")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    consumer = ROOT / "tests" / "toolchains" / "loader_consumer.ts"
    result = subprocess.run([checker, *options, consumer], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# --- int4 --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_int4_changes_every_matrix_product_and_runs_in_wasm(cell: Cell, store: ArtifactStore, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from tests.tiny.network import Mlp

    torch.manual_seed(0)
    save_file(Mlp().state_dict(), tmp_path / "mlp.safetensors")
    checkpoint = checkpoints.register(store, "mlp", str(tmp_path / "mlp.safetensors"))
    mlp = replace(cell, spec=MLP, checkpoint=checkpoint)
    variants = {variant.name: variant for variant in BROWSER.variants}
    model = mlp.variants.build(variants["onnx_model"], mlp.reference.build())
    int4 = mlp.variants.build(variants["onnx_int4"], model)
    assert int4.artifact is not None, int4.build.refused
    assert model.artifact is not None, int4.build.refused
    assert int4.build.facts["quantized_nodes"] == 2
    assert int4.recipe == "int4_weights_matmulnbits_u4_block32_rtn"
    assert int4.artifact.size_bytes < 0.4 * model.artifact.size_bytes
    assert int4.parity is not None
    assert int4.parity.snr_db is not None
    assert int4.parity.snr_db > 10


@pytest.mark.parametrize(("account", "sandboxed"), [(0, False), (1000, True)])
def test_chromium_is_started_in_its_sandbox_unless_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: int, sandboxed: bool
) -> None:
    arguments = tmp_path / "arguments"
    stand_in = tmp_path / "chromium"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {arguments}\nexit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr("edge_assets.toolchains.web.engine.browser", lambda _name: str(stand_in))
    monkeypatch.setattr("edge_assets.toolchains.web.chromium.os.geteuid", lambda: account)
    with pytest.raises(Exception, match="has been closed"):
        Chromium()
    given = arguments.read_text().splitlines()
    assert "--disable-sync" in given, "the arguments that Chromium is started with"
    assert ("--no-sandbox" not in given) == sandboxed
