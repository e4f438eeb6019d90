"""Runs the released model in TFLite Micro's interpreter. Needs NumPy and tflite-micro."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime

ARENA = 64 * 2**20  # bytes, of this machine; manifest.json says what the model takes


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name; the file's own are int8, one sample at a time."""
    session = manifest["session"]
    model = path / "model.tflite" if path.is_dir() else path
    interpreter = runtime.Interpreter.from_file(str(model), arena_size=max(ARENA, 10 * model.stat().st_size))

    def one(feeds: dict) -> dict:
        for i, name in enumerate(session["inputs"]):
            value = np.moveaxis(feeds[name], 1, -1) if name in session["channels_last"] else feeds[name]
            interpreter.set_input(quantized(value, interpreter.get_input_details(i)), i)
        interpreter.invoke()
        outputs = {}
        for i, name in enumerate(session["outputs"]):
            value = dequantized(interpreter.get_output(i), interpreter.get_output_details(i))
            outputs[name] = np.moveaxis(value, -1, 1) if name in session["channels_last"] else value
        return outputs

    def run(feeds: dict) -> dict:
        count = len(next(iter(feeds.values())))
        results = [one({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
        return {name: np.concatenate([result[name] for result in results]) for name in manifest["outputs"]}

    return run


def quantized(array: np.ndarray, details: dict) -> np.ndarray:
    """q = round(x / scale) + zero point, saturated: what firmware does before it calls the model."""
    dtype, parameters = details["dtype"], details["quantization_parameters"]
    if len(parameters["scales"]):
        limits = np.iinfo(dtype)
        scaled = np.rint(array / parameters["scales"][0]) + parameters["zero_points"][0]
        array = np.clip(scaled, limits.min, limits.max)
    return np.ascontiguousarray(array, dtype)


def dequantized(array: np.ndarray, details: dict) -> np.ndarray:
    """x = scale * (q - zero point)."""
    parameters = details["quantization_parameters"]
    if not len(parameters["scales"]):
        return np.array(array)
    return (parameters["scales"][0] * (array.astype(np.float32) - parameters["zero_points"][0])).astype(np.float32)
