"""Runs the released ExecuTorch program. Needs NumPy, torch and executorch."""

from collections.abc import Callable
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401  # registers what a partly delegated int8 graph needs
import numpy as np
import torch
from executorch.runtime import Runtime


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name. The program takes one sample at a time."""
    runtime = Runtime.get()
    if missing := [name for name in manifest["session"]["backends"] if not runtime.backend_registry.is_available(name)]:
        raise SystemExit(f"this program runs on {', '.join(missing)}, which this machine's ExecuTorch does not have")
    program = runtime.load_program(path)
    method = program.load_method("forward")

    def one(feeds: dict) -> dict:
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in manifest["inputs"]]
        results = [tensor.numpy().copy() for tensor in method.execute(inputs)]
        return dict(zip(manifest["outputs"], results, strict=True))

    def run(feeds: dict) -> dict:
        count = len(next(iter(feeds.values())))
        results = [one({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
        return {name: np.concatenate([result[name] for result in results]) for name in manifest["outputs"]}

    run.program = program  # the method does not keep it alive
    return run
