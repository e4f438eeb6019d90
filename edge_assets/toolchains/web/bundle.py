"""The browser bundle: a folder that any static file server can host.

    index.html               demo page: runs the model on the visitor's image, sound or text
    loader.js, loader.d.ts   what an application imports; its parts beside it, and sw.js, the service worker
    manifest.json            variants, chunks with sizes and sha256, tensors, preprocessing
    default.json             the released variant (written by the release)
    models/<id>/             the layout of Transformers.js: config.json, onnx/model{,_fp16,_quantized,_int8,_q4}.onnx,
                             and of a model of texts tokenizer.json, tokenizer_config.json; of one of sound sound.json
    runtime/                 ONNX Runtime Web and Transformers.js, and of a model of texts the tokenizer's library

Large files (models, WebAssembly) are stored once, as chunks `<path>.part<n>` of at most 4 MiB, each gzipped where that
saves 5 %. The loader joins them; under the service worker the plain path answers with the whole file.
"""

import gzip
import hashlib
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from edge_assets.core.session import layout_of
from edge_assets.core.sound_tables import tables_of
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.hashing import Json, digest, sha256_of
from edge_assets.spec.preprocess import AudioPreprocessing, TextPreprocessing
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
ABOUT = ("id", "description", "inputs", "outputs", "preprocessing", "class_names", "layout")  # parameters that it says
COMPANIONS = ("config.json", "tokenizer_config.json")  # beside a tokenizer.json, where Transformers.js wants them
LOADS = 3  # visits of each kind; the median is kept


class Chunk(TypedDict):
    """A part of a file: its bytes, what of them is stored and sent, the hash of that, and "gzip" or "identity"."""

    path: str
    bytes: int
    wire_bytes: int
    sha256: str
    encoding: str


class StoredFile(TypedDict):
    """A large file: its bytes, the hash of the whole, and its chunks."""

    bytes: int
    sha256: str
    chunks: list[Chunk]


class ShellFile(TypedDict):
    """A small file, stored as it is."""

    path: str
    bytes: int
    sha256: str


class LoadedBytes(TypedDict):
    """Bytes of a load."""

    wire: int  # that came from the server


class Load(TypedDict):
    """What the loader says of a load."""

    total_ms: float
    session_ms: float  # of it, what the runtime took
    bytes: LoadedBytes


class Visits(NamedTuple):
    """The loads of one visitor."""

    first: Load
    cached: Load


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Write the bundle, then visit it in Chromium: first and cached load of every variant."""
    onnx_format.one_file(request.source, "a web bundle")
    folder = request.output
    files: dict[str, StoredFile] = {}
    variants = _write_models(request, files)
    runtimes = _write_runtimes(request, files)
    modules = [RUNTIME / RUNTIMES[provider][0] for provider in runtimes]
    manifest = {
        "format": "edge-assets-web/1",
        "files": files,
        "variants": variants,
        "default": onnx_format.MODEL.name,
        "runtimes": runtimes,
        "shell": write_shell(folder, request.spec, modules),
        "versions": VARIANT.tool_versions(),
    }
    for name in ABOUT:
        if name in request.parameters:
            manifest[name] = request.parameters[name]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shipped = {provider: sizes(files[entry["wasm"]]) for provider, entry in runtimes.items()}
    request.log(f"visiting the bundle: {len(variants)} variants")
    return {"variants": variants, "runtime": shipped, "chunk_bytes": CHUNK} | visit(request, list(variants))


def _write_models(request: BuildRequest, files: dict[str, StoredFile]) -> dict[str, dict[str, Json]]:
    """Every variant that was built, in chunks; they are added to `files`. What the manifest says of each."""
    models = {onnx_format.MODEL.name: request.source, **request.others}
    variants: dict[str, dict[str, Json]] = {}
    for name, (dtype, suffix) in DTYPES.items():
        if name not in models:
            continue
        path = f"models/{request.parameters['id']}/onnx/model{suffix}.onnx"
        files[path] = write_chunks(models[name], request.output, path)
        variants[name] = {
            "file": path,
            "dtype": dtype,
            "precision": PRECISIONS[dtype],
            **sizes(files[path]),
        }
    return variants


def _write_runtimes(request: BuildRequest, files: dict[str, StoredFile]) -> dict[str, dict[str, str]]:
    """The runtimes' WebAssembly in chunks, added to `files`. By execution provider, where its parts are."""
    # a WebGPU bundle also holds the smaller runtime for browsers without WebGPU
    providers = dict.fromkeys(("wasm", request.parameters["execution_provider"]))
    runtimes = {}
    for provider in providers:
        module, wasm = RUNTIMES[provider]
        path = f"runtime/{wasm}"
        files[path] = write_chunks(RUNTIME / wasm, request.output, path)
        runtimes[provider] = {"module": f"runtime/{module}", "wasm": path}
    return runtimes


