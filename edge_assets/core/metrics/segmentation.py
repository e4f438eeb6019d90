"""Mean intersection over union, of classes per pixel."""

from __future__ import annotations

from edge_assets.core.metrics.metric import Outputs, SumMetric, output_of, safely_divided
from edge_assets.errors import DataError
from edge_assets.later import np


def mean_iou(class_axis: int, ignore: int, output: str) -> SumMetric:
    """Per class, pixels of both over pixels of either, summed over the set; the mean over the classes that occur.

    As in Everingham et al., The Pascal Visual Object Classes Challenge, 2015. The class is the largest value along
    `class_axis` of the output; labels int [n, height, width], where `ignore` counts nowhere.
    """

    def per_sample(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores = output_of(outputs, output)
        classes = scores.shape[class_axis]
        predicted = scores.argmax(axis=class_axis)
        if predicted.shape != labels.shape:
            raise DataError(f"mean_iou: outputs give classes {predicted.shape}, labels are {labels.shape}")
        counted = labels != ignore
        is_unknown = (labels < 0) | (labels >= classes)
        if is_unknown[counted].any():
            raise DataError(f"mean_iou: labels are outside 0..{classes - 1}, and not {ignore}, which counts nowhere")
        rows = []
        for mask, label, own in zip(counted, labels, predicted, strict=True):
            true = label[mask]
            found = own[mask]
            both = true[true == found]
            rows.append([np.bincount(pixels, minlength=classes) for pixels in (both, found, true)])
        return np.array(rows, np.float32).reshape(len(labels), -1)

    def values(sums: np.ndarray) -> np.ndarray:
        both, predicted, true = np.split(sums, 3, axis=1)
        either = predicted + true - both
        by_class = safely_divided(both, either)
        occurring = (either > 0).sum(axis=1)
        return safely_divided(by_class.sum(axis=1), occurring.astype(np.float64))

    return SumMetric(per_sample, values)
