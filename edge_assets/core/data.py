"""Calibration and evaluation data: loaded once, checked before slow work.

A too small, constant or leaking calibration set gives a quantized model that looks fine and is not, so each
of these is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from edge_assets.core.datasets import kept as datasets
from edge_assets.core.datasets.fields import as_array
from edge_assets.core.datasets.kept import Kept
from edge_assets.core.datasets.npz import Arrays
from edge_assets.core.datasets.stream import Stream, as_stream
from edge_assets.errors import DataError, printable, with_nearest
from edge_assets.later import np
from edge_assets.spec.model import PARITY_SAMPLES, Tensor
from edge_assets.spec.preprocess import Preprocessing
from edge_assets.spec.source import call

MINIMUM = {  # what of a spec says how many samples are needed
    "calibration": "`minimum` of the spec's calibration",
    "evaluation": "`minimum` of the spec's evaluation",
    "training": "`batch_size` of the spec's finetuning",
}


def load(reference: str, what: str) -> Arrays | Stream:
    """What the dataset function returns: arrays, checked to be of one length, or what gives samples.

    Raises DataError.
    """
    returned = call(reference, f"{what} data")
    if isinstance(returned, Mapping) and any(hasattr(part, "column_names") for part in returned.values()):
        names = ", ".join(printable(name) for name in returned)
        raise DataError(f"{what} data: {reference} returns several data sets ({names}): return one of them")
    if not isinstance(returned, Mapping):
        return as_stream(returned, f"{what} data: {reference}")
    return as_arrays(returned, reference, what)


def as_arrays(fields: Mapping[object, object], reference: str, what: str) -> Arrays:
    """Arrays of one length by name that `.npz` can hold. Raises DataError."""
    if not fields:
        raise DataError(f"{what} data: {reference} must return a dict of arrays, got an empty one")
    arrays: Arrays = {}
    lengths: dict[str, int] = {}
    for key, field in fields.items():
        array = as_array(key, field, f"{what} data")
        name = str(key)
        if array.ndim == 0:
            raise DataError(f"{what} data: field '{name}' is a single value: fields have an entry per sample")
        arrays[name] = array
        lengths[name] = len(array)
    if len(set(lengths.values())) != 1:
        raise DataError(f"{what} data: fields have different lengths {printable(lengths, 200)}")
    return arrays


def check_samples(
    kept: Kept,
    preprocess: Preprocessing,
    inputs: tuple[Tensor, ...],
    minimum: int,
    what: str,
    in_steps: bool = False,
) -> None:
    """Raises DataError if there are too few samples, if they are all alike, or do not fit the model's inputs.

    With `in_steps` a sample is a sequence, and the model takes a step of it at a time.
    """
    if kept.samples < minimum:
        raise DataError(
            f"{what} data: {kept.samples} samples, at least {minimum} are needed: load more, or lower {MINIMUM[what]}"
        )
    few = datasets.first(kept, PARITY_SAMPLES)
    try:
        feeds = preprocess.apply(few)
    except ValueError as error:
        raise DataError(f"{what} data does not fit the preprocessing: {error}") from None
    for tensor in inputs:
        if tensor.name not in feeds:
            given = f"{what} data gives no input '{tensor.name}', only {sorted(feeds)}"
            raise DataError(with_nearest(given, tensor.name, feeds))
        array = feeds[tensor.name]
        shape: tuple[int | str, ...] = ("samples", *tensor.sample_shape)
        if in_steps:
            shape = ("samples", "steps", *tensor.sample_shape)
        if not fits(array.shape, shape) or array.dtype != tensor.dtype:
            raise DataError(
                f"{what} data: input '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the model takes {tensor.dtype} {tensor.shape}{_told_layout(tensor, in_steps)}. Change what the "
                f"dataset or the preprocessing gives, or the spec's `inputs`"
            )
        if tensor.batch_axis is None and (array != array[:1]).any():
            raise DataError(
                f"{what} data: input '{tensor.name}' has no axis 'batch', so all samples share one value, and these "
                f"do not"
            )
    for name in preprocess_fields(few, preprocess):
        if few[name].dtype.kind == "f" and not kept.ranged(name).is_finite:
            raise DataError(f"{what} data: field '{name}' has NaN or infinite values")
    if len(set(sample_hashes(kept, preprocess))) == 1:
        raise DataError(
            f"{what} data: all {kept.samples} samples are alike: look at what the dataset's function returns"
        )


def _told_layout(tensor: Tensor, in_steps: bool) -> str:
    """How samples are given of a tensor that does not begin with the batch, or a step at a time."""
    if in_steps:
        return ", a step of each at a time: data are [samples, steps, ...]"
    return "" if tensor.batch_axis == 0 else ": data are [samples, ...] wherever the model has its batch"


def fits(shape: tuple[int, ...], declared: tuple[int | str, ...]) -> bool:
    """Whether an array of that shape is of the declared one: its fixed axes have their sizes."""
    if len(shape) != len(declared):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(declared, shape, strict=True))


def check_labels(kept: Kept, labels: str, outputs: tuple[Tensor, ...], are_classes: bool) -> None:
    """Raises DataError if there are no labels or, for a classification metric, if they are out of range."""
    _check_labels(kept, labels, outputs, are_classes, "evaluation")


def check_training_labels(kept: Kept, labels: str, outputs: tuple[Tensor, ...], are_classes: bool) -> None:
    """Raises DataError if there are no labels or, for a classifier, if they are no integers or out of range."""
    _check_labels(kept, labels, outputs, are_classes, "training")
    dtype = next(field.dtype for field in kept.fields if field.name == labels)
    if are_classes and dtype != "int64":
        raise DataError(f"training data: labels '{labels}' are {dtype}, classes must be int64")


def _check_labels(kept: Kept, labels: str, outputs: tuple[Tensor, ...], are_classes: bool, what: str) -> None:
    names = sorted(field.name for field in kept.fields)
    if labels not in names:
        part = "finetuning" if what == "training" else what
        reason = f"{what} data: no field '{labels}' with the labels, only {names}: say which by the {part}'s `labels`"
        raise DataError(with_nearest(reason, labels, names))
    shape = outputs[0].sample_shape
    classes = shape[-1] if shape else None
    if not are_classes or not isinstance(classes, int):
        return
    found = kept.ranged(labels)
    is_of_several = any(field.name == labels and field.shape for field in kept.fields)
    if is_of_several and (found.least, found.largest) in ((0, 1), (0, 0), (1, 1)):
        return  # 0 and 1 of each class are no numbers of classes
    if found.least is None or found.largest is None:
        raise DataError(f"{what} data: labels '{labels}' are {found.dtype}, not finite numbers: classes are wanted")
    if found.least < 0 or found.largest >= classes:
        raise DataError(
            f"{what} data: labels are outside 0..{classes - 1}: '{labels}' has {found.least:g} to {found.largest:g}. "
            f"They must be numbers of the {classes} classes of output '{outputs[0].name}'"
        )


def check_disjoint(
    others: Kept,
    evaluation: Kept,
    preprocess: Preprocessing,
    what: Literal["calibration", "training"] = "calibration",
) -> None:
    """Raises DataError if a sample of the other data is also an evaluation sample."""
    shared = set(sample_hashes(others, preprocess)) & set(sample_hashes(evaluation, preprocess))
    if shared:
        done = {"calibration": "calibrated", "training": "trained"}[what]
        raise DataError(
            f"{what} and evaluation data overlap: {len(shared)} samples are in both, so accuracy would be "
            f"measured on what was {done}. Draw them from different sources."
        )


def preprocess_fields(raw: Arrays, preprocess: Preprocessing) -> list[str]:
    """The raw fields that the preprocessing reads: those without which it fails."""
    first = {name: array[:1] for name, array in raw.items()}

    needed = []
    for name in sorted(raw):
        others = {key: array for key, array in first.items() if key != name}
        try:
            preprocess.apply(others)
        except ValueError:
            needed.append(name)
    return needed


def first_sample(raw: Arrays, preprocess: Preprocessing) -> Arrays:
    """The raw fields of the first sample that the preprocessing reads."""
    one = {name: array[:1] for name, array in raw.items()}
    return {name: one[name] for name in preprocess_fields(one, preprocess)}


def sample_hashes(kept: Kept, preprocess: Preprocessing) -> list[bytes]:
    """One hash per sample, over the fields that become model inputs."""
    fields = preprocess_fields(datasets.first(kept, 1), preprocess)
    by_field = np.concatenate([kept.hashes(name) for name in fields], axis=1)
    return [hashlib.blake2b(row.tobytes(), digest_size=datasets.HASH_BYTES).digest() for row in by_field]