def write_chunks(source: Path, folder: Path, path: str) -> StoredFile:
    """Cut a file into `folder`/`path`.part<n>. The manifest's entry."""
    content = source.read_bytes()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    chunks: list[Chunk] = []
    for number, start in enumerate(range(0, len(content), CHUNK)):
        part = content[start : start + CHUNK]
        stored, encoding = _packed(part)
        name = f"{path}.part{number}"
        (folder / name).write_bytes(stored)
        chunks.append(
            {
                "path": name,
                "bytes": len(part),
                "wire_bytes": len(stored),
                "sha256": hashlib.sha256(stored).hexdigest(),
                "encoding": encoding,
            }
        )
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "chunks": chunks}


def _packed(part: bytes) -> tuple[bytes, str]:
    """A chunk as it is stored, and its encoding."""
    packed = gzip.compress(part, compresslevel=9, mtime=0)
    if len(packed) <= (1 - LEAST_GAIN) * len(part):
        return packed, "gzip"
    return part, "identity"


def sizes(entry: StoredFile) -> dict[str, int]:
    """A file's bytes, what of it goes over the wire, and its number of chunks."""
    chunks = entry["chunks"]
    return {
        "bytes": entry["bytes"],
        "wire_bytes": sum(chunk["wire_bytes"] for chunk in chunks),
        "chunks": len(chunks),
    }


