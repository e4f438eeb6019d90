"""A model whose data stream has the numbers that it has with arrays; metrics that decide, gate or say nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_assets import Dataset, FineTuning, Metric
from edge_assets.core.datasets.npz import read_arrays
from edge_assets.core.select import gates
from edge_assets.core.types import Built
from edge_assets.core.verify.evaluate import evaluate, part_of
from edge_assets.core.verify.scoring import Scoring
from edge_assets.errors import DataError
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.candidates import verified_candidate
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import ModelSpec
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import export as onnx
from edge_assets.toolchains.onnx import float16, int8_static
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY

EVERY = 597
STREAMED = replace(
    TINY,
    name="streamed",
    calibration=replace(TINY.calibration, data=Dataset("tests.tiny.streams:calibration")),
    evaluation=replace(TINY.evaluation, data=Dataset("tests.tiny.streams:evaluation")),
)


@pytest.fixture
def cell(store: ArtifactStore, checkpoint_file: Path) -> Callable[[ModelSpec], Cell]:
    def of(spec: ModelSpec) -> Cell:
        checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
        return Cell(spec, CPU, target("graviton3"), checkpoint, store, lambda _line: None)

    return of


def built(cell: Cell) -> tuple[Built, Built, Built]:
    """The reference, the fp32 graph, and the int8 graph, which is calibrated."""
    reference = cell.reference.build()
    graph = cell.variants.build(onnx.MODEL, reference)
    return reference, graph, cell.variants.build(int8_static.VARIANT, graph)


def evaluated(spec: ModelSpec, evaluation: dict[str, Any]) -> ModelSpec:
    return replace(spec, evaluation=replace(spec.evaluation, **evaluation))


def test_a_stream_gives_the_numbers_that_arrays_give(cell: Callable[[ModelSpec], Cell]) -> None:
    streamed, arrays = built(cell(STREAMED)), built(cell(TINY))
    for one, other in zip(streamed, arrays, strict=True):
        assert one.verified is not None, one.failed
        assert other.verified is not None, other.failed
        assert one.verified.accuracy == other.verified.accuracy
        assert one.verified.parity == other.verified.parity
        assert one.verified.agreement == other.verified.agreement
    assert streamed[0].accuracy is not None
    assert streamed[0].accuracy.samples == EVERY


def test_a_stream_is_not_kept(cell: Callable[[ModelSpec], Cell]) -> None:
    place = cell(STREAMED)
    data = place.data.evaluation
    assert data.artifact is not None
    assert {file.path for file in data.artifact.files} == {"manifest.json", "samples.npz"}
    assert place.data.fields(data) == [
        {"name": "image", "dtype": "uint8", "shape": [8, 8, 1]},
        {"name": "label", "dtype": "int64", "shape": []},
    ]
    artifact = place.data.example().artifact
    assert artifact is not None
    example = read_arrays(place.store.checkout(artifact))
    assert example["image"].shape == (1, 1, 8, 8)


def test_fine_tuning_data_may_stream(cell: Callable[[ModelSpec], Cell]) -> None:
    spec = replace(STREAMED, finetuning=FineTuning(Dataset("tests.tiny.streams:finetuning")))
    place = cell(spec)
    assert place.data.check().facts["training_samples"] == 400
    assert place.data.saved_feeds(place.data.training).raw()["label"].shape == (400,)


def test_what_calibrates_reads_a_stream_some_samples_at_a_time(
    cell: Callable[[ModelSpec], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for spec in (TINY, STREAMED):
        place = cell(replace(spec, calibration=replace(spec.calibration, method="percentile")))
        graph = place.variants.build(onnx.MODEL, place.reference.build())
        found = []
        for variant in (float16.VARIANT, int8_static.VARIANT):
            built = place.variants.build(variant, graph)
            assert built.artifact is not None, built.failed
            found.append([file.sha256 for file in built.artifact.files])
        made[spec.name] = found
        # the inputs of 200 samples do not fit this, and are no longer taken at once
        for module in ("core.session", "core.datasets.kept"):
            monkeypatch.setattr(f"edge_assets.{module}.data_memory_bytes", lambda: 2**15)
    with pytest.raises(DataError, match="calibration data are needed at once, and take 50.00 KiB"):
        place.data.saved_feeds(place.data.calibration)()
    assert made["streamed"] == made["tiny"]


def test_labels_far_into_a_stream_are_looked_at(cell: Callable[[ModelSpec], Cell]) -> None:
    spec = evaluated(STREAMED, {"data": Dataset("tests.tiny.streams:broken")})
    with pytest.raises(DataError, match=r"labels are outside 0..9: 'label' has 0 to 10"):
        cell(spec).reference.build()


def test_parts_of_a_set_make_the_whole(cell: Callable[[ModelSpec], Cell]) -> None:
    place = cell(STREAMED)
    _, graph, _ = built(place)
    request = place.verification.request(place.verification.loadable(graph.runtime, graph.build))
    parts = [part_of(request, start, stop) for start, stop in ((0, 64), (64, 320), (320, EVERY))]
    whole = evaluate(request, parts)
    assert whole.accuracy == evaluate(request).accuracy
    assert whole.agreement is not None
    assert whole.agreement["logits"].cosine_mean == pytest.approx(1)


def test_only_the_first_samples(cell: Callable[[ModelSpec], Cell]) -> None:
    place = cell(evaluated(STREAMED, {"metrics": ("tests.tiny.streams:confidence", "f1")}))
    _, graph, _ = built(place)
    loadable = place.verification.loadable(graph.runtime, graph.build)
    found = evaluate(place.verification.request(loadable, samples=100))
    assert found.metrics is not None
    assert {entry.samples for entry in (found.accuracy, *found.metrics.values())} == {100}
    for entry in (found.accuracy, *found.metrics.values()):
        assert entry.value == pytest.approx(entry.reference, abs=1e-5)


def test_outputs_beyond_the_memory_for_data_are_not_kept_and_agreement_says_so(
    cell: Callable[[ModelSpec], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 64 * 10 * 4  # bytes of logits
    monkeypatch.setattr("edge_assets.core.verify.reference.data_memory_bytes", lambda: 3 * batch)
    place = cell(evaluated(replace(STREAMED, name="bounded"), {"metrics": ("f1",)}))
    _, graph, _ = built(place)
    assert place.reference.kept_outputs().kept == 3 * 64
    assert len(place.reference.statistics()) == EVERY
    assert graph.verified is not None, graph.failed
    assert graph.verified.agreement is not None
    assert graph.verified.agreement["logits"].samples == 3 * 64
    assert graph.verified.accuracy.samples == EVERY


def test_a_metric_that_needs_all_outputs_at_once_says_what_to_do() -> None:
    metric = Metric("tests.tiny.streams:confidence", labels="label", higher_is_better=True)
    scoring = Scoring([metric], 5000)
    part = {"logits": np.zeros((64, 10), np.float32)}, {"label": np.zeros(64, np.int64)}
    scoring.add(*part)
    with pytest.raises(DataError, match=r"Metric\('tests.tiny.streams:confidence', by_chunk=True\)"):
        scoring.add(*part)
    by_chunk = Scoring([replace(metric, by_chunk=True)], 0)
    by_chunk.add(*part)
    assert by_chunk.statistics()["confidence"] == pytest.approx(0.1)


# --- metrics -------------------------------------------------------------------------------------------


def test_one_metric_decides_and_others_are_reported_and_gate(cell: Callable[[ModelSpec], Cell]) -> None:
    metrics = (
        Metric("f1", {"average": "micro"}, max_drop=0.05),
        Metric("tests.tiny.streams:confidence", by_chunk=True),
        "cosine_retrieval",
    )
    place = cell(evaluated(STREAMED, {"metrics": metrics}))
    reference, graph, int8 = built(place)
    assert reference.verified is not None
    assert graph.verified is not None, graph.failed
    assert int8.verified is not None, int8.failed
    assert set(graph.verified.metrics or {}) == {"f1(average=micro)", "confidence", "cosine_retrieval"}
    assert graph.verified.metrics is not None
    assert graph.verified.metrics["f1(average=micro)"].value == pytest.approx(graph.verified.accuracy.value)
    numbers = graph.verified.numbers()
    assert numbers["metric_f1_average_micro"] == pytest.approx(numbers["accuracy"])
    assert numbers["metric_confidence_drop"] == pytest.approx(0, abs=1e-6)

    _, gate, *_ = gates(verified_candidate(place, int8), place.limits)
    assert gate.passed
    assert "f1(average=micro) 0.9" in gate.sentence
    assert "within the gate of 0.05" in gate.sentence
    strict = replace(place.limits, metrics={"f1(average=micro)": -0.5})
    _, gate, *_ = gates(verified_candidate(place, int8), strict)
    assert gate.passed is False
    _, gate, *_ = gates(verified_candidate(place, int8), replace(place.limits, metrics={"other": 0.1}))
    assert gate.passed is None, "missing evidence blocks"


def test_the_deciding_metric_gates_in_its_own_unit(cell: Callable[[ModelSpec], Cell]) -> None:
    deciding = Metric("tests.tiny.streams:confidence", by_chunk=True, max_drop=0.015)
    place = cell(evaluated(STREAMED, {"metric": deciding}))
    _, graph, _ = built(place)
    assert place.limits.accuracy_drop_points == pytest.approx(1.5)
    _, gate, *_ = gates(verified_candidate(place, graph), place.limits)
    assert gate.passed
    assert gate.sentence.startswith("confidence 0.")
    assert "within the gate of 0.015, on 597 samples" in gate.sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "tests.tiny.streams:constant_metric"}, "metric constant_metric says nothing: it is 1 for all 597"),
        (
            {"metric": "top1_accuracy", "metrics": (Metric("tests.tiny.streams:constant_metric", by_chunk=True),)},
            "metric constant_metric says nothing",
        ),
    ],
)
def test_a_metric_that_says_nothing_is_refused_at_the_checkpoint(
    cell: Callable[[ModelSpec], Cell], change: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        cell(evaluated(TINY, change)).reference.build()
