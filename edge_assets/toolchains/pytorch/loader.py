"""Runs the released TorchScript model. Needs NumPy and torch."""

from collections.abc import Callable
from pathlib import Path

import torch


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name."""
    if "engine" in manifest["session"]:
        torch.backends.quantized.engine = manifest["session"]["engine"]
    model = torch.jit.load(path)

    def run(feeds: dict) -> dict:
        with torch.inference_mode():
            result = model(*(torch.from_numpy(feeds[name]) for name in manifest["inputs"]))
        results = result if isinstance(result, tuple | list) else (result,)
        return {name: tensor.numpy() for name, tensor in zip(manifest["outputs"], results, strict=True)}

    return run