def write_shell(folder: Path, spec: "ModelSpec", modules: list[Path]) -> list[ShellFile]:
    """Write the small files; the service worker keeps them for offline use. Paths, sizes and sha256."""
    own = tokenizer_files(spec)
    libraries = [*modules, TRANSFORMERS]
    if own:
        libraries.append(TOKENIZERS)
    placed: dict[str, Path] = {}
    for source in sorted(SOURCES.iterdir()):
        placed[source.name] = source
    for library in libraries:
        placed[f"runtime/{library.name}"] = library
    for name, file in own.items():
        placed[f"models/{spec.name}/{name}"] = file
    written = []
    for name, source in placed.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
        written.append(name)
    for name, content in _settings(spec).items():
        if name not in own:
            place = f"models/{spec.name}/{name}"
            (folder / place).write_text(json.dumps(content) + "\n")
            written.append(place)
    shell: list[ShellFile] = []
    for name in written:
        path = folder / name
        shell.append({"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
    return shell


def tokenizer_files(spec: "ModelSpec") -> dict[str, Path]:
    """Of a model of texts, by name: the tokenizer's file, and those of its companions that lie beside it."""
    text = spec.preprocess
    if not isinstance(text, TextPreprocessing):
        return {}
    tokenizer = Path(text.tokenizer)
    found = {"tokenizer.json": tokenizer}
    for name in COMPANIONS:
        companion = tokenizer.with_name(name)
        if companion.is_file():
            found[name] = companion
    return found


def _settings(spec: "ModelSpec") -> dict[str, dict[str, Json]]:
    """The least that Transformers.js wants of a model, for what has no file of its own; the tables of one of sound."""
    # it needs a type; for one it does not know, AutoModel opens the graph as it is
    settings: dict[str, dict[str, Json]] = {"config.json": {"model_type": spec.name}}
    if tables := _tables(spec):
        settings["sound.json"] = tables
    text = spec.preprocess
    if isinstance(text, TextPreprocessing):
        padding = json.loads(Path(text.tokenizer).read_text()).get("padding") or {}
        settings["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": text.max_length,
            "pad_token": padding.get("pad_token", "[PAD]"),  # tokenizers' own default
        }
    return settings


def _tables(spec: "ModelSpec") -> dict[str, Json]:
    """What the page computes a spectrogram with; nothing for a model of something else."""
    if not isinstance(spec.preprocess, AudioPreprocessing):
        return {}
    tables = tables_of(spec.preprocess)
    return tables.to_dict() if tables else {}


def visit(request: BuildRequest, variants: list[str]) -> dict[str, Json]:
    """Loads of each variant in Chromium: median ms of a first visit, of a cached one, and of session creation.

    Served over the loopback interface, so no network is in these times. Always on wasm, the device that is real here.
    A session's first creation in a page includes compiling the runtime.
    """
    from edge_assets.targets import this_machine

    visits: dict[str, list[Visits]] = {}
    server = Server(routes(request.output))
    try:
        with Chromium() as chromium:
            where = f"{this_machine().cpu}, {chromium.version}, wasm, served on the same machine"
            for name in variants:
                visits[name] = [_visitor(chromium, server, request, name) for _ in range(LOADS)]
    finally:
        server.close()
    loads = {name: _typical(visitors) for name, visitors in visits.items()}
    return {"loads": loads, "loads_measured": f"median of {LOADS} visits, {where}"}


def _typical(visitors: Sequence[Visits]) -> dict[str, float]:
    """Median times of several visitors, and the bytes that each got."""
    first = [visitor.first["total_ms"] for visitor in visitors]
    cached = [visitor.cached["total_ms"] for visitor in visitors]
    sessions = [visitor.first["session_ms"] for visitor in visitors]
    return {
        "first_load_ms": statistics.median(first),
        "cached_load_ms": statistics.median(cached),
        "session_ms": statistics.median(sessions),
        "wire_bytes": visitors[0].first["bytes"]["wire"],
        "cached_wire_bytes": visitors[0].cached["bytes"]["wire"],
    }


def _visitor(chromium: Chromium, server: Server, request: BuildRequest, variant: str) -> Visits:
    """A new visitor's first and second visit."""
    with chromium.visitor():  # with storage of its own
        first = _load(chromium, server, request, variant)
        cached = _load(chromium, server, request, variant)
    return Visits(first, cached)


def _load(chromium: Chromium, server: Server, request: BuildRequest, variant: str) -> Load:
    """One visit: the page opened anew, and the variant loaded in it."""
    open_harness(chromium, server)
    outputs = [tensor.name for tensor in request.spec.outputs]
    opening = "(names, variant) => edge.openBundle('wasm', 1, names, variant)"
    load: Load = chromium.evaluate(opening, [outputs, variant])
    return load


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """What the manifest says of the model, the target's device, and the bundle's own files."""
    sources = {path.name: sha256_of(path) for path in sorted(SOURCES.iterdir())}
    tokenizer = {name: sha256_of(file) for name, file in tokenizer_files(spec).items()}
    inputs = [asdict(tensor) for tensor in spec.inputs]
    outputs = [asdict(tensor) for tensor in spec.outputs]
    layout = layout_of(spec)
    more: dict[str, Json] = {}
    if layout is not None:
        more["layout"] = layout
    if tables := _tables(spec):
        more["sound"] = digest(tables)  # they are computed, so their digits may be another NumPy's
    return more | {
        "id": spec.name,
        "description": spec.description,
        "inputs": inputs,
        "outputs": outputs,
        "preprocessing": spec.preprocess.to_dict(),
        "class_names": list(spec.class_names),
        "execution_provider": target.options["execution_provider"],
        "chunk": CHUNK,
        "least_gain": LEAST_GAIN,
        "web": digest(sources),
        "tokenizer": tokenizer,
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
        "npm:onnxruntime-web",
        "npm:@huggingface/transformers",
        "npm:@huggingface/tokenizers",
        "playwright",
        "browser:chromium",
    ),
    kinds=("javascript", "onnx"),
    others=tuple(name for name in DTYPES if name != onnx_format.MODEL.name),
    is_candidate=False,
    extra="browser",
    process="browser",
)
