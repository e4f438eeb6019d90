"""The released folder: what a team ships.

model.onnx, model.pt ...  the artifact: a file, or a folder named as its asset
manifest.json            hashes of every other file, recipe, versions, measurements, verdict
preprocess.py            the preprocessing, the very code that every measurement used
tokenizer.json           of a model of texts: what preprocess.py reads
infer.py                 runnable sample: verifies every hash before it imports anything, runs the model
<package>/default.json   in a package of several variants: which of them was released
runtime.py               how this format is loaded and run
sample.npz               one raw input and the outputs the released artifact gave for it
MODEL_CARD.md            for people
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jinja2
import numpy as np

from edge_assets import toolchains
from edge_assets.core.data import Arrays, save_arrays
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.shapes import record
from edge_assets.core.types import File
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.release.manifest import Manifest
from edge_assets.spec import preprocess

HERE = Path(__file__).parent
TOOLCHAINS = Path(toolchains.__path__[0])


def write(
    folder: Path,
    artifact: Path,
    manifest: Manifest,
    needed: Sequence[Path],
    raw: Arrays,
    outputs: Mapping[str, np.ndarray],
) -> None:
    """Write the released folder. `raw` holds one sample's raw fields, `outputs` what the artifact gave for it.

    `needed` are the files that the preprocessing reads.
    """
    place = folder / manifest.file
    if artifact.is_dir():
        shutil.copytree(artifact, place)
        if manifest.package:
            choose(place, manifest.artifact)
    else:
        shutil.copyfile(artifact, place)
    shutil.copyfile(preprocess.__file__, folder / "preprocess.py")
    for file in needed:
        shutil.copyfile(file, folder / file.name)
    if loader := RUNTIMES[manifest.runtime].loader:  # else it runs on devices only
        shutil.copyfile(HERE / "infer.py", folder / "infer.py")
        shutil.copyfile(TOOLCHAINS / loader, folder / "runtime.py")
    sample = {f"raw_{name}": array for name, array in raw.items()}
    sample |= {f"output_{name}": array for name, array in outputs.items()}
    save_arrays(sample, folder / "sample.npz")
    template = jinja2.Template((HERE / "model_card.md").read_text(), trim_blocks=True, lstrip_blocks=True)
    card = template.render(record(manifest))
    (folder / "MODEL_CARD.md").write_text(card + "\n")
    whole = replace(manifest, files=listing(folder))
    (folder / "manifest.json").write_text(json.dumps(record(whole), indent=2, sort_keys=True) + "\n")


def listing(folder: Path) -> tuple[File, ...]:
    """Every file in a folder."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files.append(File(name, sha256_of(path), path.stat().st_size))
    return tuple(files)


def choose(package: Path, variant: str) -> None:
    """Say in a package of several variants which of them was released."""
    (package / "default.json").write_text(json.dumps({"variant": variant}) + "\n")
