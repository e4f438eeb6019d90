"""A folder of pictures: one folder per class, or a file with labels."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_assets.errors import DataError
from edge_assets.spec.project import project_path
from edge_assets.spec.sources.pictures import SUFFIXES, PictureFiles, Transform, channels_of, picture_of


@dataclass(frozen=True)
class ImageFolder(PictureFiles):
    """Samples `{"image": uint8 [height, width, channels], "label": int64}`."""

    labels: tuple[int, ...]
    classes: tuple[str, ...]  # by label; empty where a file gives numbers
    channels: int | None
    transform: Transform | None

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        path = self.pictures[position]
        picture = picture_of(path, self.channels, self.transform, str(path))
        return {"image": picture, "label": np.asarray(self.labels[position], np.int64)}


def image_folder(
    folder: str,
    labels: str | None = None,
    classes: tuple[str, ...] = (),
    channels: int | None = None,
    transform: Transform | None = None,
) -> ImageFolder:
    """Pictures below `folder`, relative to the project, in the order of their names.

    Without `labels` each subfolder is a class, numbered as in `classes`, or in alphabetical order. `labels` is a file
    of lines `name,label` (or with a tab or a space between), names relative to `folder`; labels are numbers, or names
    in `classes`. `transform`, such as an `ImagePreprocessing`'s `fitted`, makes every picture the size that the
    preprocessing takes. Pictures are converted to that many `channels`: left out, to RGB, but a transform gets them
    with their own, as `infer.py` hands them to the preprocessing. Raises DataError.
    """
    given = channels_of(channels, transform)
    place = project_path(folder)
    if not place.is_dir():
        raise DataError(f"{folder}: no such folder")
    if labels is None:
        pictures, numbers, names = _by_folder(place, classes)
    else:
        pictures, numbers = _by_file(place, project_path(labels), classes)
        names = classes
    if not pictures:
        raise DataError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) below it")
    return ImageFolder(tuple(pictures), tuple(numbers), names, given, transform)


def _by_folder(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int], tuple[str, ...]]:
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = tuple(sorted(path.name for path in folders))
    names = classes or found
    unknown = sorted({*found} - {*names})
    if unknown:
        raise DataError(f"{folder}: folders {unknown} are none of the classes {list(names)}")
    pictures, numbers = [], []
    for number, name in enumerate(names):
        for path in sorted((folder / name).rglob("*")):
            if path.suffix.lower() in SUFFIXES and not _is_hidden(path.relative_to(folder)):
                pictures.append(path)
                numbers.append(number)
    return pictures, numbers, names


def _is_hidden(path: Path) -> bool:
    """Whether a tool keeps it for itself, such as a notebook's checkpoints."""
    return any(part.startswith(".") for part in path.parts)


def _by_file(folder: Path, file: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    if not file.is_file():
        raise DataError(f"{file}: no such file with labels")
    pictures, numbers = [], []
    for row, line in enumerate(_lines(file), 1):
        if len(line) != 2:
            raise DataError(f"{file}, line {row}: {line} is not a name and a label")
        path = folder / line[0]
        if row == 1 and not path.is_file():
            continue  # a heading
        if not path.is_file():
            raise DataError(f"{file}, line {row}: no picture {path}")
        pictures.append(path)
        numbers.append(_number(line[1], classes, f"{file}, line {row}"))
    return pictures, numbers


def _lines(file: Path) -> list[list[str]]:
    """Name and label of every line that is not empty."""
    found = []
    for line in file.read_text().splitlines():
        if "," in line:
            found.append([part.strip() for part in next(csv.reader([line]))])
        elif line.strip():
            found.append(line.rsplit(maxsplit=1))
    return found


def _number(label: str, classes: tuple[str, ...], where: str) -> int:
    if label in classes:
        return classes.index(label)
    if classes or not label.lstrip("-").isdigit():
        known = f"none of the classes {list(classes)}" if classes else "no number: give `classes`"
        raise DataError(f"{where}: label '{label}' is {known}")
    return int(label)
