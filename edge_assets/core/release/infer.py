"""Run the released model: `python infer.py` on the bundled sample, `python infer.py --image FILE` on a picture.

Needs NumPy and the runtime that manifest.json names; `--image` also needs Pillow.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import preprocess

HERE = Path(__file__).resolve().parent


def load(manifest: dict):
    """A function from inputs by name to outputs by name, after the artifact's hash was checked."""
    path = HERE / manifest["file"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != manifest["sha256"]:
        raise SystemExit(f"{path.name} is not the released artifact: sha256 {found}, expected {manifest['sha256']}")
    names = manifest["outputs"]
    if manifest["runtime"] == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))
    import torch

    if "engine" in manifest["session"]:
        torch.backends.quantized.engine = manifest["session"]["engine"]
    model = torch.jit.load(path)

    def run(feeds):
        with torch.inference_mode():
            result = model(*(torch.from_numpy(feeds[name]) for name in manifest["inputs"]))
        results = result if isinstance(result, tuple | list) else (result,)
        return {name: tensor.numpy() for name, tensor in zip(names, results, strict=True)}

    return run


def image_fields(path: Path, declared: dict) -> dict[str, np.ndarray]:
    """The picture as the preprocessing wants it: uint8 [1, height, width, channels]."""
    from PIL import Image

    picture = Image.open(path).convert("L" if declared["channels"] == 1 else "RGB")
    pixels = np.asarray(picture.resize((declared["width"], declared["height"])), np.uint8)
    return {declared["input"]: pixels.reshape(1, declared["height"], declared["width"], declared["channels"])}


def main() -> None:
    """Print each output; on the bundled sample, check it against what was measured at release."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture, for models with image preprocessing")
    arguments = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text())
    with np.load(HERE / "sample.npz", allow_pickle=False) as data:
        sample = {name: data[name] for name in data.files}
    raw = {name.removeprefix("raw_"): array for name, array in sample.items() if name.startswith("raw_")}
    if arguments.image:
        raw = image_fields(arguments.image, manifest["preprocessing"])
    outputs = load(manifest)(preprocess.from_dict(manifest["preprocessing"]).apply(raw))
    for name, array in outputs.items():
        print(f"{name} {array.dtype} {array.shape}: {np.array2string(array[0], precision=4, threshold=16)}")
        if manifest["class_names"] and array.ndim == 2:
            print(f"class: {manifest['class_names'][int(array[0].argmax())]}")
        if not arguments.image:
            difference = float(np.abs(array - sample[f"output_{name}"]).max())
            print(f"largest difference from the outputs recorded at release: {difference:.3g}")


if __name__ == "__main__":
    main()
