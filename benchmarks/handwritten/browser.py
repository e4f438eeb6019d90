"""ONNX Runtime Web in headless Chromium: the ONNX files on WebAssembly and WebGPU, and a bundle for each of the two.

What runs in pages is the product's JavaScript (edge_assets/toolchains/web/static), the same on both sides. The Python
around it, the server and the bundle's writer, is this script's own. WebGPU runs on a software adapter, so it is
verified on fewer images, without fp16, which that adapter lacks, and never timed.
"""

import base64
import contextlib
import gzip
import hashlib
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from benchmarks.handwritten.common import Clock, Report, Work, call, cores, sizes, verify
from benchmarks.handwritten.data import MEAN, STD
from benchmarks.handwritten.measuring import Contestant, measure, peak_bytes

WEB = Path(__file__).parents[2] / "edge_assets" / "toolchains" / "web" / "static"
RUNTIME = WEB / "node_modules" / "onnxruntime-web" / "dist"
TRANSFORMERS = WEB / "node_modules" / "@huggingface" / "transformers" / "dist" / "transformers.web.min.js"
FLAGS = (
    *("--headless", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DEVICES = {"wasm": ("--disable-gpu",), "webgpu": ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")}
RUNTIMES = {  # device -> module and WebAssembly of ONNX Runtime Web
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
# artifact -> its file's name in `cpu`, dtype and suffix in Transformers.js, precision
MODELS = {
    "onnx_model": ("onnx_model", "fp32", "", "fp32"),
    "onnx_fp16": ("onnx_fp16", "fp16", "_fp16", "fp16"),
    "onnx_int8_static": ("onnx_int8_static u8s8", "q8", "_quantized", "int8"),
}
RUNNABLE = {"wasm": tuple(MODELS), "webgpu": ("onnx_model", "onnx_int8_static")}
IMAGES = {"wasm": None, "webgpu": 32}  # that are verified; None: all
SWEEP = (1, 8)
CHUNK, LEAST_GAIN, LOADS = 4 * 2**20, 0.05, 3  # bytes; what gzip must save; visits of each kind


# --- server and pages ----------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Serves the longest matching prefix, as a cross-origin isolated page."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", "": "application/wasm"}

    def __init__(self, routes: Mapping[str, Path], *arguments: Any) -> None:
        self.routes = routes
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        """The routed file."""
        path = path.partition("?")[0]
        prefix = max((prefix for prefix in self.routes if path.startswith(prefix)), key=len)
        return str(self.routes[prefix] / path.removeprefix(prefix))

    def end_headers(self) -> None:
        """What makes threads and a precise clock available to the page."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Requests are not news."""


@contextlib.contextmanager
def serve(path: Path) -> Iterator[str]:
    """The address of a server with the page, the runtime, and the ONNX file or the bundle."""
    routes = {"/": WEB, "/runtime/": RUNTIME, "/bundle/" if path.is_dir() else "/model": path}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, routes))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def launch(device: str) -> Iterator[Any]:
    """A browser with a new profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, *DEVICES[device]]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield browser
        browser.close()


def open_page(context: Any, address: str) -> Any:
    """The page that runs models, ready for calls."""
    page = context.new_page()
    page.goto(f"{address}/harness.html")
    page.wait_for_function("window.edge")
    return page


class Model:
    """A page with one model loaded, in a browser of its own."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        self.device = device
        self.stack = contextlib.ExitStack()
        self.browser = self.stack.enter_context(launch(device))
        self.page = open_page(self.browser, self.stack.enter_context(serve(path)))
        function = "openBundle" if path.is_dir() else "openFile"
        opened = self.page.evaluate(f"a => edge.{function}(...a)", [device, threads, ["logits"]])
        self.load_ms: float = opened["session_ms"]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logits = self.page.evaluate("feeds => edge.run(feeds)", feeds(images))["logits"]
        return np.frombuffer(base64.b64decode(logits["data"]), np.float32).reshape(logits["dims"])

    def time(self, images: np.ndarray) -> float:
        """One query's milliseconds by the page's clock."""
        return self.page.evaluate("feeds => edge.time(feeds)", feeds(images))

    def peak_bytes(self) -> int:
        """Peak memory of the page's process and, on WebGPU, of the one that holds its buffers."""
        session = self.browser.new_browser_cdp_session()
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
        kinds = ("renderer", "GPU") if self.device == "webgpu" else ("renderer",)
        return sum(max(peak_bytes(entry["id"]) for entry in found if entry["type"] == kind) for kind in kinds)

    def close(self) -> None:
        """End the browser and the server."""
        self.stack.close()


def feeds(images: np.ndarray) -> dict[str, Any]:
    """Images as the page takes them."""
    data = base64.b64encode(np.ascontiguousarray(images).tobytes()).decode()
    return {"image": {"type": "float32", "dims": list(images.shape), "data": data}}


def import_runtime(_path: Path) -> None:
    """Import what drives the browser."""
    import playwright.sync_api  # noqa: F401


open_model = Model  # what `measuring` calls


# --- bundles -------------------------------------------------------------------------------------------


def write_bundle(work: Work, folder: Path, device: str) -> None:
    """A folder for a static file server: models and runtimes in compressed chunks, loader, manifest."""
    files, variants, runtimes = {}, {}, {}
    for name, (source, dtype, suffix, precision) in MODELS.items():
        path = f"models/digits/onnx/model{suffix}.onnx"
        files[path] = write_chunks(work.file(source, ".onnx"), folder, path)
        variants[name] = {"file": path, "dtype": dtype, "precision": precision, **totals(files[path])}
    for provider in dict.fromkeys(("wasm", device)):  # wasm is also what a browser without WebGPU gets
        module, wasm = RUNTIMES[provider]
        files[f"runtime/{wasm}"] = write_chunks(RUNTIME / wasm, folder, f"runtime/{wasm}")
        runtimes[provider] = {"module": f"runtime/{module}", "wasm": f"runtime/{wasm}"}
    shell = {source.name: source for source in (WEB / "bundle").iterdir()}
    shell |= {entry["module"]: RUNTIME / Path(entry["module"]).name for entry in runtimes.values()}
    shell[f"runtime/{TRANSFORMERS.name}"] = TRANSFORMERS
    for name, file in shell.items():
        shutil.copyfile(file, folder / name)
    config = folder / "models" / "digits" / "config.json"
    config.write_text(json.dumps({"model_type": "digits"}))
    listed = [*(folder / name for name in shell), config]
    manifest = {
        "format": "edge-assets-web/1",
        "id": "digits",
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "preprocessing": {"kind": "image", "input": "image", "height": 32, "width": 32, "channels": 1}
        | {"scale": 1 / 255, "mean": [MEAN], "std": [STD]},
        "class_names": list("0123456789"),
        "files": files,
        "variants": variants,
        "default": "onnx_model",
        "runtimes": runtimes,
        "shell": [
            {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256(path.read_bytes())}
            for path in listed
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def write_chunks(source: Path, folder: Path, path: str) -> dict[str, Any]:
    """A file in parts of at most 4 MiB, each compressed where that pays; the manifest's entry."""
    content = source.read_bytes()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    chunks = []
    for number, start in enumerate(range(0, len(content), CHUNK)):
        part = content[start : start + CHUNK]
        packed = gzip.compress(part, compresslevel=9, mtime=0)
        stored, encoding = (packed, "gzip") if len(packed) <= (1 - LEAST_GAIN) * len(part) else (part, "identity")
        name = f"{path}.part{number}"
        (folder / name).write_bytes(stored)
        entry = {"path": name, "bytes": len(part), "wire_bytes": len(stored)}
        chunks.append(entry | {"sha256": sha256(stored), "encoding": encoding})
    return {"bytes": len(content), "sha256": sha256(content), "chunks": chunks}


def sha256(content: bytes) -> str:
    """The hash, as manifests have it."""
    return hashlib.sha256(content).hexdigest()


def totals(entry: Mapping[str, Any]) -> dict[str, int]:
    """A file's bytes, what of it goes over the wire, and its number of chunks."""
    wire = sum(chunk["wire_bytes"] for chunk in entry["chunks"])
    return {"bytes": entry["bytes"], "wire_bytes": wire, "chunks": len(entry["chunks"])}


def visit(folder: Path) -> dict[str, Any]:
    """Median ms of a new visitor's first load and of the next one, from the cache, of each variant on wasm."""
    results = {}
    with launch("wasm") as browser, serve(folder) as address:
        for name in MODELS:
            visitors = [visitor(browser, address, name) for _ in range(LOADS)]
            first, cached = (statistics.median(loads) for loads in zip(*visitors, strict=True))
            results[name] = {"first_load_ms": first, "cached_load_ms": cached}
    return results


def visitor(browser: Any, address: str, variant: str) -> list[float]:
    """Milliseconds of two loads with a storage of their own."""
    context = browser.new_context()
    page = open_page(context, address)
    loads = []
    for i in range(2):
        if i:
            page.goto(f"{address}/harness.html")
            page.wait_for_function("window.edge")
        opened = page.evaluate("variant => edge.openBundle('wasm', 1, ['logits'], variant)", variant)
        loads.append(opened["total_ms"])
    context.close()
    return loads


# --- all of it -----------------------------------------------------------------------------------------


def verify_on(device: str, bundle: Path, work: Work) -> dict[str, Any]:
    """Accuracy and parity of each model and of the bundle through its own loader, by name."""
    data = [work.array(name)[: IMAGES[device]] for name in ("test", "labels", "reference")]
    files = {name: work.file(MODELS[name][0], ".onnx") for name in RUNNABLE[device]} | {"web_bundle": bundle}
    results = {}
    for name, path in files.items():
        model = Model(path, cores(), device)
        results[f"{name} {device}"] = verify(model, *data)
        model.close()
    return results


def main(work: Work) -> Report:
    """Write and visit the bundles, verify everything on both devices, time WebAssembly, take WebGPU's memory."""
    clock = Clock()
    bundles = {f"web_bundle {device}": work.file(f"web_bundle {device}", "") for device in DEVICES}
    for device, folder in zip(DEVICES, bundles.values(), strict=True):
        folder.mkdir()
        write_bundle(work, folder, device)
    clock.lap("conversion")
    verified: dict[str, Any] = {}
    for device, folder in zip(DEVICES, bundles.values(), strict=True):
        verified |= verify_on(device, folder, work)
    clock.lap("verification")
    measured = {name: visit(folder) for name, folder in bundles.items()}
    eager = {"eager": Contestant("cpu", work.checkpoint)}
    for device, sweep in (("wasm", SWEEP), ("webgpu", None)):
        paths = {name: work.file(MODELS[name][0], ".onnx") for name in RUNNABLE[device]}
        pages = {name: Contestant("browser", path, (device,)) for name, path in paths.items()}
        measured[device] = measure(eager | pages, work, threads=1, sweep=sweep)
    clock.lap("measurement")
    return {"artifacts": sizes(bundles), "verified": verified, "measured": measured, "phases": clock.seconds}


if __name__ == "__main__":
    call(main)
