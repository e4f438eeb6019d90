"""Fields of a data set as arrays that can be kept without pickling."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

from edge_assets.errors import DataError, one_line, printable
from edge_assets.later import np

if TYPE_CHECKING:
    from PIL import Image

FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = ("file", "allow_pickle")  # parameters of numpy.savez, which takes fields by name
KINDS = "biufcSU"
# Pillow's modes whose values are no pixels that a model sees; a palette's numbers stay, which masks have for classes
CONVERTED = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA"}

ONE_SHAPE = (
    "all samples of a data set have one shape. Make it so in the dataset's function: pictures by "
    "`preprocessing.fitted`, where that has a range of sizes by `preprocessing.of_size(height, width).fitted`"
)


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
    _demand_one_shape(field, where)
    try:
        array = np.asarray(_upright(field) if _is_picture(field) else field)
    except Exception as error:  # an object may raise anything when it is made an array
        raise DataError(f"{where} cannot be made an array: {one_line(error)}") from None
    if array.dtype.kind not in KINDS:
        kind = f"{array.dtype} array"
        if array.ndim == 0:
            kind = type(field).__name__
        raise DataError(f"{where} is of kind {printable(kind)}: it must be an array of numbers, truth values or texts")
    return array


def _demand_one_shape(field: object, where: str) -> None:
    """Raises DataError for a list of arrays of several shapes, as pictures of several sizes are."""
    entries: Iterable[object] = ()
    if isinstance(field, list | tuple):
        entries = field
    elif isinstance(field, np.ndarray) and field.dtype == object:
        entries = field.flat
    arrays = [entry for entry in entries if isinstance(entry, np.ndarray)]
    for array in arrays:
        if array.shape != arrays[0].shape:
            raise DataError(f"{where} has entries of shape {arrays[0].shape} and {array.shape}: {ONE_SHAPE}")


def _is_picture(field: object) -> TypeGuard[Image.Image]:
    """Whether it is an image of Pillow's, as Hugging Face gives them. Where that is not imported, nothing is."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(field, pillow.Image)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says, in colours of red, green and blue."""
    from PIL import ImageOps

    turned: Image.Image = ImageOps.exif_transpose(picture)
    return turned.convert(CONVERTED.get(turned.mode, turned.mode))
