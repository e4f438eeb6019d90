"""Models that an agent opens: by the name of their runtime, in the sessions that the product has here too."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_assets.core.arranged import ArrangedSession
from edge_assets.targets.machine import nvidia_driver

# by runtime: the library that it imports, and the module whose `open_session` loads a model
SESSIONS = {
    "onnx": ("onnxruntime", "edge_assets.toolchains.onnx.session"),
    "litert": ("ai_edge_litert.interpreter", "edge_assets.toolchains.litert.session"),
    "torchscript": ("torch", "edge_assets.toolchains.pytorch.torchscript"),
    "tensorrt": ("numpy", "edge_assets.toolchains.tensorrt.session"),
}
# whose versions an agent says
DISTRIBUTIONS = ("numpy", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert", "torch", "tensorrt", "tensorrt-rtx")
DRIVER = "nvidia-driver"


def library_of(runtime: str) -> str:
    """The library that a runtime imports. Raises KeyError for one that agents do not have."""
    return SESSIONS[runtime][0]


def open_model(runtime: str, path: Path, threads: int, options: Mapping[str, Any]) -> Any:
    """The model, loaded. Raises whatever its runtime raises."""
    given = dict(options)
    layout = given.pop("layout", None)
    session = import_module(SESSIONS[runtime][1]).open_session(path, threads=threads, **given)
    if layout is None:
        return session
    return ArrangedSession(session, layout)


def versions() -> dict[str, str]:
    """Of NumPy and the runtimes that are installed, of Python, and of the GPU's driver."""
    found = {"python": ".".join(str(number) for number in sys.version_info[:3])}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    driver = nvidia_driver()
    if driver is not None:
        found[DRIVER] = driver
    return found
