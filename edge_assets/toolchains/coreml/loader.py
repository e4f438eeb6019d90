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

    def run(feeds: dict) -> dict:
        if "image" in session:
            samples = [{inputs[0]: picture} for picture in pictures(feeds[inputs[0]], session["image"])]
            results = model.predict(samples)
            return {name: np.concatenate([result[name] for result in results]) for name in outputs}
        result = model.predict({name: feeds[name] for name in inputs})
        return {name: result[name] for name in outputs}

    return run


def pictures(array: np.ndarray, image: dict) -> list:
    """Preprocessed float32 [n, channels, height, width] back as pictures, which the package preprocesses itself."""
    from PIL import Image

    bias, factors = (np.reshape(image[name], (1, -1, 1, 1)) for name in ("bias", "factors"))
    values = np.rint((array.astype(np.float64) / factors - bias) / image["scale"]).astype(np.uint8)
    return [Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0).copy()) for one in values]
