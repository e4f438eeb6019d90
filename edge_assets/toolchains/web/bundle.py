"""The browser bundle: a folder that any static file server can host.

    index.html               demo page: runs the model on the visitor's image
    loader.js, loader.d.ts   what an application imports; its parts beside it, and sw.js, the service worker
    manifest.json            variants, chunks with sizes and sha256, tensors, preprocessing
    default.json             the released variant (written by the release)
    models/<id>/             the layout of Transformers.js: config.json, onnx/model{,_fp16,_quantized,_int8,_q4}.onnx,
                             and of a model of texts tokenizer.json, tokenizer_config.json
    runtime/                 ONNX Runtime Web and Transformers.js, and of a model of texts the tokenizer's library

Large files (models, WebAssembly) are stored once, as chunks `<path>.part<n>` of at most 4 MiB, each gzipped where that
saves 5 %. The loader joins them; under the service worker the plain path answers with the whole file.
"""

import gzip
import hashlib
import json
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.hashing import digest
from edge_assets.spec.preprocess import TextPreprocessing
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.web.chromium import RUNTIME, WEB, Chromium, Server
from edge_assets.toolchains.web.ort_web import open_harness, routes

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

CHUNK = 4 * 2**20
LEAST_GAIN = 0.05  # of a chunk that gzip must save, or it is stored as it is
SOURCES = WEB / "bundle"
# variant -> what Transformers.js calls its precision, and the suffix of its file
DTYPES = {
    "onnx_model": ("fp32", ""),
    "onnx_fp16": ("fp16", "_fp16"),
    "onnx_int8_static": ("q8", "_quantized"),
    "onnx_int8_dynamic": ("int8", "_int8"),
    "onnx_int4": ("q4", "_q4"),
}
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "q8": "int8", "int8": "int8", "q4": "int4"}
RUNTIMES = {  # execution provider -> module and WebAssembly of ONNX Runtime Web
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
HUGGING_FACE = WEB / "node_modules" / "@huggingface"
TRANSFORMERS = HUGGING_FACE / "transformers" / "dist" / "transformers.web.min.js"
TOKENIZERS = HUGGING_FACE / "tokenizers" / "dist" / "tokenizers.min.mjs"
COMPANIONS = ("config.json", "tokenizer_config.json")  # beside a tokenizer.json, where Transformers.js wants them
LOADS = 3  # visits of each kind; the median is kept


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Write the bundle, then visit it in Chromium: first and cached load of every variant."""
    parameters, folder = request.parameters, request.output
    models = {onnx_format.MODEL.name: request.source, **request.others}
    files, variants = {}, {}
    for name in (name for name in DTYPES if name in models):
        dtype, suffix = DTYPES[name]
        path = f"models/{parameters['id']}/onnx/model{suffix}.onnx"
        files[path] = write_chunks(models[name], folder, path)
        variants[name] = {"file": path, "dtype": dtype, "precision": PRECISIONS[dtype], **sizes(files[path])}
    # a WebGPU bundle also holds the smaller runtime for browsers without WebGPU
    providers = dict.fromkeys(("wasm", parameters["execution_provider"]))
    runtimes = {}
    for provider in providers:
        module, wasm = (f"runtime/{name}" for name in RUNTIMES[provider])
        files[wasm] = write_chunks(RUNTIME / Path(wasm).name, folder, wasm)
        runtimes[provider] = {"module": module, "wasm": wasm}
    manifest = {
        "format": "edge-assets-web/1",
        **{name: parameters[name] for name in ABOUT},
        "files": files,
        "variants": variants,
        "default": onnx_format.MODEL.name,
        "runtimes": runtimes,
        "shell": write_shell(folder, request.spec, [RUNTIME / RUNTIMES[provider][0] for provider in providers]),
        "versions": VARIANT.tool_versions(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shipped = {provider: sizes(files[entry["wasm"]]) for provider, entry in runtimes.items()}
    request.log(f"visiting the bundle: {len(variants)} variants")
    return {"variants": variants, "runtime": shipped, "chunk_bytes": CHUNK} | visit(request, list(variants))


ABOUT = ("id", "description", "inputs", "outputs", "preprocessing", "class_names")


def write_chunks(source: Path, folder: Path, path: str) -> dict[str, Any]:
    """Cut a file into `folder`/`path`.part<n>. The manifest's entry: sizes in bytes and sha256, also of each chunk."""
    content = source.read_bytes()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    chunks = []
    for number, start in enumerate(range(0, len(content), CHUNK)):
        part = content[start : start + CHUNK]
        packed = gzip.compress(part, compresslevel=9, mtime=0)
        stored, encoding = (packed, "gzip") if len(packed) <= (1 - LEAST_GAIN) * len(part) else (part, "identity")
        name = f"{path}.part{number}"
        (folder / name).write_bytes(stored)
        sha256 = hashlib.sha256(stored).hexdigest()
        chunks.append(
            {"path": name, "bytes": len(part), "wire_bytes": len(stored), "sha256": sha256, "encoding": encoding}
        )
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "chunks": chunks}


def sizes(entry: Mapping[str, Any]) -> dict[str, int]:
    """A file's bytes, what of it goes over the wire, and its number of chunks."""
    chunks = entry["chunks"]
    return {
        "bytes": entry["bytes"],
        "wire_bytes": sum(chunk["wire_bytes"] for chunk in chunks),
        "chunks": len(chunks),
    }


