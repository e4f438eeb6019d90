"""Parity and accuracy of one artifact, in this process or in a converter's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_assets.core.datasets.kept import KeptStream, samples_of_a_chunk
from edge_assets.core.evidence import Accuracy, Verified
from edge_assets.core.metrics.metric import MeanMetric, OutputsMetric
from edge_assets.core.metrics.registry import measure_of
from edge_assets.core.progress import Progress, appended
from edge_assets.core.session import Feeds, Loadable, SavedFeeds, Session
from edge_assets.core.verify import accuracy, first_outputs, parity
from edge_assets.core.verify.agreement import Agreements
from edge_assets.core.verify.reference import ReferenceOutputs, statistics_names
from edge_assets.core.verify.scoring import Scoring, metrics_of
from edge_assets.core.verify.sizes import SavedSizes
from edge_assets.errors import DataError
from edge_assets.later import np
from edge_assets.settings import data_memory_bytes
from edge_assets.spec.model import PARITY_SAMPLES, Evaluation, Metric


@dataclass(frozen=True)
class VerificationRequest:
    """What is verified, on what, against what. Picklable."""

    loadable: Loadable
    threads: int
    data: SavedFeeds  # the evaluation data, raw and as inputs
    reference: Path  # .npz of PyTorch eager's outputs and scores for it
    evaluation: Evaluation
    sizes: SavedSizes | None = None  # samples in other sizes; None: the artifact or the model takes one alone
    samples: int | None = None  # only the first of them, where the target is emulated here; None: all
    report: Path | None = None  # to which a child process appends how far it is
    first_outputs: Path | None = None  # to which the outputs of the first samples are written

    @property
    def every(self) -> int:
        """How many samples are evaluated."""
        samples = self.data.kept.samples
        return min(samples, self.samples or samples)

    @property
    def outputs(self) -> ReferenceOutputs:
        """The reference's."""
        return ReferenceOutputs(self.reference, tuple(self.loadable.options["outputs"]))


@dataclass
class Part:
    """What was computed of some samples of the evaluation set. Picklable."""

    scoring: Scoring
    agreements: Agreements = field(default_factory=Agreements)

    def extend(self, other: Part) -> None:
        """The samples that follow."""
        self.scoring.extend(other.scoring)
        self.agreements.extend(other.agreements)


def part_of(request: VerificationRequest, start: int, stop: int) -> Part:
    """A part of the evaluation set, by a runtime with one thread. Raises Refused as `evaluate`."""
    with request.loadable.opened(threads=1) as session:
        return _evaluated(request, session, start, stop, None if start else _log(request))


def evaluate(
    request: VerificationRequest,
    parts: Sequence[Part] | None = None,
    log: Callable[[str], None] | None = None,
) -> Verified:
    """Parity, agreement and accuracy; `parts` are those of the whole set, in order, where they are there already.

    Raises Refused if the runtime cannot run this artifact, naming what it lacks.
    """
    with request.loadable.opened(request.threads) as session:
        if parts is None:
            parts = [_evaluated(request, session, 0, request.every, log or _log(request))]
        first = request.outputs.rows(0, PARITY_SAMPLES)
        resized = request.sizes.read() if request.sizes else ()
        measured = parity.measure(session, request.data.first(PARITY_SAMPLES), first, resized)
    whole = parts[0]
    for part in parts[1:]:
        whole.extend(part)
    compared = None  # all of them
    if request.outputs.kept < request.every:
        compared = request.outputs.kept
    found = _accuracies(request, whole.scoring)
    deciding, *others = metrics_of(request.evaluation)
    beside = {metric.label: found[metric.label] for metric in others}
    return Verified(
        parity=measured,
        agreement=whole.agreements.results(compared),
        accuracy=found[deciding.label],
        metrics=beside or None,
        weight_bytes=request.loadable.weight_bytes(),
    )


def run(session: Session, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs of some samples, in batches of at most 64, and fewer where their inputs are large."""
    size = sum(array.nbytes // len(array) for array in feeds.values())
    return accuracy.run_all(session, feeds, samples_of_a_chunk(size))


def most_output_bytes(data: SavedFeeds) -> int | None:
    """How much of outputs may be held for a metric that sees all of them: without bound where the data are arrays."""
    if isinstance(data.kept, KeptStream):
        return data_memory_bytes()
    return None


def _log(request: VerificationRequest) -> Callable[[str], None] | None:
    if request.report is None:
        return None
    return appended(request.report)


def _evaluated(
    request: VerificationRequest,
    session: Session,
    start: int,
    stop: int,
    log: Callable[[str], None] | None,
) -> Part:
    metrics = metrics_of(request.evaluation)
    part = Part(Scoring(metrics, most_output_bytes(request.data)))
    reference = request.outputs
    progress = None
    if log is not None:
        progress = Progress("evaluating", stop - start, log)
    for batch, feeds in request.data.batches(start, stop):
        outputs = run(session, feeds)
        if request.first_outputs and batch.start == 0:
            first_outputs.save(outputs, request.first_outputs)
        part.scoring.add(outputs, batch.raw)
        kept = min(batch.stop, reference.kept)
        compared = kept - batch.start
        if compared > 0:
            few = {name: array[:compared] for name, array in outputs.items()}
            part.agreements.add(reference.rows(batch.start, kept), few)
        if progress:
            progress.at(batch.stop - start)
    return part


def _accuracies(request: VerificationRequest, scoring: Scoring) -> dict[str, Accuracy]:
    """The value of each metric and its drop, by its label."""
    metrics = metrics_of(request.evaluation)
    references = _reference_statistics(request, metrics)
    by_label = {metric.label: metric for metric in metrics}
    found = {}
    for label, statistics in scoring.statistics().items():
        metric = by_label[label]
        assert metric.higher_is_better is not None
        found[label] = accuracy.against(
            measure_of(metric),
            statistics,
            references[label],
            metric.higher_is_better,
        )
    return found


def _reference_statistics(request: VerificationRequest, metrics: Sequence[Metric]) -> dict[str, np.ndarray]:
    """What the metrics keep of the reference on the samples that are evaluated."""
    names = statistics_names(metrics, request.outputs.outputs)
    found = {}
    for metric in metrics:
        statistics = request.outputs.statistics(names[metric.label])
        found[metric.label] = statistics[: request.every]
    again = [metric for metric in metrics if request.samples and _depends_on_the_set(metric)]
    if again:
        found |= _scored_again(request, again)
    return found


def _depends_on_the_set(metric: Metric) -> bool:
    """Whether the score of a sample depends on which others there are, such as in a search among them."""
    measure = measure_of(metric)
    if isinstance(measure, MeanMetric):
        return measure.finish is not None
    return isinstance(measure, OutputsMetric)


def _scored_again(request: VerificationRequest, metrics: Sequence[Metric]) -> dict[str, np.ndarray]:
    """The reference's scores where only the first samples are evaluated."""
    if request.outputs.kept < request.every:
        names = ", ".join(metric.label for metric in metrics)
        raise DataError(
            f"metric {names} depends on the whole set, of which {request.every} samples are evaluated here, and "
            f"outputs of {request.outputs.kept} are kept: raise EDGE_ASSETS_DATA_MEMORY, and build the checkpoint anew"
        )
    scoring = Scoring(metrics, None)
    for batch in request.data.kept.batches(0, request.every):
        scoring.add(request.outputs.rows(batch.start, batch.stop), batch.raw)
    return scoring.statistics()
