"""Every runtime that opens artifacts, one line each; its sessions are in the module of its name in `formats`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """What opens a format's files on this machine."""

    library: str  # the module that a measuring process imports before it loads a model
    distributions: tuple[str, ...]  # whose versions enter the recipes of what was computed with it
    verified_with: str  # in words: what parity and accuracy are computed with
    extra: str | None = None  # the optional extra that installs it
    is_the_targets: bool = True  # False: another engine runs on the target, so memory and time here say nothing of it
    takes_architecture: bool = False
    target_options: tuple[str, ...] = ()  # of the target's `options`, what its sessions are opened with


ON_MAC = sys.platform == "darwin"

RUNTIMES: Mapping[str, Runtime] = {
    "pytorch": Runtime("torch", ("torch",), "PyTorch eager on this machine's CPU", takes_architecture=True),
    "torchscript": Runtime("torch", ("torch",), "PyTorch on this machine's CPU"),
    "onnx": Runtime("onnxruntime", ("onnxruntime",), "ONNX Runtime on this machine's CPU"),
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
