"""Packages that a spec needs besides the base installation, as far as its text and its imports say it."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from edge_assets.spec.architecture import known
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.preprocess import TextPreprocessing
from edge_assets.spec.source import imports_of

EXTRAS = {  # of the optional packages that a spec may need, by distribution
    "pillow": "images",
    "pyarrow": "tables",
    "timm": "timm",
    "transformers": "transformers",
    "tokenizers": "text",
}
USED_BY = {  # what of ours a dataset's module imports, and what that needs
    "coco_detection": ("pillow",),
    "image_folder": ("pillow",),
    "parquet": ("pyarrow",),
    "read_picture": ("pillow",),
    "webdataset": ("pillow",),
}


def needed(spec: ModelSpec) -> set[str]:
    """The distributions, of those in `EXTRAS`, that a spec's architecture, preprocessing and data need."""
    found: set[str] = set()
    network = known(spec.architecture)
    if network is not None and network.library in EXTRAS:
        found.add(network.library)
    if isinstance(spec.preprocessing, TextPreprocessing):
        found.add("tokenizers")
    for name in _imports(spec):
        root, _, rest = name.partition(".")
        if root == "edge_assets":
            found.update(USED_BY.get(rest.rpartition(".")[2], ()))
        if root in EXTRAS:
            found.add(root)
        if root == "PIL":
            found.add("pillow")
    return found


def not_installed(spec: ModelSpec) -> list[str]:
    """Top-level modules that the user's code imports and that are nowhere, sorted, besides those of `EXTRAS`."""
    missing = set()
    for name in _imports(spec):
        root = name.partition(".")[0]
        if root and root not in {*sys.stdlib_module_names, *EXTRAS, "PIL"} and find_spec(root) is None:
            missing.add(root)
    return sorted(missing)


def _imports(spec: ModelSpec) -> Iterator[str]:
    """What the modules that a spec names import."""
    references = [spec.calibration.data.load, spec.evaluation.data.load]
    if spec.finetuning:
        references.append(spec.finetuning.data.load)
    if known(spec.architecture) is None:
        references.append(spec.architecture)
    for metric in (spec.evaluation.deciding, *spec.evaluation.others):
        if ":" in metric.name:
            references.append(metric.name)
    for reference in references:
        yield from imports_of(reference)
