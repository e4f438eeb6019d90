"""Every runtime that opens artifacts, one entry each; its sessions are in a module of its toolchain."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_assets.core import app_samples
from edge_assets.core.app_samples import AppSample, NoAppSample
from edge_assets.errors import Malformed
from edge_assets.spec.tiers import Tier

if TYPE_CHECKING:
    from edge_assets.core.types import Result


@dataclass(frozen=True)
class Runtime:
    """What opens a format's files on this machine."""

    module: str  # below edge_assets.toolchains: its `open_session` loads a model
    library: str  # the module that a measuring process imports before it loads a model
    distributions: tuple[str, ...]  # as in `Variant.tools`; their versions enter recipes of what it computed
    verified_with: str  # in words: what parity and accuracy are computed with
    app: AppSample | NoAppSample = field(kw_only=True)  # what a release gives an app developer besides Python
    extra: str | None = None  # the optional extra that installs it
    is_the_targets: bool = True  # False: another engine runs on the target, so memory and time here say nothing of it
    evidence_of: str | None = None  # the runtime that computes the very same, on the file that this one opens
    takes_architecture: bool = False
    keeps_states: bool = False  # its sessions do, beside the model, so that they are opened with the layout
    target_options: tuple[str, ...] = ()  # of the target's `options`, what its sessions are opened with
    loader: str | None = None  # below edge_assets/toolchains: how a released folder loads it; None: devices alone do
    loader_needs: tuple[str, ...] = ()  # distributions that `loader` imports, besides NumPy
    build_options: tuple[str, ...] = ()  # of a build's facts, what its sessions are opened with: `facts["session"]`
    weights: str | None = None  # below edge_assets.toolchains: its `weight_bytes` says what a file holds; None: unknown
    tier: Tier = "host"  # of what it computes here, where this machine is not the target
    is_single_threaded: bool = False  # whatever it is given: several processes evaluate the whole set
    by_browser: Mapping[str, str] = field(default_factory=dict)  # what takes its place where a target names a browser


ON_MAC = sys.platform == "darwin"
# torch evaluates where CoreML is missing: the two kinds of evidence are never taken for each other
COREML_DISTRIBUTIONS: tuple[str, ...] = ("coremltools", "torch")
COREML_IS = (
    "the package's MIL program, evaluated op by op by PyTorch on this machine, each value rounded to the program's "
    "fp16, which does not model how the Neural Engine adds up"
)
if ON_MAC:
    COREML_DISTRIBUTIONS = ("coremltools",)
    COREML_IS = "CoreML on this Mac"

