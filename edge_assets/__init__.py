"""What a model's spec is written with: `from edge_assets import ModelSpec, Tensor, Dataset`, and more.

The names listed here stay: what they take may grow by optional fields, and a change that breaks a spec is announced in
the changelog one version before. Everything else in this package may move between versions.

`EdgeModel` is the Dagster component that registers a model by YAML, where it is called `edge_assets.EdgeModel`.

Each name is imported when it is first used, so that a process that needs none of them, such as one that measures, does
not hold them in memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_assets.defs.component import EdgeModel
    from edge_assets.spec.model import (
        Automation,
        Calibration,
        Dataset,
        Evaluation,
        FineTuning,
        Gates,
        Metric,
        ModelSpec,
        Search,
        Tensor,
    )
    from edge_assets.spec.preprocess import read_picture, read_wav
    from edge_assets.spec.preprocess_check import (
        AudioPreprocessing,
        ImagePreprocessing,
        Passthrough,
        TextPreprocessing,
    )
    from edge_assets.spec.sources.coco import coco_detection
    from edge_assets.spec.sources.image_folder import image_folder
    from edge_assets.spec.sources.named import named
    from edge_assets.spec.sources.parquet import parquet
    from edge_assets.spec.sources.webdataset import webdataset

__all__ = [
    "AudioPreprocessing",
    "Automation",
    "Calibration",
    "Dataset",
    "EdgeModel",
    "Evaluation",
    "FineTuning",
    "Gates",
    "ImagePreprocessing",
    "Metric",
    "ModelSpec",
    "Passthrough",
    "Search",
    "Tensor",
    "TextPreprocessing",
    "coco_detection",
    "image_folder",
    "named",
    "parquet",
    "read_picture",
    "read_wav",
    "webdataset",
]
PLACES = {
    "AudioPreprocessing": "edge_assets.spec.preprocess_check",
    "EdgeModel": "edge_assets.defs.component",
    "ImagePreprocessing": "edge_assets.spec.preprocess_check",
    "Passthrough": "edge_assets.spec.preprocess_check",
    "TextPreprocessing": "edge_assets.spec.preprocess_check",
    "read_picture": "edge_assets.spec.preprocess",
    "read_wav": "edge_assets.spec.preprocess",
    "coco_detection": "edge_assets.spec.sources.coco",
    "image_folder": "edge_assets.spec.sources.image_folder",
    "named": "edge_assets.spec.sources.named",
    "parquet": "edge_assets.spec.sources.parquet",
    "webdataset": "edge_assets.spec.sources.webdataset",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edge_assets' has no attribute '{name}'")
    return getattr(import_module(PLACES.get(name, "edge_assets.spec.model")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # Dagster's `dg` looks for components there
