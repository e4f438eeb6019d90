"""Mean average precision of boxes, as COCO defines it, with or without non-maximum suppression outside of the graph.

The definition is that of cocoapi's `COCOeval` (Lin et al., Microsoft COCO, 2014) for all sizes of boxes: per class and
IoU threshold, detections of an image are matched with its boxes in the order of their scores, precision is made
monotone and read at 101 values of recall. Here each image keeps its matched detections, so that images can be drawn
again for an interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_assets.core.metrics.metric import Outputs, SetMetric, demand_shape, output_of
from edge_assets.errors import DataError
from edge_assets.later import np

RECALLS = 101  # equally spaced, from 0 to 1
LABELS = "[n, most, 5 or 6]: x1, y1, x2, y2, class, and 1 for a crowd; class -1 where there is no box"
MATCHED, IGNORED, MISSED = 1, -1, 0


@dataclass(frozen=True)
class Detections:
    """One image's: boxes x1, y1, x2, y2 float64 [k, 4], classes int64 [k], scores float64 [k], the best first."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def at(self, positions: np.ndarray) -> Detections:
        return Detections(self.boxes[positions], self.classes[positions], self.scores[positions])


def coco_map(
    boxes: str,
    scores: str,
    classes: str,
    box_format: str,
    nms: float,
    min_score: float,
    max_detections: int,
    iou: float,
) -> SetMetric:
    """mAP at IoU 0.50 to 0.95, or at `iou` where it is not 0.

    `boxes` names the output [n, k, 4]; `scores` the one [n, k, classes], or [n, k] beside `classes` [n, k], as graphs
    give that have suppressed overlaps themselves. With `nms` above 0, of overlapping boxes of a class with an IoU above
    it only the best stays. Labels are [n, most, 5 or 6], see `LABELS`.
    """
    thresholds = np.linspace(0.5, 0.95, 10)
    if iou:
        thresholds = np.array([iou])

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        demand_shape(labels, 3, "labels", LABELS)
        all_boxes = output_of(outputs, boxes)
        all_scores = output_of(outputs, scores)
        found = []
        for position, label in enumerate(labels):
            numbers = None
            if classes:
                numbers = output_of(outputs, classes)[position]
            detections = _detections(
                boxes=as_corners(all_boxes[position].astype(np.float64), box_format),
                scores=all_scores[position].astype(np.float64),
                classes=numbers,
                min_score=min_score,
            )
            if nms:
                detections = detections.at(suppressed(detections, nms))
            count = min(max_detections, len(detections.scores))
            best = detections.at(np.arange(count))
            found.append(_matched(best, label, thresholds, max_detections))
        return np.stack(found)

    return SetMetric(per_sample, lambda samples: _average_precision(samples, max_detections, len(thresholds)))


def _detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray | None,
    min_score: float,
) -> Detections:
    """What counts of one image's outputs, the best first."""
    if scores.ndim == 1:
        if classes is None:
            raise DataError("coco_map: scores are [n, k], so the option 'classes' must name the output with classes")
        rows = np.arange(len(scores))
        numbers = classes.astype(np.int64)
        values = scores
    else:
        rows, numbers = np.nonzero(scores >= min_score)
        values = scores[rows, numbers]
    order = np.argsort(-values, kind="stable")
    order = order[values[order] >= min_score]
    return Detections(
        boxes=boxes[rows[order]],
        classes=numbers[order],
        scores=values[order],
    )


