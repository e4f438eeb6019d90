"""Which metrics there are, by name: their options, which way they point, and how their values read.

What they compute is in `core/metrics`. Here is what a spec needs to be checked without importing any of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_assets.errors import Fault, printable

Option = int | float | str | bool
DEFAULT = "top1_accuracy"


@dataclass(frozen=True)
class BuiltIn:
    """One built-in metric as a spec sees it."""

    options: Mapping[str, Option | None] = field(default_factory=dict)  # with their defaults; None: must be given
    higher_is_better: bool = True
    unit: Literal["share", "own"] = "share"  # share: 0 to 1, shown in percent and points; own: in the labels' unit
    labels_are_classes: bool = False  # integers below the size of the first output's last axis
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of options that are one of a few words


AVERAGES = ("macro", "micro")
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
OUTPUT = {"output": ""}  # which output is judged; the first if it is not named
BUILT_IN: Mapping[str, BuiltIn] = {
    DEFAULT: BuiltIn(labels_are_classes=True),
    "topk_accuracy": BuiltIn({"k": 5, **OUTPUT}, labels_are_classes=True),
    "f1": BuiltIn(
        {"average": "macro", "threshold": 0.0, **OUTPUT},
        choices={"average": AVERAGES},
        labels_are_classes=True,
    ),
    "auroc": BuiltIn({"positive": 1, **OUTPUT}),
    "mean_iou": BuiltIn({"class_axis": 1, "ignore": 255, **OUTPUT}),
    "coco_map": BuiltIn(
        {
            "boxes": "boxes",
            "scores": "scores",
            "classes": "",
            "box_format": "xyxy",
            "nms": 0.0,
            "min_score": 0.001,
            "max_detections": 100,
            "iou": 0.0,
        },
        choices={"box_format": BOX_FORMATS},
    ),
    "wer": BuiltIn({"vocabulary": None, "blank": 0, **OUTPUT}, higher_is_better=False),
    "cer": BuiltIn({"vocabulary": None, "blank": 0, **OUTPUT}, higher_is_better=False),
    "mae": BuiltIn(OUTPUT, higher_is_better=False, unit="own"),
    "rmse": BuiltIn(OUTPUT, higher_is_better=False, unit="own"),
    "cosine_retrieval": BuiltIn({"k": 1, **OUTPUT}),
    "perplexity": BuiltIn({"ignore": -100, "shift": 0, **OUTPUT}, higher_is_better=False, unit="own"),
}


def metric_faults(name: str, options: Mapping[str, Option], where: str) -> Iterator[Fault]:
    """What is wrong with a metric's name and options, as far as they say it."""
    if name not in BUILT_IN:
        if ":" not in name:
            known = ", ".join(BUILT_IN)
            yield where, f"'{printable(name)}' is neither built in ({known}) nor 'package.module:function'"
        elif options:
            yield f"{where}.options", "are for built-in metrics: one of your own has what it needs in its code"
        return
    known_options = BUILT_IN[name].options
    for option, value in options.items():
        if option not in known_options:
            known = ", ".join(known_options) or "none"
            yield f"{where}.options", f"{name} has no option '{printable(option)}', only {known}"
        elif not _is_like(value, known_options[option]):
            yield f"{where}.options.{option}", f"{printable(value)} is not of the kind of {known_options[option]!r}"
        elif option in BUILT_IN[name].choices and value not in BUILT_IN[name].choices[option]:
            choices = ", ".join(BUILT_IN[name].choices[option])
            yield f"{where}.options.{option}", f"'{printable(value)}' must be one of {choices}"
    for option, default in known_options.items():
        if default is None and option not in options:
            yield f"{where}.options", f"{name} needs '{option}'"


def _is_like(value: Option, default: Option | None) -> bool:
    """Whether a value is of the type of an option's default, or a text where there is none."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if default is None:
        return isinstance(value, str)
    return type(value) is type(default)
