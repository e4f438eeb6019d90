"""Runs the released ONNX model. Needs NumPy and onnxruntime."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name."""
    if path.is_dir():  # the weights lie beside the graph
        path = path / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = manifest["outputs"]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))
