"""Metrics against closed forms and against scikit-learn's; in parts as in one; and their intervals."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sklearn

from edge_assets.core.metrics.metric import MeanMetric, Outputs
from edge_assets.core.metrics.registry import MADE, measure_of
from edge_assets.core.metrics.text import edit_distance
from edge_assets.core.verify import accuracy
from edge_assets.core.verify.scoring import Scoring, demand_above_zero, demand_says_something, probes
from edge_assets.errors import DataError, InvalidSpec
from edge_assets.spec.attributes import parsed
from edge_assets.spec.metrics import BUILT_IN, Option
from edge_assets.spec.model import Dataset, Evaluation, Metric
from tests.tiny.spec import TINY

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 200)
LOGITS = (RNG.normal(size=(200, 5)) + 1.5 * np.eye(5)[LABELS]).astype(np.float32)
VOCABULARY = "_ abcdefghijklmnopqrstuvwxyz"


def kept(metric: Metric, outputs: Outputs, labels: np.ndarray, size: int = 64) -> np.ndarray:
    """What a metric keeps of samples that come `size` at a time."""
    scoring = Scoring([_complete(metric)], None)
    for start in range(0, len(labels), size):
        part = {name: array[start : start + size] for name, array in outputs.items()}
        scoring.add(part, {"label": labels[start : start + size]})
    (statistics,) = scoring.statistics().values()
    return statistics


def value(metric: Metric, outputs: Outputs, labels: np.ndarray) -> float:
    """The same whether samples come at once or not."""
    measure = measure_of(_complete(metric))
    found = accuracy.value_of(measure, kept(metric, outputs, labels))
    assert found == pytest.approx(accuracy.value_of(measure, kept(metric, outputs, labels, size=7)), rel=1e-6)
    return found


def _complete(metric: Metric) -> Metric:
    return Evaluation(Dataset("a:b"), metric=metric).deciding


def test_every_metric_of_a_spec_is_computed() -> None:
    assert set(BUILT_IN) == set(MADE)


# --- values --------------------------------------------------------------------------------------------


def test_accuracies() -> None:
    outputs = {"logits": LOGITS}
    assert value(Metric("top1_accuracy"), outputs, LABELS) == sklearn.accuracy_score(LABELS, LOGITS.argmax(1))
    expected = sklearn.top_k_accuracy_score(LABELS, LOGITS, k=2)
    assert value(Metric("topk_accuracy", {"k": 2}), outputs, LABELS) == pytest.approx(expected)
    with pytest.raises(DataError, match="k=5 of 5 classes is always 1"):
        value(Metric("topk_accuracy"), outputs, LABELS)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1(average: str) -> None:
    metric = Metric("f1", {"average": average})
    expected = sklearn.f1_score(LABELS, LOGITS.argmax(1), average=average)
    assert value(metric, {"logits": LOGITS}, LABELS) == pytest.approx(expected)
    several = np.eye(5, dtype=np.int64)[LABELS] | np.eye(5, dtype=np.int64)[LABELS[::-1]]
    expected = sklearn.f1_score(several, LOGITS > 0, average=average)
    assert value(metric, {"logits": LOGITS}, several) == pytest.approx(expected)


def test_area_under_the_curve_with_equal_scores() -> None:
    positive, scores = (LABELS == 0).astype(np.int64), np.round(LOGITS[:, 0], 1)
    expected = sklearn.roc_auc_score(positive, scores)
    assert value(Metric("auroc"), {"score": scores}, positive) == pytest.approx(expected)
    two = np.stack([np.zeros(len(scores)), scores], axis=1)
    assert value(Metric("auroc"), {"score": two}, positive) == pytest.approx(expected)


def test_mean_iou_leaves_pixels_out() -> None:
    scores, labels = RNG.normal(size=(10, 3, 8, 8)), RNG.integers(0, 3, (10, 8, 8))
    labels[:, 0] = 255
    counted = labels != 255
    expected = sklearn.jaccard_score(labels[counted], scores.argmax(1)[counted], average="macro")
    assert value(Metric("mean_iou"), {"mask": scores}, labels) == pytest.approx(expected)


def test_errors_of_numbers() -> None:
    found, wanted = np.array([[1.0, 2.0], [4.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    assert value(Metric("mae"), {"y": found}, wanted) == (0 + 2 + 4 + 0) / 4
    assert value(Metric("rmse"), {"y": found}, wanted) == pytest.approx(((4 + 16) / 4) ** 0.5)


def test_retrieval_among_all_samples() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0], [1, 0.05]])
    labels = np.array([0, 0, 1, 1, 2, 2])  # the last two are far apart
    # nearest of the first two is the sixth, which is of another pair
    assert value(Metric("cosine_retrieval"), {"vector": vectors}, labels) == pytest.approx(2 / 6)
    assert value(Metric("cosine_retrieval", {"k": 2}), {"vector": vectors}, labels) == pytest.approx(4 / 6)


def test_error_rates_of_text_that_ctc_reads() -> None:
    heard, said = ["the bat sat down", "a"], np.array(["the cat sat", "a b"])
    steps = np.zeros((2, 40), np.int64)
    for row, text in enumerate(heard):
        for column, character in enumerate(text):
            steps[row, 2 * column] = VOCABULARY.index(character)  # a blank follows each
    options = {"vocabulary": VOCABULARY}
    assert value(Metric("wer", options), {"symbols": steps}, said) == 3 / 5  # jiwer: the same
    assert value(Metric("cer", options), {"symbols": steps}, said) == pytest.approx(8 / 14)
    scores = np.eye(len(VOCABULARY))[steps]
    assert value(Metric("wer", options), {"symbols": scores}, said) == 3 / 5
    assert edit_distance("kitten", "sitting") == 3


def test_perplexity_of_an_even_guess_is_the_size_of_the_vocabulary() -> None:
    labels = RNG.integers(0, 11, (7, 6))
    labels[:, -2:] = -100
    assert value(Metric("perplexity"), {"logits": np.zeros((7, 6, 11))}, labels) == pytest.approx(11)
    certain = np.roll(50.0 * np.eye(11)[np.maximum(labels, 0)], -1, axis=1)
    assert value(Metric("perplexity", {"shift": 1}), {"logits": certain}, labels) == pytest.approx(1)


# --- boxes ---------------------------------------------------------------------------------------------

TRUE = np.array([[[0, 0, 10, 10, 0], [20, 20, 30, 30, 1], [0, 0, 0, 0, -1]]], np.float32)
BOXES = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9]]], np.float32)


def boxes(scores: object, found: np.ndarray = BOXES, labels: np.ndarray = TRUE, **options: Option) -> float:
    return value(Metric("coco_map", options), {"boxes": found, "scores": np.array([scores], np.float32)}, labels)


def test_boxes_that_are_right_have_a_precision_of_one() -> None:
    assert boxes([[0.9, 0], [0, 0.8], [0, 0]]) == pytest.approx(1)


def test_a_box_twice_counts_against_it_unless_it_is_suppressed() -> None:
    twice = [[0.8, 0], [0, 0.8], [0.9, 0]]  # the worse box of the first class comes first: IoU 0.9 with the true one
    # at 0.95 it misses, so that precision at full recall is one half there, and 1 at the nine thresholds before
    assert boxes(twice) == pytest.approx((9.5 / 10 + 1) / 2)
    assert boxes(twice, nms=0.5) == pytest.approx((9 / 10 + 1) / 2), "only the worse one is left"
    assert boxes(twice, iou=0.5) == pytest.approx(1)


def test_boxes_of_graphs_that_name_the_classes_themselves() -> None:
    outputs = {
        "found": np.array([[[5, 5, 10, 10], [25, 25, 10, 10]]], np.float32),
        "confidence": np.array([[0.9, 0.8]], np.float32),
        "kind": np.array([[0, 1]], np.float32),
    }
    named = {"boxes": "found", "scores": "confidence", "box_format": "cxcywh"}
    assert value(Metric("coco_map", named | {"classes": "kind"}), outputs, TRUE) == pytest.approx(1)
    with pytest.raises(DataError, match="the option 'classes' must name"):
        value(Metric("coco_map", named), outputs, TRUE)


def test_nobody_has_to_find_a_crowd() -> None:
    crowd = np.concatenate([TRUE, np.zeros((1, 3, 1), np.float32)], axis=2)
    crowd[0, 1, 5] = 1
    assert boxes([[0.9, 0], [0, 0], [0, 0]], labels=crowd) == pytest.approx(1)
    assert boxes([[0.9, 0], [0, 0], [0, 0]]) == pytest.approx(0.5), "without a crowd the second class has none found"


# --- intervals -----------------------------------------------------------------------------------------


def worse(outputs: np.ndarray) -> np.ndarray:
    return outputs + np.random.default_rng(1).normal(size=outputs.shape) * 0.8


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        (Metric("f1"), LABELS),
        (Metric("auroc", {"positive": 1}), (LABELS == 0).astype(np.int64)),
        (Metric("rmse"), LABELS.astype(np.float64)),
    ],
    ids=["sums", "ranks", "lower is better"],
)
def test_the_interval_of_a_metric_of_the_whole_set(metric: Metric, labels: np.ndarray) -> None:
    outputs = LOGITS if metric.name == "f1" else LOGITS[:, 0]
    metric = _complete(metric)
    measure = measure_of(metric)
    assert metric.higher_is_better is not None
    reference = kept(metric, {"y": outputs}, labels)
    found = kept(metric, {"y": worse(outputs)}, labels)
    result = accuracy.against(measure, found, reference, metric.higher_is_better)
    low, high = result.drop_interval_points
    assert result.drop_points > 0
    assert low < result.drop_points < high
    assert (result.lost, result.gained) == (None, None)
    same = accuracy.against(measure, reference, reference, metric.higher_is_better)
    assert (same.drop_points, *same.drop_interval_points) == (0, 0, 0), "paired: no difference has no interval"
    # a quarter of the samples: an interval about twice as wide
    quarter = accuracy.against(measure, found[::4], reference[::4], metric.higher_is_better)
    width = quarter.drop_interval_points[1] - quarter.drop_interval_points[0]
    assert 1.3 < width / (high - low) < 3.5


def test_a_mean_has_the_interval_it_had_and_one_over_sums_agrees_with_it() -> None:
    measure = measure_of(Metric("top1_accuracy"))
    assert isinstance(measure, MeanMetric)
    metric = Metric("f1", {"average": "micro"})  # which is the accuracy, where each sample has one class
    reference, found = {"y": LOGITS}, {"y": worse(LOGITS)}
    mean = accuracy.compare(measure.per_sample(found, LABELS), measure.per_sample(reference, LABELS), True)
    sums = accuracy.against(measure_of(metric), kept(metric, found, LABELS), kept(metric, reference, LABELS), True)
    assert sums.drop_points == pytest.approx(mean.drop_points)
    assert sums.drop_interval_points == pytest.approx(mean.drop_interval_points, abs=0.7)


class Spread:
    """A metric of the whole set, as a user writes it: the standard deviation of the errors."""

    def per_sample(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        return outputs["y"] - labels

    def value(self, per_sample: np.ndarray) -> float:
        return float(per_sample.std())


def test_a_metric_of_ones_own_of_the_whole_set() -> None:
    metric = Metric("tests.core.test_metrics:Spread", whole_set=True, higher_is_better=False)
    errors = LOGITS[:, 0] - LABELS
    assert value(metric, {"y": LOGITS[:, 0]}, LABELS) == pytest.approx(errors.std())
    reference = kept(metric, {"y": LOGITS[:, 0]}, LABELS)
    result = accuracy.against(measure_of(metric), 2 * reference, reference, higher_is_better=False)
    assert result.drop == pytest.approx(errors.std(), rel=1e-5)
    assert result.drop_interval[0] < result.drop < result.drop_interval[1]


# --- metrics that say nothing --------------------------------------------------------------------------


def demanded(metric: Metric, outputs: np.ndarray, labels: np.ndarray) -> None:
    """As at the checkpoint: the metric of the reference is asked whether it says something."""
    found = probes(len(labels))
    found.add(0, {"y": outputs}, {"label": labels})
    metric = _complete(metric)
    demand_says_something(metric, kept(metric, {"y": outputs}, labels), found)


def always_half(_outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.full(len(labels), 0.5)


def always_zero(_outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.zeros(len(labels))


def minus_error(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return -np.abs(outputs["y"].argmax(axis=1) - labels)


SORTED = np.sort(LABELS)
PERFECT = np.eye(5)[SORTED]


@pytest.mark.parametrize("name", ["always_half", "always_zero"])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_constant_metric_is_refused(name: str, higher_is_better: bool) -> None:
    metric = Metric(f"tests.core.test_metrics:{name}", higher_is_better=higher_is_better)
    with pytest.raises(DataError, match=r"says nothing: it is|is 0 for PyTorch in fp32"):
        demanded(metric, LOGITS, LABELS)


@pytest.mark.parametrize("name", ["top1_accuracy", "f1"])
def test_labels_that_are_all_of_one_class_say_nothing(name: str) -> None:
    with pytest.raises(DataError, match="says nothing: it is 1 for all 200 samples"):
        demanded(Metric(name), np.eye(5)[np.zeros(200, np.int64)], np.zeros(200, np.int64))


def test_an_accuracy_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match="top1_accuracy is 0 for PyTorch in fp32 on all 200 samples"):
        demanded(Metric("top1_accuracy"), PERFECT, (SORTED + 1) % 5)
    with pytest.raises(DataError, match="is 0 for PyTorch"):
        demand_above_zero(_complete(Metric("top1_accuracy")), 0.0, 200)
    demand_above_zero(_complete(Metric("mae")), 0.0, 200)


@pytest.mark.parametrize("metric", [Metric("top1_accuracy"), Metric("f1"), Metric("mae")], ids=lambda m: m.name)
def test_a_perfect_reference_is_none_that_says_nothing_also_where_samples_are_sorted(metric: Metric) -> None:
    outputs = SORTED.astype(np.float64) if metric.name == "mae" else PERFECT
    demanded(metric, outputs, SORTED)


def test_a_metric_that_is_best_at_zero_may_be_zero() -> None:
    demanded(Metric("tests.core.test_metrics:minus_error"), PERFECT, SORTED)


# --- specs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Metric("f2"), "'f2' is neither built in"),
        (Metric("f1", {"mean": "macro"}), "f1 has no option 'mean', only average"),
        (Metric("f1", {"average": "weighted"}), "'weighted' must be one of macro, micro"),
        (Metric("topk_accuracy", {"k": 2.5}), "2.5 is not of the kind of 5"),
        (Metric("wer"), "wer needs 'vocabulary'"),
        (Metric("tests.core.test_metrics:always_half", {"k": 1}), "are for built-in metrics"),
        (Metric("f1", whole_set=True), "is built in"),
        (Metric("tests.core.test_metrics:Nothing"), "defines no 'Nothing'"),
    ],
)
def test_a_wrong_metric_is_named(metric: Metric, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message) as error:
        replace(TINY, evaluation=replace(TINY.evaluation, metrics=(metric,)))
    assert error.value.field.startswith("evaluation.metrics.0")


def test_a_deciding_metric_with_a_unit_of_its_own_says_how_much_worse_it_may_be() -> None:
    with pytest.raises(InvalidSpec, match=r"evaluation.metric: rmse has a unit of its own: .*max_drop"):
        replace(TINY, evaluation=replace(TINY.evaluation, metric="rmse"))
    kept_to = replace(TINY, evaluation=replace(TINY.evaluation, metric=Metric("rmse", max_drop=0.5)))
    assert not kept_to.evaluation.deciding.higher_is_better


def test_metrics_in_yaml() -> None:
    attributes = parsed(
        {
            "evaluation": {
                "data": {"load": "tests.tiny.data:evaluation"},
                "metric": {"name": "topk_accuracy", "options": {"k": 3}, "max_drop": 0.02},
                "metrics": ["f1", {"name": "coco_map", "options": {"nms": 0.5}}],
            }
        }
    )
    evaluation = attributes.evaluation.make()  # type: ignore[attr-defined]  # a class of made fields
    assert evaluation.deciding == replace(
        Metric("topk_accuracy", {"k": 3}, 0.02), labels="label", higher_is_better=True
    )
    assert [metric.label for metric in evaluation.others] == ["f1", "coco_map(nms=0.5)"]


def test_a_metric_twice_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="named more than once"):
        replace(TINY, evaluation=replace(TINY.evaluation, metrics=("top1_accuracy",)))
