"""Calibration and evaluation data: loaded once, checked before slow work, kept as `.npz`.

A too small, constant or leaking calibration set gives a quantized model that looks fine and is not, so each
of these is refused by name.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from edge_assets.errors import DataError, one_line, printable
from edge_assets.spec.model import PARITY_SAMPLES, Tensor
from edge_assets.spec.preprocess import Preprocessing
from edge_assets.spec.source import call

Arrays = dict[str, np.ndarray]
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = ("file", "allow_pickle")  # parameters of numpy.savez, which takes fields by name
KINDS = "biufcSU"


def load_arrays(reference: str, what: str) -> Arrays:
    """What the dataset function returns, checked to be arrays of one length by name that `.npz` can hold.

    Raises DataError.
    """
    fields = call(reference, f"{what} data")
    if not isinstance(fields, Mapping) or not fields:
        raise DataError(f"{what} data: {reference} must return a dict of arrays, got {type(fields).__name__}")
    arrays: Arrays = {}
    lengths: dict[str, int] = {}
    for name, field in fields.items():
        arrays[name] = _array(name, field, f"{what} data")
        lengths[name] = arrays[name].shape[0] if arrays[name].ndim else 0
    if len(set(lengths.values())) != 1:
        raise DataError(f"{what} data: fields have different lengths {printable(lengths, 200)}")
    return arrays


def _array(name: object, field: object, where: str) -> np.ndarray:
    """One field as an array of numbers, truth values or texts: what can be kept without pickling it."""
    if not isinstance(name, str) or not FIELD.fullmatch(name) or name in RESERVED:
        reason = "must be letters, digits and '_', not beginning with a digit, and not 'file' or 'allow_pickle'"
        raise DataError(f"{where}: the field name '{printable(name)}' {reason}")
    where = f"{where}: field '{name}'"
    if isinstance(field, np.ma.MaskedArray):
        raise DataError(f"{where} is a masked array, whose mask would be lost: fill it, or leave those samples out")
    try:
        array = np.asarray(field)
    except Exception as error:  # an object may raise anything when it is made an array
        raise DataError(f"{where} cannot be made an array: {one_line(error)}") from None
    if array.dtype.kind not in KINDS:
        kind = f"{array.dtype} array"
        if array.ndim == 0:
            kind = type(field).__name__
        raise DataError(f"{where} is of kind {printable(kind)}: it must be an array of numbers, truth values or texts")
    return array


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `.npz`; equal arrays give equal bytes (zip entries carry no time of their own)."""
    np.savez(path, **dict(sorted(arrays.items())))  # type: ignore[arg-type]  # the stub takes allow_pickle by name


def read_arrays(path: Path) -> Arrays:
    """Read `.npz`, never unpickling."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def check_samples(
    raw: Arrays,
    preprocess: Preprocessing,
    inputs: tuple[Tensor, ...],
    minimum: int,
    what: str,
    in_steps: bool = False,
) -> None:
    """Raises DataError if there are too few samples, if they are all alike, or do not fit the model's inputs.

    With `in_steps` a sample is a sequence, and the model takes a step of it at a time.
    """
    count = len(next(iter(raw.values())))
    if count < minimum:
        raise DataError(f"{what} data: {count} samples, at least {minimum} are needed")
    few = {name: array[:PARITY_SAMPLES] for name, array in raw.items()}
    try:
        feeds = preprocess.apply(few)
    except ValueError as error:
        raise DataError(f"{what} data does not fit the preprocessing: {error}") from None
    for tensor in inputs:
        if tensor.name not in feeds:
            raise DataError(f"{what} data gives no input '{tensor.name}', only {sorted(feeds)}")
        array = feeds[tensor.name]
        shape: tuple[int | str, ...] = ("samples", *tensor.sample_shape)
        if in_steps:
            shape = ("samples", "steps", *tensor.sample_shape)
        if not fits(array.shape, shape) or array.dtype != tensor.dtype:
            raise DataError(
                f"{what} data: input '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the model takes {tensor.dtype} {tensor.shape}{_told_layout(tensor, in_steps)}"
            )
        if tensor.batch_axis is None and (array != array[:1]).any():
            raise DataError(
                f"{what} data: input '{tensor.name}' has no axis 'batch', so all samples share one value, and these "
                f"do not"
            )
    for name in preprocess_fields(raw, preprocess):
        if raw[name].dtype.kind == "f" and not np.isfinite(raw[name]).all():
            raise DataError(f"{what} data: field '{name}' has NaN or infinite values")
    if len(set(sample_hashes(raw, preprocess))) == 1:
        raise DataError(f"{what} data: all {count} samples are alike")


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


def check_labels(raw: Arrays, labels: str, outputs: tuple[Tensor, ...], metric: str) -> None:
    """Raises DataError if there are no labels or, for a classification metric, if they are out of range."""
    _check_labels(raw, labels, outputs, metric == "top1_accuracy", "evaluation")


def check_training_labels(raw: Arrays, labels: str, outputs: tuple[Tensor, ...], are_classes: bool) -> None:
    """Raises DataError if there are no labels or, for a classifier, if they are no integers or out of range."""
    _check_labels(raw, labels, outputs, are_classes, "training")
    if are_classes and raw[labels].dtype != np.int64:
        raise DataError(f"training data: labels '{labels}' are {raw[labels].dtype}, classes must be int64")


def _check_labels(raw: Arrays, labels: str, outputs: tuple[Tensor, ...], are_classes: bool, what: str) -> None:
    if labels not in raw:
        raise DataError(f"{what} data: no field '{labels}' with the labels, only {sorted(raw)}")
    shape = outputs[0].sample_shape
    classes = shape[-1] if shape else None
    if are_classes and isinstance(classes, int):
        wrong = int(((raw[labels] < 0) | (raw[labels] >= classes)).sum())
        if wrong:
            raise DataError(f"{what} data: {wrong} labels are outside 0..{classes - 1}")


def check_disjoint(
    others: Arrays,
    evaluation: Arrays,
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


def sample_hashes(raw: Arrays, preprocess: Preprocessing) -> list[bytes]:
    """One hash per sample, over the fields that become model inputs."""
    fields = preprocess_fields(raw, preprocess)
    hashes = []
    for position in range(len(raw[fields[0]])):
        hasher = hashlib.blake2b(digest_size=16)
        for field in fields:
            hasher.update(raw[field][position].tobytes())
        hashes.append(hasher.digest())
    return hashes
