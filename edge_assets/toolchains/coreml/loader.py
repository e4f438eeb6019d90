"""Runs the released CoreML package, on macOS. Needs NumPy, coremltools and, for a model of images, Pillow.

In an app, add the .mlpackage to the Xcode project: it becomes a class, and a model of images takes a CVPixelBuffer.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name."""
    if sys.platform != "darwin":
        raise SystemExit("CoreML exists on macOS, iOS and iPadOS only: this package cannot run here")
    import coremltools

    session = manifest["session"]
    package = next(path.glob("*.mlpackage"))
    model = coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit[session["compute_units"]])
    inputs, outputs = manifest["inputs"], manifest["outputs"]

    def run_tensors(feeds: dict) -> dict:
        result = model.predict({name: feeds[name] for name in inputs})
        return {name: result[name] for name in outputs}

    def run_pictures(feeds: dict) -> dict:
        (name,) = inputs
        samples = []
        for picture in pictures(feeds[name], session["image"]):
            samples.append({name: picture})
        return joined(model.predict(samples), outputs)

    return run_pictures if "image" in session else run_tensors


def pictures(array: np.ndarray, image: dict) -> list:
    """Preprocessed float32 [n, channels, height, width] back as pictures, which the package preprocesses itself."""
    bias = np.reshape(image["bias"], (1, -1, 1, 1))
    factors = np.reshape(image["factors"], (1, -1, 1, 1))
    scaled = array.astype(np.float64) / factors - bias
    pixels = np.rint(scaled / image["scale"]).astype(np.uint8)
    if image["color_layout"] == "BGR":
        pixels = pixels[:, ::-1]  # CoreML takes red first, and brings them into the model's order
    return [as_picture(one) for one in pixels]


def as_picture(pixels: np.ndarray) -> object:
    """Pixels [channels, height, width] as one of Pillow's images."""
    from PIL import Image

    if len(pixels) == 1:
        return Image.fromarray(pixels[0])
    return Image.fromarray(pixels.transpose(1, 2, 0).copy())


def joined(results: list, names: list) -> dict:
    """The samples' outputs as one batch."""
    outputs = {}
    for name in names:
        outputs[name] = np.concatenate([result[name] for result in results])
    return outputs
