"""The released folder: what a team ships.

model.onnx, model.pt ...  the artifact: a file, or a folder named as its asset
manifest.json            hashes of every other file, recipe, versions, measurements, verdict
preprocess.py            the preprocessing, the very code that every measurement used
tokenizer.json           of a model of texts: what preprocess.py reads
infer.py                 runnable sample: verifies every hash before it imports anything, runs the model
<package>/default.json   in a package of several variants: which of them was released
runtime.py               how this format is loaded and run
layout.py                of a model with states, or with its batch elsewhere than first: samples to what it takes
sample.npz               one raw input and the outputs the released artifact gave for it
app/                     a sample in the platform's own language, with this model's constants; see app.py
MODEL_CARD.md            for people
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jinja2

from edge_assets import toolchains
from edge_assets.core import layout
from edge_assets.core.app_samples import AppSample, NoAppSample
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.shapes import record
from edge_assets.core.types import File
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.release import app
from edge_assets.pipeline.release.app import ReleasedSample
from edge_assets.pipeline.release.manifest import Manifest
from edge_assets.spec import preprocess
from edge_assets.spec.tiers import MEANINGS

HERE = Path(__file__).parent
TOOLCHAINS = Path(toolchains.__path__[0])


def write(
    folder: Path,
    artifact: Path,
    manifest: Manifest,
    facts: Mapping[str, object],
    needed: Sequence[Path],
    values: ReleasedSample,
) -> None:
    """Write the released folder.

    `facts` are those of the released artifact's build, `needed` the files that the preprocessing reads.
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
    runtime = RUNTIMES[manifest.runtime]
    if runtime.loader:  # else it runs on devices only
        shutil.copyfile(HERE / "infer.py", folder / "infer.py")
        shutil.copyfile(TOOLCHAINS / runtime.loader, folder / "runtime.py")
        if manifest.layout:
            shutil.copyfile(layout.__file__, folder / "layout.py")
    raw = {f"raw_{name}": array for name, array in values.raw.items()}
    outputs = {f"output_{name}": array for name, array in values.outputs.items()}
    save_arrays(raw | outputs, folder / "sample.npz")
    query = values.query or values
    reason = _without_app(runtime.app, facts, query)
    if not isinstance(runtime.app, NoAppSample) and reason is None:
        app.write(folder, runtime.app, record(manifest), facts, query)
    template = jinja2.Template(
        (HERE / "model_card.md").read_text(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    card = template.render(
        record(manifest),
        app=_app(manifest, reason),
        tiers=MEANINGS,
    )
    (folder / "MODEL_CARD.md").write_text(card + "\n")
    whole = replace(manifest, files=listing(folder))
    (folder / "manifest.json").write_text(
        json.dumps(
            record(whole),
            indent=2,
            sort_keys=True,
        )
        + "\n"
    )


def _without_app(
    sample: AppSample | NoAppSample,
    facts: Mapping[str, object],
    values: ReleasedSample,
) -> str | None:
    """Why there is no sample in the platform's language, if so."""
    if isinstance(sample, NoAppSample):
        return sample.reason
    return app.reason_against(sample, facts, values)


def _app(manifest: Manifest, reason: str | None) -> dict[str, object]:
    """What the model card says of the sample in the platform's language."""
    sample = RUNTIMES[manifest.runtime].app
    if isinstance(sample, NoAppSample) or reason is not None:
        return {"without": reason}
    names = [Path(source).name for source in sample.sources]
    return asdict(sample) | {
        "files": [*names, app.VALUES[sample.language]],
        "build": sample.build.format(file=manifest.file),
    }


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
