"""TorchScript files: self-contained PyTorch programs, the form that quantized PyTorch models ship in.

Needs NumPy and PyTorch alone: devices hold a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_assets.toolchains.pytorch.session import TorchSession


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    engine: str | None = None,
) -> TorchSession:
    """Load a TorchScript file; `engine` is the quantized engine it was made for (x86, qnnpack)."""
    import torch

    torch.set_num_threads(threads)
    if engine:
        torch.backends.quantized.engine = engine
    return TorchSession(torch.jit.load(path).eval(), inputs, outputs)
