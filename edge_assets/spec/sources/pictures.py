"""Pictures from files, as uint8 [height, width, channels]: read as `infer.py` reads them. Needs Pillow."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from edge_assets.errors import DataError, MissingTool, UserCodeError, one_line, told
from edge_assets.spec.preprocess import decoded_picture, with_channels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
CHANNELS = (1, 3, 4)
Transform = Callable[[np.ndarray], np.ndarray]  # of one picture


@dataclass(frozen=True)
class PictureFiles:
    """A sample for each of some picture files."""

    pictures: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that samples are read from."""
        return self.pictures

    def __len__(self) -> int:
        return len(self.pictures)


def picture_of(
    content: bytes | Path,
    channels: int | None,
    transform: Transform | None,
    where: str,
) -> np.ndarray:
    """One picture as `read_picture` gives it, with that many channels or its own, then as `transform` makes it.

    Raises DataError for what is no picture of 8 bits, and UserCodeError for what `transform` raises.
    """
    try:
        picture = decoded_picture(BytesIO(content) if isinstance(content, bytes) else content, where)
    except ModuleNotFoundError:
        raise MissingTool("pillow", "images") from None
    except OSError as error:
        raise DataError(f"{where} cannot be read: {one_line(error)}") from None
    except ValueError as error:
        raise DataError(str(error)) from None
    if channels is not None:
        picture = with_channels(picture, channels)
    if transform is None:
        return picture
    try:
        return np.asarray(transform(picture))
    except Exception as error:  # the user's code can raise anything
        raise UserCodeError(f"{where}: the transform raised {told(error)}") from error


def channels_of(channels: int | None, transform: object | None) -> int | None:
    """How many channels pictures are given: as said, else RGB; with a transform their own, which None stands for.

    So a preprocessing's `fitted` sees what `infer.py` hands it, an alpha that it blends with its background among it.
    Raises DataError.
    """
    if channels is None:
        return None if transform else 3
    if channels not in CHANNELS:
        raise DataError(f"channels={channels}: pictures have 1 (grey), 3 (RGB) or 4 (RGBA)")
    return channels
