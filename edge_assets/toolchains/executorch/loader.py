"""Runs the released ExecuTorch program. Needs NumPy, torch and executorch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401  # registers what a partly delegated int8 graph needs
import numpy as np
import torch
from executorch.runtime import Runtime


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name. The program takes one sample at a time."""
    runtime = Runtime.get()
    backends = manifest["session"]["backends"]
    missing = [name for name in backends if not runtime.backend_registry.is_available(name)]
    if missing:
        raise SystemExit(f"this program runs on {', '.join(missing)}, which this machine's ExecuTorch does not have")
    program = runtime.load_program(path)
    method = program.load_method("forward")

    def run_one(feeds: dict) -> dict:
        inputs = [torch.from_numpy(np.asarray(feeds[name], order="C")) for name in manifest["inputs"]]
        outputs = {}
        for name, tensor in zip(manifest["outputs"], method.execute(inputs), strict=True):
            outputs[name] = tensor.numpy().copy()
        return outputs

    def run(feeds: dict) -> dict:
        results = [run_one(sample) for sample in samples(feeds)]
        return joined(results, manifest["outputs"])

    run.one = run_one  # as the model takes it
    run.program = program  # the method does not keep it alive
    return run


def samples(feeds: dict) -> Iterator[dict]:
    """The samples of a batch, each a batch of one."""
    count = len(next(iter(feeds.values())))
    for i in range(count):
        yield {name: array[i : i + 1] for name, array in feeds.items()}


def joined(results: list, names: list) -> dict:
    """The samples' outputs as one batch."""
    outputs = {}
    for name in names:
        outputs[name] = np.concatenate([result[name] for result in results])
    return outputs