def as_corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Boxes [k, 4] as x1, y1, x2, y2."""
    if box_format == "xyxy":
        return boxes
    first = boxes[:, :2]
    size = boxes[:, 2:]
    if box_format == "cxcywh":
        first = first - size / 2
    return np.concatenate([first, first + size], axis=1)


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU of each box [k, 4] with each other [m, 4]; of a crowd, the share of the box that lies in it. [k, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    shared = np.prod(sides, axis=2)
    own = _areas(boxes)[:, None]
    union = own + _areas(others)[None, :] - shared
    if crowd is not None:
        union = np.where(crowd[None, :], own, union)
    found: np.ndarray = np.divide(
        shared,
        union,
        out=np.zeros_like(shared),
        where=union > 0,
    )
    return found


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    areas: np.ndarray = np.prod(sides, axis=1)
    return areas


def suppressed(found: Detections, threshold: float) -> np.ndarray:
    """Positions of those that stay, the best first: none overlaps a better one of its class by more than that."""
    stay = np.ones(len(found.scores), bool)
    for number in np.unique(found.classes):
        positions = np.flatnonzero(found.classes == number)
        boxes = found.boxes[positions]
        matrix = overlaps(boxes, boxes)
        for row, position in enumerate(positions):
            if stay[position]:
                worse = positions[row + 1 :]
                stay[worse] &= matrix[row, row + 1 :] <= threshold
    return np.flatnonzero(stay)


def _matched(found: Detections, label: np.ndarray, thresholds: np.ndarray, most: int) -> np.ndarray:
    """One image's row: of `most` detections class, score and outcome per threshold; then the classes of its boxes.

    Classes are -1 where there is no detection or box, and for the boxes of crowds, which nobody has to find.
    """
    wanted = np.full(len(label), -1.0, np.float32)
    label = label[label[:, 4] >= 0]
    crowd = np.zeros(len(label), bool)
    if label.shape[1] > 5:
        crowd = label[:, 5] > 0
    order = np.argsort(crowd, kind="stable")  # crowds last: a box that is none is matched first
    label = label[order].astype(np.float64)
    crowd = crowd[order]
    rows = np.full((most, 2 + len(thresholds)), -1.0, np.float32)
    count = len(found.scores)
    rows[:count, 0] = found.classes
    rows[:count, 1] = found.scores
    for number in np.unique(found.classes):
        mine = np.flatnonzero(found.classes == number)
        theirs = np.flatnonzero(label[:, 4] == number)
        matrix = overlaps(
            boxes=found.boxes[mine],
            others=label[theirs, :4],
            crowd=crowd[theirs],
        )
        for column, threshold in enumerate(thresholds):
            rows[mine, 2 + column] = _outcomes(matrix, crowd[theirs], threshold)
    wanted[: len(label)] = np.where(crowd, -1, label[:, 4])
    return np.concatenate([rows.ravel(), wanted])


def _outcomes(matrix: np.ndarray, crowd: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each detection, the best first, has a box of its own: MATCHED, MISSED, or IGNORED for a crowd's; [k]."""
    taken = np.zeros(len(crowd), bool)
    outcomes = np.full(len(matrix), MISSED)
    for row, overlap in enumerate(matrix):
        best = -1
        least = min(threshold, 1 - 1e-10)
        for column in range(len(crowd)):
            if taken[column] and not crowd[column]:
                continue
            if best >= 0 and not crowd[best] and crowd[column]:
                break
            if overlap[column] >= least:
                best, least = column, overlap[column]
        if best >= 0:
            taken[best] = True
            outcomes[row] = IGNORED if crowd[best] else MATCHED
    return outcomes


def _average_precision(
    samples: np.ndarray,
    most: int,
    thresholds: int,
) -> Callable[[np.ndarray], float]:
    """mAP of what `_matched` gave of each image, by how often each image counts."""
    split = most * (2 + thresholds)
    rows = samples[:, :split].reshape(-1, 2 + thresholds)
    image = np.repeat(np.arange(len(samples)), most)
    wanted = samples[:, split:]
    by_class = []
    for number in np.unique(wanted[wanted >= 0]):
        mine = np.flatnonzero(rows[:, 0] == number)
        order = np.argsort(-rows[mine, 1], kind="stable")
        mine = mine[order]
        boxes_of_image = (wanted == number).sum(axis=1)
        by_class.append((boxes_of_image, image[mine], rows[mine, 2:]))

    def value(counts: np.ndarray) -> float:
        found = []
        for boxes, images, outcomes in by_class:
            all_boxes = float(counts @ boxes)
            if all_boxes:
                found.append(_precision(outcomes, counts[images], all_boxes))
        if not found:
            return 0.0
        return float(np.mean(found))

    return value


def _precision(outcomes: np.ndarray, counts: np.ndarray, boxes: float) -> float:
    """The mean over thresholds and recalls of one class's precision. `outcomes` [k, thresholds], the best first."""
    recalls = np.linspace(0, 1, RECALLS)
    total = 0.0
    for column in outcomes.T:
        hits = np.cumsum(counts * (column == MATCHED))
        misses = np.cumsum(counts * (column == MISSED))
        recall = hits / boxes
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        from_the_end = np.maximum.accumulate(precision[::-1])
        monotone = from_the_end[::-1]
        places = np.searchsorted(recall, recalls, side="left")
        reached = places[places < len(monotone)]
        total += float(monotone[reached].sum()) / RECALLS
    thresholds: int = outcomes.shape[1]
    return total / thresholds
