"""Runs the released LiteRT model. Needs NumPy and ai-edge-litert."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name. The model takes one sample at a time, images in NHWC."""
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    kinds = {name: details["dtype"] for name, details in runner.get_input_details().items()}
    last = manifest["session"]["channels_last"]

    def one(feeds: dict) -> dict:
        arrays = {name: np.moveaxis(feeds[name], 1, -1) if name in last else feeds[name] for name in kinds}
        results = runner(**{name: np.ascontiguousarray(array, kinds[name]) for name, array in arrays.items()})
        return {name: np.moveaxis(array, -1, 1) if name in last else array for name, array in results.items()}

    def run(feeds: dict) -> dict:
        count = len(next(iter(feeds.values())))
        results = [one({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
        return {name: np.concatenate([result[name] for result in results]) for name in manifest["outputs"]}

    return run
