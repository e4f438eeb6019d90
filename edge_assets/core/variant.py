"""What a format or quantization scheme is to the rest of the product: one `Variant`, plain data and a function.

A module that adds one defines a `Variant` and a `build` function, imports its toolchain inside it, and is
listed by the families that ship it. Every variant passes the same template tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edge_assets.core.errors import MissingTool
from edge_assets.model import ModelSpec
from edge_assets.targets import Target

Feeds = Mapping[str, np.ndarray]
Precision = Literal["fp32", "fp16", "int8"]
LIBRARIES = {"onnx": "onnxruntime", "pytorch": "torch", "torchscript": "torch"}  # by runtime
CHECKPOINT = "checkpoint"  # the source of the variants that start from PyTorch


class Session(Protocol):
    """A loaded model of any runtime."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, one batch."""
        ...


@dataclass(frozen=True)
class BuildRequest:
    """What a `build` function gets to work with."""

    spec: ModelSpec
    parameters: Mapping[str, Any]
    source: Path  # the source variant's artifact, or the checkpoint
    calibration: Callable[[], Feeds]  # preprocessed inputs, whole set; only for variants with `calibrated`
    output: Path  # the folder to write into
    log: Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One artifact that a family builds."""

    name: str  # the asset's name
    description: str
    format: str
    precision: Precision
    source: str  # name of the variant it is made from
    runtime: str  # module below edge_assets.core.formats that opens its sessions
    build: Callable[[BuildRequest], Mapping[str, Any]]
    parameters: Callable[[ModelSpec, Target], dict[str, Any]]  # everything that shapes the result
    code_version: str
    tools: tuple[str, ...]  # distributions whose version enters the recipe
    kinds: tuple[str, ...] = field(default=())
    calibrated: bool = False
    extra: str | None = None  # the optional extra that installs its tools
    mlflow_flavor: Literal["onnx", "pytorch"] | None = None

    def tool_versions(self) -> dict[str, str]:
        """Versions of `tools`. Raises MissingTool naming the extra."""
        versions = {}
        for tool in self.tools:
            try:
                versions[tool] = version(tool)
            except PackageNotFoundError:
                raise MissingTool(tool, self.extra) from None
        return versions


@dataclass(frozen=True)
class Loadable:
    """How to open an artifact in any process: JSON-able, so that a benchmark worker can be told."""

    runtime: str
    path: str
    options: Mapping[str, Any]

    def import_runtime(self) -> None:
        """Import the runtime's library, so that its cost can be told from the model's."""
        import_module(LIBRARIES[self.runtime])

    def open(self, threads: int) -> Session:
        """Load the model with `threads` intra-op threads."""
        module = import_module(f"edge_assets.core.formats.{self.runtime}")
        return module.open_session(Path(self.path), threads=threads, **self.options)


def session_options(spec: ModelSpec, runtime: str) -> dict[str, Any]:
    """What a runtime needs besides the file: names in order and, for PyTorch eager, the architecture."""
    options: dict[str, Any] = {"outputs": [tensor.name for tensor in spec.outputs]}
    if runtime in ("pytorch", "torchscript"):
        options["inputs"] = [tensor.name for tensor in spec.inputs]
    if runtime == "pytorch":
        options["architecture"] = spec.architecture
    return options
