"""Which metrics there are, by name: their options, which way they point, and how their values read.

What they compute is in `core/metrics`. Here is what a spec needs to be checked without importing any of it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_assets.errors import Fault, printable, with_nearest

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
JUDGED = ("output", "boxes", "scores", "classes")  # options that name outputs
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
            yield where, neither_built_in(name, BUILT_IN)
        elif options:
            yield f"{where}.options", "are for built-in metrics: one of your own has what it needs in its code"
        return
    known_options = BUILT_IN[name].options
    for option, value in options.items():
        if option not in known_options:
            known = ", ".join(known_options) or "none"
            reason = f"{name} has no option '{printable(option)}', only {known}"
            yield f"{where}.options", with_nearest(reason, option, known_options)
        elif not _is_like(value, known_options[option]):
            yield f"{where}.options.{option}", f"{printable(value)} is not of the kind of {known_options[option]!r}"
        elif option in BUILT_IN[name].choices and value not in BUILT_IN[name].choices[option]:
            choices = ", ".join(BUILT_IN[name].choices[option])
            reason = f"'{printable(value)}' must be one of {choices}"
            yield f"{where}.options.{option}", with_nearest(reason, str(value), BUILT_IN[name].choices[option])
    for option, default in known_options.items():
        if default is None and option not in options:
            yield f"{where}.options", f"{name} needs '{option}'"


def judged_output_faults(
    name: str,
    options: Mapping[str, Option],
    outputs: Collection[str],
    where: str,
) -> Iterator[Fault]:
    """Where a built-in metric judges an output that the model does not have."""
    if name not in BUILT_IN:
        return
    known = BUILT_IN[name].options
    for option in JUDGED:
        output = options.get(option, known.get(option))
        if output and output not in outputs:
            reason = f"'{printable(output)}' is no output of the model ({', '.join(outputs)})"
            yield f"{where}.options.{option}", with_nearest(reason, str(output), outputs)


def neither_built_in(name: str, built_in: Iterable[str]) -> str:
    """Why a name without a colon is no function: it must be one of the built-in ones."""
    known = sorted(built_in)
    reason = f"'{printable(name)}' is neither built in ({', '.join(known)}) nor 'package.module:function'"
    return with_nearest(reason, name, known)


def _is_like(value: Option, default: Option | None) -> bool:
    """Whether a value is of the type of an option's default, or a text where there is none."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if default is None:
        return isinstance(value, str)
    return type(value) is type(default)