RUNTIMES: Mapping[str, Runtime] = {
    "pytorch": Runtime(
        "pytorch.eager",
        "torch",
        ("torch",),
        "PyTorch eager on this machine's CPU",
        takes_architecture=True,
        app=NoAppSample("it is what variants are compared with, and is never released"),
    ),
    "torchscript": Runtime(
        "pytorch.torchscript",
        "torch",
        ("torch",),
        "PyTorch on this machine's CPU",
        build_options=("engine",),
        loader="pytorch/loader.py",
        loader_needs=("torch",),
        app=NoAppSample(
            "PyTorch runs in Python on such targets; in C++, LibTorch loads the file by `torch::jit::load`"
        ),
    ),
    "onnx": Runtime(
        "onnx.session",
        "onnxruntime",
        ("onnxruntime",),
        "ONNX Runtime on this machine's CPU",
        loader="onnx/loader.py",
        loader_needs=("onnxruntime",),
        weights="onnx.weight_bytes",
        app=app_samples.ONNX,
    ),
    "litert": Runtime(
        "litert.session",
        "ai_edge_litert.interpreter",
        ("ai-edge-litert",),
        "LiteRT's interpreter with XNNPACK on this machine's CPU",
        extra="litert",
        build_options=("channels_last",),
        loader="litert/loader.py",
        loader_needs=("ai-edge-litert",),
        weights="litert.convert",
        app=app_samples.LITERT,
    ),
    "litert_half": Runtime(
        "litert.half",
        "ai_edge_litert.interpreter",
        ("ai-edge-litert",),
        "the file in LiteRT's interpreter on this machine's CPU, what each operator gives rounded to fp16 as on GPUs, "
        "which does not model how a GPU adds up",
        extra="litert",
        is_the_targets=False,
        build_options=("channels_last",),
        tier="reference",
        app=NoAppSample("it shows what a GPU computes, and is never released"),
    ),
    "executorch": Runtime(
        "executorch.program",
        "executorch.runtime",
        ("executorch", "torch"),
        "ExecuTorch's runtime with XNNPACK on this machine's CPU",
        extra="executorch",
        is_the_targets=False,  # its Python binding loads PyTorch
        build_options=("backends",),
        loader="executorch/loader.py",
        loader_needs=("executorch", "torch"),
        app=app_samples.EXECUTORCH,
    ),
    "tflite_micro": Runtime(
        "litert.tflite_micro",
        "tflite_micro.python.tflite_micro.runtime",
        ("tflite-micro",),
        "TFLite Micro's interpreter with reference kernels on this machine's CPU",
        extra="microcontroller",
        is_the_targets=False,
        build_options=("channels_last", "inputs", "outputs"),  # it knows tensors by position: names in the file's order
        loader="litert/tflite_micro_loader.py",
        is_single_threaded=True,
        loader_needs=("tflite-micro",),
        weights="litert.convert",
        app=app_samples.MICROCONTROLLER,
    ),
    # without distributions: the kit names the one TensorRT release that may run its engine
    "tensorrt": Runtime(
        "tensorrt.session",
        "edge_assets.toolchains.tensorrt.kit",
        (),
        "the engine in TensorRT on this machine's GPU",
        loader="tensorrt/loader.py",
        loader_needs=("onnxruntime",),  # without a GPU; with one, the TensorRT that its kit.json names
        weights="tensorrt.kit_onnx",
        app=app_samples.TENSORRT,
    ),
    "kit_onnx": Runtime(
        "tensorrt.kit_onnx",
        "onnxruntime",
        ("onnxruntime",),
        "the kit's ONNX graph in ONNX Runtime on this machine's CPU; the engine itself needs its GPU",
        is_the_targets=False,
        tier="graph",
        evidence_of="onnx",
        weights="tensorrt.kit_onnx",
        app=NoAppSample("it stands in for the engine where there is no GPU, and is never released"),
    ),
    "torch_tensorrt": Runtime(
        "tensorrt.torch_program",
        "torch_tensorrt",
        ("torch", "torch-tensorrt"),
        "Torch-TensorRT on this machine's GPU",
        extra="torch-tensorrt",
        build_options=("largest_batch",),
        app=NoAppSample("PyTorch and Torch-TensorRT run the file in Python"),
    ),
    "ort_web": Runtime(
        "web.ort_web",
        "playwright.sync_api",
        ("playwright", "npm:onnxruntime-web", "browser:chromium"),
        "ONNX Runtime Web in headless Chromium on this machine",
        extra="browser",
        target_options=("execution_provider",),
        keeps_states=True,
        by_browser={"firefox": "ort_web_firefox", "webkit": "ort_web_webkit"},
        app=NoAppSample(
            "the bundle is what an app imports: its loader.js, with the types of loader.d.ts, was run in Chromium"
        ),
    ),
    "ort_web_firefox": Runtime(
        "web.ort_web",
        "websockets.sync.client",
        ("websockets", "npm:onnxruntime-web", "browser:firefox"),
        "ONNX Runtime Web in headless Firefox on this machine",
        extra="browser",
        target_options=("execution_provider", "browser"),
        keeps_states=True,
        app=NoAppSample(
            "the bundle is what an app imports: its loader.js, with the types of loader.d.ts, was run in Firefox"
        ),
    ),
    "ort_web_webkit": Runtime(
        "web.ort_web",
        "http.client",
        ("npm:onnxruntime-web", "browser:webkit"),
        "ONNX Runtime Web in WebKitGTK on this machine",
        extra="browser",
        target_options=("execution_provider", "browser"),
        keeps_states=True,
        app=NoAppSample(
            "the bundle is what an app imports: its loader.js, with the types of loader.d.ts, was run in WebKitGTK"
        ),
    ),
    "coreml": Runtime(
        "coreml.package",
        "coremltools",
        COREML_DISTRIBUTIONS,
        COREML_IS,
        extra="apple",
        is_the_targets=ON_MAC,
        tier="host" if ON_MAC else "reference",
        target_options=("compute_units",),
        build_options=("image",),
        loader="coreml/loader.py",
        loader_needs=("coremltools", "pillow"),
        weights="coreml.weight_bytes",
        app=app_samples.COREML,
    ),
}


def build_session(runtime: str, result: "Result") -> dict[str, Any]:
    """What a build says of the sessions that open it: `facts["session"]`, limited to what the runtime declares.

    Facts come from the store, and the other options decide what code a session imports. Raises Malformed naming the
    memo and what of it the runtime does not take.
    """
    said = result.facts.get("session", {})
    allowed = RUNTIMES[runtime].build_options
    memo = f"the memo {result.recipe.sha256} ({result.recipe.step})"
    if not isinstance(said, Mapping):
        raise Malformed(f"{memo} has session options that are no mapping")
    refused = sorted(str(name) for name in said if name not in allowed)
    if refused:
        raise Malformed(
            f"{memo} sets the session option {', '.join(refused)}, which {runtime} takes from no build "
            f"({', '.join(allowed) or 'it takes none'})"
        )
    return dict(said)
