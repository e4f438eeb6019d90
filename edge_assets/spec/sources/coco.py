"""Pictures with boxes, as a COCO annotation file has them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_assets.errors import DataError, one_line
from edge_assets.spec.project import project_path
from edge_assets.spec.sources.pictures import PictureFiles, channels_of, picture_of

Boxes = np.ndarray  # float32 [k, 4]: x1, y1, x2, y2 in pixels of the picture
BoxTransform = Callable[[np.ndarray, Boxes], tuple[np.ndarray, Boxes]]


@dataclass(frozen=True)
class CocoDetection(PictureFiles):
    """Samples `{"image": uint8 [height, width, channels], "label": float32 [most, 6], "image_id": int64}`.

    A label's rows are x1, y1, x2, y2, class and 1 for a crowd, as the metric `coco_map` takes them; class -1 where
    there is no box. `most` is the largest number of boxes in one picture of the file.
    """

    ids: tuple[int, ...]
    boxes: tuple[np.ndarray, ...]  # by picture, float32 [k, 6]
    classes: tuple[str, ...]
    most: int
    channels: int | None
    transform: BoxTransform | None

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        path, boxes = self.pictures[position], self.boxes[position].copy()
        picture = picture_of(path, self.channels, None, str(path))
        if self.transform is not None:
            picture, boxes[:, :4] = self.transform(picture, boxes[:, :4])
        label = np.full((self.most, 6), -1, np.float32)
        label[: len(boxes)] = boxes
        return {"image": picture, "label": label, "image_id": np.asarray(self.ids[position], np.int64)}


def coco_detection(
    folder: str,
    annotations: str,
    channels: int | None = None,
    transform: BoxTransform | None = None,
) -> CocoDetection:
    """Pictures of a COCO annotation file, which lie below `folder`; both are relative to the project.

    Classes are the file's categories in the order of their ids, numbered from 0. `transform(picture, boxes)` makes
    every picture the size that the preprocessing takes, and its boxes likewise. `channels` are as in `image_folder`.
    Raises DataError.
    """
    given = channels_of(channels, transform)
    place, file = project_path(folder), project_path(annotations)
    try:
        said: Mapping[str, Any] = json.loads(file.read_text())
        categories = sorted(said["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: number for number, category in enumerate(categories)}
        images = sorted(said["images"], key=lambda image: image["id"])
        by_image = _boxes_by_image(said["annotations"], numbers)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{annotations} is no COCO annotation file: {one_line(error)}") from None
    if not images:
        raise DataError(f"{annotations} names no pictures")
    none = np.zeros((0, 6), np.float32)
    pictures, ids, boxes = [], [], []
    most = 1
    for image in images:
        mine = by_image.get(image["id"], none)
        pictures.append(place / image["file_name"])
        ids.append(image["id"])
        boxes.append(mine)
        most = max(most, len(mine))
    return CocoDetection(
        pictures=tuple(pictures),
        ids=tuple(ids),
        boxes=tuple(boxes),
        classes=tuple(category["name"] for category in categories),
        most=most,
        channels=given,
        transform=transform,
    )


def _boxes_by_image(annotations: Sequence[Mapping[str, Any]], numbers: Mapping[int, int]) -> dict[int, np.ndarray]:
    rows: dict[int, list[list[float]]] = {}
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        row = [x, y, x + width, y + height, numbers[annotation["category_id"]], annotation.get("iscrowd", 0)]
        rows.setdefault(annotation["image_id"], []).append(row)
    return {image: np.array(found, np.float32) for image, found in rows.items()}
