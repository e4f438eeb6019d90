"""What a model's spec is written with: `from edge_assets import ModelSpec, Tensor, Dataset`, and more.

The names listed here stay: what they take may grow by optional fields, and a change that breaks a spec is announced in
the changelog one version before. Everything else in this package may move between versions.

Each name is imported when it is first used, so that a process that needs none of them, such as one that measures, does
not hold them in memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_assets.spec.model import (
        Calibration,
        Dataset,
        Evaluation,
        FineTuning,
        Gates,
        ModelSpec,
        Search,
        Tensor,
    )
    from edge_assets.spec.preprocess import ImagePreprocessing, Passthrough, TextPreprocessing

__all__ = [
    "Calibration",
    "Dataset",
    "Evaluation",
    "FineTuning",
    "Gates",
    "ImagePreprocessing",
    "ModelSpec",
    "Passthrough",
    "Search",
    "Tensor",
    "TextPreprocessing",
]
PREPROCESSINGS = ("ImagePreprocessing", "Passthrough", "TextPreprocessing")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edge_assets' has no attribute '{name}'")
    module = "preprocess" if name in PREPROCESSINGS else "model"
    return getattr(import_module(f"edge_assets.spec.{module}"), name)
