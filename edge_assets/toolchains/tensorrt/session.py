"""Sessions of TensorRT engines. Needs NumPy and the TensorRT release of the engine's kit alone: devices hold a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import Refused
from edge_assets.toolchains.tensorrt import kit as tensorrt_kit

if TYPE_CHECKING:
    import numpy as np


class EngineSession:
    """An engine on this machine's GPU. Times and memory are the GPU's, copies from and to the host included."""

    def __init__(self, runner: tensorrt_kit.EngineRunner) -> None:
        self.runner = runner

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.runner.run(feeds)

    def peak_memory_bytes(self) -> int:
        """GPU memory taken since before the engine was loaded."""
        return self.runner.memory_bytes()

    def close(self) -> None:
        """Give the GPU's memory back."""
        self.runner.close()


def open_session(path: Path, *, threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> EngineSession:
    """The kit's engine. Raises Refused where it may not run on this machine. `threads` is the GPU's own affair."""
    del threads, inputs, outputs  # the kit names its tensors
    try:
        return EngineSession(tensorrt_kit.EngineRunner(path))
    except tensorrt_kit.KitError as error:
        raise Refused(str(error)) from error
