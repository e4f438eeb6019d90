"""Pictures from files, as uint8 [height, width, channels]. Needs Pillow."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from edge_assets.errors import DataError, MissingTool, one_line

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
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


def read_picture(content: bytes | Path, channels: int, transform: Transform | None, where: str) -> np.ndarray:
    """One picture, upright as its EXIF orientation says, then as `transform` makes it. Raises DataError."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingTool("pillow", "images") from None
    try:
        with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as opened:
            upright: Image.Image = ImageOps.exif_transpose(opened)
            array = np.asarray(upright.convert(MODES[channels]))
    except OSError as error:  # what Pillow raises for a file that is no picture, too
        raise DataError(f"{where} cannot be read as a picture: {one_line(error)}") from None
    if channels == 1:
        array = array[..., None]
    return array if transform is None else np.asarray(transform(array))


def check_channels(channels: int) -> None:
    """Raises DataError."""
    if channels not in MODES:
        raise DataError(f"channels={channels}: pictures have 1 (grey), 3 (RGB) or 4 (RGBA)")
