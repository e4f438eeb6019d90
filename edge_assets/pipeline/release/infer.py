"""Run the released model: `python infer.py` on the bundled sample, with an option on your own.

    --image FILE          upright by its EXIF orientation, resized as the model's preprocessing says
    --audio FILE.wav      of the model's sampling rate
    --text "..."

Needs NumPy and what runtime.py imports; `--image` also needs Pillow, a model of texts tokenizers. Every file of the
folder is checked against its hash in manifest.json before any of it is imported.
"""

import os
import sys

# a script's folder comes first where modules are looked for: nothing in it may pass for another module
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != HERE]

import argparse
import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np

FOLDER = Path(HERE)
MANIFEST = "manifest.json"


def verify(manifest: dict, takes_rebuilt: bool) -> None:
    """Check every file against the manifest; what is no part of the release is named, and never imported.

    `takes_rebuilt` accepts other contents of the files that a kit writes anew when its engine is built again.
    """
    expected = {file["path"]: file["sha256"] for file in manifest["files"]}
    rebuildable = manifest.get("rebuildable", []) if takes_rebuilt else []
    for path, sha256 in expected.items():
        check(path, sha256, path in rebuildable)
    present = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    if more := sorted(present - {*expected, *rebuildable, MANIFEST}):
        print(f"not part of the release, and not used: {', '.join(more)}", file=sys.stderr)


def check(path: str, expected: str, may_differ: bool = False) -> bytes:
    """The content of one file of the release, where it is code; of others nothing is kept in memory."""
    content = b""
    try:
        if path.endswith(".py"):
            content = (FOLDER / path).read_bytes()
            found = hashlib.sha256(content).hexdigest()
        else:
            found = hash_of(FOLDER / path)
    except OSError as error:
        raise SystemExit(f"{path} cannot be read: {error.strerror}") from None
    if found == expected:
        return content
    if may_differ:
        print(f"{path} is not the released file: taken as built here", file=sys.stderr)
        return content
    hint = " If you built the engine on this machine, say --rebuilt." if path.endswith(("kit.json", ".engine")) else ""
    raise SystemExit(f"{path} is not the released file: sha256 {found}, expected {expected}.{hint}")


def hash_of(path: Path) -> str:
    """The sha256 of a file of any size."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            hasher.update(part)
    return hasher.hexdigest()


def module(name: str, manifest: dict) -> ModuleType:
    """A module of the release from the very bytes that were checked, never from a compiled file beside them."""
    path = f"{name}.py"
    expected = next(file["sha256"] for file in manifest["files"] if file["path"] == path)
    found = ModuleType(name)
    found.__file__ = str(FOLDER / path)
    sys.modules[name] = found
    exec(compile(check(path, expected), found.__file__, "exec"), found.__dict__)
    return found


def own_fields(arguments: argparse.Namespace, preprocess: ModuleType, declared: dict) -> dict | None:
    """The raw fields of what was asked for, or None for the bundled sample."""
    for kind in ("image", "audio", "text"):
        if getattr(arguments, kind) is not None and declared["kind"] != kind:
            raise SystemExit(f"--{kind}: the inputs of this model are of the kind '{declared['kind']}'")
    for kind, path in (("image", arguments.image), ("audio", arguments.audio)):
        if path is not None and not path.is_file():
            raise SystemExit(f"--{kind}: there is no file {path}; without the option the bundled sample is run")
    if arguments.image:
        return {declared["input"]: [preprocess.read_picture(arguments.image)]}
    if arguments.audio:
        return {declared["input"]: [preprocess.read_wav(arguments.audio, declared["sampling_rate"])]}
    return {declared["field"]: np.array(arguments.text)} if arguments.text else None


def arguments_of() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture, for models with image preprocessing")
    parser.add_argument("--audio", type=Path, help="a .wav file, for models with audio preprocessing")
    parser.add_argument("--text", action="append", help="a text, for models with text preprocessing; may be repeated")
    parser.add_argument("--rebuilt", action="store_true", help="take an engine that was built again on this machine")
    return parser.parse_args()


def main() -> None:
    """Print each output; on the bundled sample, check it against what was measured at release."""
    arguments = arguments_of()
    manifest = json.loads((FOLDER / MANIFEST).read_text())
    verify(manifest, arguments.rebuilt)
    with np.load(FOLDER / "sample.npz", allow_pickle=False) as data:
        sample = {name: data[name] for name in data.files}
    recorded = {name.removeprefix("raw_"): array for name, array in sample.items() if name.startswith("raw_")}
    preprocess, runtime = module("preprocess", manifest), module("runtime", manifest)
    declared = manifest["preprocessing"]
    try:
        own = own_fields(arguments, preprocess, declared)
        feeds = preprocess.from_dict(declared).apply(own or recorded)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise SystemExit(str(error)) from None
    run = runtime.load(FOLDER / manifest["file"], manifest)
    if "layout" in manifest:  # the batch is not first everywhere, or a step's states are the next one's
        run = module("layout", manifest).arranged(run, manifest["layout"])
    outputs = run(feeds)
    classes = manifest["class_names"]
    first = next(iter(outputs))  # of a classifier, the output that has the classes
    for name, array in outputs.items():
        for one in array:
            print(f"{name} {array.dtype} {array.shape}: {np.array2string(one, precision=4, threshold=16)}")
            if name == first and array.ndim == 2 and array.shape[1] == len(classes):
                print(f"class: {classes[int(one.argmax())]}")
        if own is None:
            difference = float(np.abs(array - sample[f"output_{name}"]).max())
            print(f"largest difference from the outputs recorded at release: {difference:.3g}")


if __name__ == "__main__":
    main()
