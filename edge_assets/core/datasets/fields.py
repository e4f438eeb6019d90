"""Fields of a data set as arrays that can be kept without pickling."""

from __future__ import annotations

import re

from edge_assets.errors import DataError, one_line, printable
from edge_assets.later import np

FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = ("file", "allow_pickle")  # parameters of numpy.savez, which takes fields by name
KINDS = "biufcSU"


def as_array(name: object, field: object, where: str) -> np.ndarray:
    """One field as an array of numbers, truth values or texts. Raises DataError."""
    if not isinstance(name, str) or not FIELD.fullmatch(name) or name in RESERVED:
        reason = "must be letters, digits and '_', not beginning with a digit, and not 'file' or 'allow_pickle'"
        raise DataError(f"{where}: the field name '{printable(name)}' {reason}")
    return as_batch(field, f"{where}: field '{name}'")


def as_batch(field: object, where: str) -> np.ndarray:
    """The same of a field whose name is known."""
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
