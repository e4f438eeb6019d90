"""Run the released model: `python infer.py` on the bundled sample, with `--image FILE` or `--text "..."` on your own.

Needs NumPy and what runtime.py imports; `--image` also needs Pillow, a model of texts tokenizers.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import preprocess

HERE = Path(__file__).resolve().parent


def verified(manifest: dict) -> Path:
    """The artifact's path, after every file's hash was checked."""
    path = HERE / manifest["file"]
    for file in manifest["files"]:
        part = path if len(manifest["files"]) == 1 else path / file["path"]
        found = hashlib.sha256(part.read_bytes()).hexdigest()
        if found != file["sha256"]:
            raise SystemExit(f"{part.name} is not the released file: sha256 {found}, expected {file['sha256']}")
    return path


def image_fields(path: Path, declared: dict) -> dict[str, np.ndarray]:
    """The picture as the preprocessing wants it: uint8 [1, height, width, channels]."""
    from PIL import Image

    picture = Image.open(path).convert("L" if declared["channels"] == 1 else "RGB")
    pixels = np.asarray(picture.resize((declared["width"], declared["height"])), np.uint8)
    return {declared["input"]: pixels.reshape(1, declared["height"], declared["width"], declared["channels"])}


def own_fields(arguments: argparse.Namespace, declared: dict) -> dict[str, np.ndarray] | None:
    """The raw fields of what was asked for, or None for the bundled sample."""
    for kind in ("image", "text"):
        if getattr(arguments, kind) is not None and declared["kind"] != kind:
            raise SystemExit(f"--{kind}: the inputs of this model are of the kind '{declared['kind']}'")
    if arguments.image:
        return image_fields(arguments.image, declared)
    return {declared["field"]: np.array(arguments.text)} if arguments.text else None


def inputs_of(raw: dict[str, np.ndarray], declared: dict) -> dict[str, np.ndarray]:
    """The model's inputs."""
    try:
        return preprocess.from_dict(declared).apply(raw)
    except (ValueError, ModuleNotFoundError) as error:
        raise SystemExit(str(error)) from None


def main() -> None:
    """Print each output; on the bundled sample, check it against what was measured at release."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture, for models with image preprocessing")
    parser.add_argument("--text", action="append", help="a text, for models with text preprocessing; may be repeated")
    arguments = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text())
    with np.load(HERE / "sample.npz", allow_pickle=False) as data:
        sample = {name: data[name] for name in data.files}
    recorded = {name.removeprefix("raw_"): array for name, array in sample.items() if name.startswith("raw_")}
    own = own_fields(arguments, manifest["preprocessing"])
    path = verified(manifest)
    feeds = inputs_of(own or recorded, manifest["preprocessing"])
    import runtime  # after the check, because it loads a library

    outputs = runtime.load(path, manifest)(feeds)
    for name, array in outputs.items():
        for one in array:
            print(f"{name} {array.dtype} {array.shape}: {np.array2string(one, precision=4, threshold=16)}")
            if manifest["class_names"] and array.ndim == 2:
                print(f"class: {manifest['class_names'][int(one.argmax())]}")
        if own is None:
            difference = float(np.abs(array - sample[f"output_{name}"]).max())
            print(f"largest difference from the outputs recorded at release: {difference:.3g}")


if __name__ == "__main__":
    main()