def write_shell(folder: Path, spec: "ModelSpec", modules: list[Path]) -> list[dict[str, Any]]:
    """Write the small files; the service worker keeps them for offline use. Paths, sizes and sha256."""
    own = tokenizer_files(spec)
    libraries = [*modules, TRANSFORMERS, *([TOKENIZERS] if own else [])]
    placed = {source.name: source for source in sorted(SOURCES.iterdir())}
    placed |= {f"runtime/{module.name}": module for module in libraries}
    placed |= {f"models/{spec.name}/{name}": file for name, file in own.items()}
    for name, source in placed.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    written = [folder / name for name in placed]
    for name, content in _settings(spec).items():
        if name not in own:
            written.append(folder / "models" / spec.name / name)
            written[-1].write_text(json.dumps(content) + "\n")
    return [
        {
            "path": str(path.relative_to(folder)),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in written
    ]


def tokenizer_files(spec: "ModelSpec") -> dict[str, Path]:
    """Of a model of texts, by name: the tokenizer's file, and those of its companions that lie beside it."""
    if not isinstance(text := spec.preprocess, TextPreprocessing):
        return {}
    tokenizer = Path(text.tokenizer)
    beside = {name: tokenizer.with_name(name) for name in COMPANIONS}
    return {"tokenizer.json": tokenizer} | {name: path for name, path in beside.items() if path.is_file()}


def _settings(spec: "ModelSpec") -> dict[str, dict[str, Any]]:
    """The least that Transformers.js wants of a model, for what has no file of its own."""
    # it needs a type; for one it does not know, AutoModel opens the graph as it is
    settings: dict[str, dict[str, Any]] = {"config.json": {"model_type": spec.name}}
    if isinstance(text := spec.preprocess, TextPreprocessing):
        padding = json.loads(Path(text.tokenizer).read_text()).get("padding") or {}
        settings["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": text.max_length,
            "pad_token": padding.get("pad_token", "[PAD]"),  # tokenizers' own default
        }
    return settings


def visit(request: BuildRequest, variants: list[str]) -> dict[str, Any]:
    """Loads of each variant in Chromium: median ms of a first visit, of a cached one, and of session creation.

    Served over the loopback interface, so no network is in these times. Always on wasm, the device that is real here.
    A session's first creation in a page includes compiling the runtime.
    """
    from edge_assets.targets import this_machine

    server = Server(routes(request.output))
    try:
        with Chromium() as chromium:
            where = f"{this_machine().cpu}, {chromium.version}, wasm, served on the same machine"
            visits = {name: [_visitor(chromium, server, request, name) for _ in range(LOADS)] for name in variants}
    finally:
        server.close()
    loads = {
        name: {
            "first_load_ms": statistics.median(first["total_ms"] for first, _ in pairs),
            "cached_load_ms": statistics.median(cached["total_ms"] for _, cached in pairs),
            "session_ms": statistics.median(first["session_ms"] for first, _ in pairs),
            "wire_bytes": pairs[0][0]["bytes"]["wire"],
            "cached_wire_bytes": pairs[0][1]["bytes"]["wire"],
        }
        for name, pairs in visits.items()
    }
    return {"loads": loads, "loads_measured": f"median of {LOADS} visits, {where}"}


def _visitor(chromium: Chromium, server: Server, request: BuildRequest, variant: str) -> tuple[Any, Any]:
    """What the loader says of a new visitor's first and second visit."""
    context = chromium.browser.new_context()  # with storage of its own
    outputs = [tensor.name for tensor in request.spec.outputs]
    try:
        page = context.new_page()
        loads = []
        for _ in range(2):
            open_harness(page, server)
            loads.append(
                page.evaluate("([names, variant]) => edge.openBundle('wasm', 1, names, variant)", [outputs, variant])
            )
        return loads[0], loads[1]
    finally:
        context.close()


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """What the manifest says of the model, the target's device, and the bundle's own files."""
    from dataclasses import asdict

    own = tokenizer_files(spec)
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(SOURCES.iterdir())}
    return {
        "id": spec.name,
        "description": spec.description,
        "inputs": [asdict(tensor) for tensor in spec.inputs],
        "outputs": [asdict(tensor) for tensor in spec.outputs],
        "preprocessing": spec.preprocess.to_dict(),
        "class_names": list(spec.class_names),
        "execution_provider": target.options["execution_provider"],
        "chunk": CHUNK,
        "least_gain": LEAST_GAIN,
        "web": digest(sources),
        "tokenizer": {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in own.items()},
    }


VARIANT = Variant(
    name="web_bundle",
    description="A folder for any static file server: every variant in verified, compressed chunks, a loader that "
    "caches them and works offline, ONNX Runtime Web and Transformers.js, and a demo page.",
    format="web_bundle",
    precision="fp32",  # of the variant that its verification loads
    source=onnx_format.MODEL.name,
    runtime="ort_web",
    build=build,
    parameters=parameters,
    code_version="2",
    tools=(
        *("npm:onnxruntime-web", "npm:@huggingface/transformers", "npm:@huggingface/tokenizers"),
        *("playwright", "browser:chromium"),
    ),
    kinds=("javascript", "onnx"),
    others=tuple(name for name in DTYPES if name != onnx_format.MODEL.name),
    is_candidate=False,
    extra="browser",
    process="browser",
)
