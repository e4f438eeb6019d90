"""Parity and accuracy of one artifact, in this process or in a converter's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_assets.core.data import read_arrays
from edge_assets.core.evidence import Verified
from edge_assets.core.session import Feeds, Loadable, SavedFeeds
from edge_assets.core.verify import accuracy, parity
from edge_assets.core.verify.sizes import SavedSizes
from edge_assets.spec.model import PARITY_SAMPLES


@dataclass(frozen=True)
class VerificationRequest:
    """What is verified, on what, against what. Picklable."""

    loadable: Loadable
    threads: int
    evaluation: Path  # .npz of the raw evaluation data
    feeds: SavedFeeds  # the same, preprocessed
    reference: Path  # .npz of PyTorch eager's outputs and scores for it
    metric: str
    labels: str
    higher_is_better: bool
    sizes: SavedSizes | None = None  # samples in other sizes; None: the artifact or the model takes one alone
    samples: int | None = None  # only the first of them, where the target is emulated here; None: all


def outputs_of(request: VerificationRequest, part: slice) -> Feeds:
    """Outputs for a part of the evaluation set, by a runtime with one thread. Raises Refused as `evaluate`."""
    feeds = {name: array[part] for name, array in _first(request.feeds(), request.samples).items()}
    with request.loadable.opened(threads=1) as session:
        return accuracy.run_all(session, feeds)


def evaluate(request: VerificationRequest, outputs: Feeds | None = None) -> Verified:
    """Parity, agreement and accuracy; `outputs` are those for the whole set where they are there already.

    Raises Refused if the runtime cannot run this artifact, naming what it lacks.
    """
    with request.loadable.opened(request.threads) as session:
        feeds = _first(request.feeds(), request.samples)
        expected = _first(read_arrays(request.reference), request.samples)
        labels = read_arrays(request.evaluation)[request.labels][: request.samples]
        scores = expected.pop(accuracy.scores_name(request.loadable.options["outputs"]))
        if request.samples:  # a metric such as retrieval depends on which samples there are
            scores = accuracy.score(request.metric, expected, labels)
        if outputs is None:
            outputs = accuracy.run_all(session, feeds)
        measured = accuracy.score(request.metric, outputs, labels)
        resized = request.sizes.read() if request.sizes else ()
        return Verified(
            parity=parity.measure(session, feeds, _first(expected, PARITY_SAMPLES), resized),
            agreement={name: parity.agreement(array, outputs[name]) for name, array in expected.items()},
            accuracy=accuracy.compare(measured, scores, request.higher_is_better),
        )


def _first(feeds: Feeds, count: int | None) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in feeds.items()}
