"""Agreement of outputs with the reference's, summed up over samples that come some at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_assets.core.evidence import Agreement
from edge_assets.core.verify.parity import snr_db
from edge_assets.later import np


@dataclass
class OutputAgreement:
    """Of one output: cosines per sample, and what the signal-to-noise ratio is made of."""

    cosines: list[np.ndarray] = field(default_factory=list)
    signal: float = 0.0
    noise: float = 0.0
    is_comparable: bool = True

    def add(self, reference: np.ndarray, output: np.ndarray) -> None:
        """The next samples, [n, ...] of both."""
        ref = reference.astype(np.float64).reshape(len(reference), -1)
        out = output.astype(np.float64).reshape(len(output), -1)
        if ref.shape != out.shape or not np.isfinite(out).all():
            self.is_comparable = False
            return
        norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(out, axis=1)
        products = (ref * out).sum(axis=1)
        has_direction = norms > 0
        cosines = products / np.where(has_direction, norms, 1)
        equal = (ref == out).all(axis=1)
        self.cosines.append(np.where(has_direction, cosines, equal))
        self.signal += float(np.square(ref).sum())
        self.noise += float(np.square(ref - out).sum())

    def extend(self, other: OutputAgreement) -> None:
        """The samples of the next part of the set."""
        self.cosines.extend(other.cosines)
        self.signal += other.signal
        self.noise += other.noise
        self.is_comparable = self.is_comparable and other.is_comparable

    def result(self, samples: int | None) -> Agreement:
        """Mean and least cosine per sample, and SNR; `samples` says of how many, where not of all."""
        if not self.is_comparable or not self.cosines:
            return Agreement(cosine_mean=None, cosine_min=None, snr_db=None, samples=samples)
        cosines = np.concatenate(self.cosines)
        return Agreement(
            cosine_mean=float(cosines.mean()),
            cosine_min=float(cosines.min()),
            snr_db=snr_db(self.signal, self.noise),
            samples=samples,
        )


@dataclass
class Agreements:
    """Of every output. Picklable, as parts of a set are."""

    by_output: dict[str, OutputAgreement] = field(default_factory=dict)

    def add(self, reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """The next samples."""
        for name, array in reference.items():
            agreement = self.by_output.setdefault(name, OutputAgreement())
            agreement.add(array, outputs[name])

    def extend(self, other: Agreements) -> None:
        """The samples of the next part of the set."""
        for name, following in other.by_output.items():
            agreement = self.by_output.setdefault(name, OutputAgreement())
            agreement.extend(following)

    def results(self, samples: int | None) -> dict[str, Agreement]:
        return {name: agreement.result(samples) for name, agreement in self.by_output.items()}
