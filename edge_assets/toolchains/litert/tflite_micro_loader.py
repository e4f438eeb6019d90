"""Runs the released model in TFLite Micro's interpreter. Needs NumPy and tflite-micro."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime

ARENA = 64 * 2**20  # bytes, of this machine; manifest.json says what the model takes


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name; the file's own are int8, one sample at a time."""
    session = manifest["session"]
    channels_last = session["channels_last"]
    model = path / "model.tflite" if path.is_dir() else path
    arena_bytes = max(ARENA, 10 * model.stat().st_size)
    interpreter = runtime.Interpreter.from_file(str(model), arena_size=arena_bytes)

    def run_one(feeds: dict) -> dict:
        for i, name in enumerate(session["inputs"]):
            value = np.moveaxis(feeds[name], 1, -1) if name in channels_last else feeds[name]
            interpreter.set_input(quantized(value, interpreter.get_input_details(i)), i)
        interpreter.invoke()
        outputs = {}
        for i, name in enumerate(session["outputs"]):
            value = dequantized(interpreter.get_output(i), interpreter.get_output_details(i))
            outputs[name] = np.moveaxis(value, -1, 1) if name in channels_last else value
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


def quantized(array: np.ndarray, details: dict) -> np.ndarray:
    """q = round(x / scale) + zero point, saturated: what firmware does before it calls the model."""
    dtype = details["dtype"]
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    if len(scales):
        limits = np.iinfo(dtype)
        scaled = np.rint(array / scales[0]) + zero_points[0]
        array = np.clip(scaled, limits.min, limits.max)
    return np.asarray(array, dtype, order="C")


def dequantized(array: np.ndarray, details: dict) -> np.ndarray:
    """x = scale * (q - zero point)."""
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    if not len(scales):
        return np.array(array)
    centred = array.astype(np.float32) - zero_points[0]
    return (scales[0] * centred).astype(np.float32)
