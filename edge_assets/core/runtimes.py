"""Every runtime that opens artifacts, one line each; its sessions are in the module of its name in `formats`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """What opens a format's files on this machine."""

    library: str  # the module that a measuring process imports before it loads a model
    distributions: tuple[
        str, ...
    ]  # as in `Variant.tools`, whose versions enter the recipes of what was computed with it
    verified_with: str  # in words: what parity and accuracy are computed with
    extra: str | None = None  # the optional extra that installs it
    is_the_targets: bool = True  # False: another engine runs on the target, so memory and time here say nothing of it
    evidence_of: str | None = None  # the runtime that computes the very same, on the file that this one opens
    takes_architecture: bool = False
    target_options: tuple[str, ...] = ()  # of the target's `options`, what its sessions are opened with


ON_MAC = sys.platform == "darwin"

RUNTIMES: Mapping[str, Runtime] = {
    "pytorch": Runtime("torch", ("torch",), "PyTorch eager on this machine's CPU", takes_architecture=True),
    "torchscript": Runtime("torch", ("torch",), "PyTorch on this machine's CPU"),
    "onnx": Runtime("onnxruntime", ("onnxruntime",), "ONNX Runtime on this machine's CPU"),
    "litert": Runtime(
        "ai_edge_litert.interpreter",
        ("ai-edge-litert",),
        "LiteRT's interpreter with XNNPACK on this machine's CPU",
        extra="litert",
    ),
    "executorch": Runtime(
        "executorch.runtime",
        ("executorch", "torch"),
        "ExecuTorch's runtime with XNNPACK on this machine's CPU",
        extra="executorch",
        is_the_targets=False,  # its Python binding loads PyTorch
    ),
    "tflite_micro": Runtime(
        "tflite_micro.python.tflite_micro.runtime",
        ("tflite-micro",),
        "TFLite Micro's interpreter with reference kernels on this machine's CPU",
        extra="microcontroller",
        is_the_targets=False,
    ),
    # without distributions: the kit names the one TensorRT release that may run its engine
    "tensorrt": Runtime("edge_assets.core.formats.tensorrt_kit", (), "the engine in TensorRT on this machine's GPU"),
    "kit_onnx": Runtime(
        "onnxruntime",
        ("onnxruntime",),
        "the kit's ONNX graph in ONNX Runtime on this machine's CPU; the engine itself needs its GPU",
        is_the_targets=False,
        evidence_of="onnx",
    ),
    "torch_tensorrt": Runtime(
        "torch_tensorrt", ("torch", "torch-tensorrt"), "Torch-TensorRT on this machine's GPU", "torch-tensorrt"
    ),
    "ort_web": Runtime(
        "playwright.sync_api",
        ("playwright", "npm:onnxruntime-web", "browser:chromium"),
        "ONNX Runtime Web in headless Chromium on this machine",
        extra="browser",
        target_options=("execution_provider",),
    ),
    "coreml": Runtime(
        "coremltools",
        # torch evaluates where CoreML is missing: the two kinds of evidence are never taken for each other
        ("coremltools",) if ON_MAC else ("coremltools", "torch"),
        "CoreML on this Mac"
        if ON_MAC
        else "the package's MIL program, evaluated op by op in fp32 by PyTorch on this machine; does not model the "
        "Neural Engine's fp16",
        extra="apple",
        is_the_targets=ON_MAC,
        target_options=("compute_units",),
    ),
}
