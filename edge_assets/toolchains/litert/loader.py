"""Runs the released LiteRT model. Needs NumPy and ai-edge-litert."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name. The model takes one sample at a time, images in NHWC."""
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    details = runner.get_input_details()
    channels_last = manifest["session"]["channels_last"]

    def run_one(feeds: dict) -> dict:
        arrays = {}
        for name in details:
            array = np.moveaxis(feeds[name], 1, -1) if name in channels_last else feeds[name]
            arrays[name] = np.asarray(array, details[name]["dtype"], order="C")
        outputs = {}
        for name, array in runner(**arrays).items():
            outputs[name] = np.moveaxis(array, -1, 1) if name in channels_last else array
        return outputs

    def run(feeds: dict) -> dict:
        results = [run_one(sample) for sample in samples(feeds)]
        return joined(results, manifest["outputs"])

    run.one = run_one  # as the model takes it
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
