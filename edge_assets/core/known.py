"""Which of several tiers' evidence counts, and where they contradict each other.

Parity is of the same few samples in every tier, so the best tier's counts, and of its instruction sets the worst.
Accuracy is of the best tier that saw the whole evaluation set. What saw a part of it, as an emulated instruction set
does, decides too: a drop of one sample in fifty is no evidence of two points, but one whose whole interval is over the
gate is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edge_assets.core.evidence import Accuracy, Observation, Observed, Parity, Provenance, Verified
from edge_assets.core.verify import parity
from edge_assets.spec.tiers import TIERS, Tier, best


@dataclass(frozen=True)
class Known:
    """What is known of one artifact: from its verification, and from devices and emulated instruction sets."""

    verified: Verified
    provenance: Provenance  # of `verified`
    observed: Sequence[Observed] = ()

    @cached_property
    def tiers(self) -> list[tuple[Provenance, Verified]]:
        """All evidence, the best tier first; within a tier in the order in which it came."""
        found: list[tuple[Provenance, Verified]] = [(self.provenance, self.verified)]
        for one in self.observed:
            found.append((Provenance(one.tier, one.by), one))
        return sorted(found, key=lambda entry: TIERS.index(entry[0].tier))

    @property
    def parity(self) -> tuple[Provenance, Parity]:
        """The best tier's, and of several of that tier the worst."""
        tier = self.tiers[0][0].tier
        same = [(provenance, found.parity) for provenance, found in self.tiers if provenance.tier == tier]
        return min(same, key=lambda entry: _snr(entry[1]))

    @cached_property
    def whole(self) -> tuple[Provenance, Verified]:
        """The best tier that saw as many samples as the verification, and of several the one that drops most."""
        samples = self.verified.accuracy.samples
        complete = [entry for entry in self.tiers if entry[1].accuracy.samples >= samples]
        tier = best(provenance.tier for provenance, _ in complete)
        same = [entry for entry in complete if entry[0].tier == tier]
        return max(same, key=lambda entry: entry[1].accuracy.drop_points)

    @property
    def counting(self) -> Verified:
        """The accuracy of the whole set and the parity that count, as one."""
        _, verified = self.whole
        return replace(verified, parity=self.parity[1])

    @property
    def parts(self) -> list[tuple[Provenance, Accuracy]]:
        """Of devices and instruction sets that saw fewer samples, and whose tier is better than the whole set's."""
        whole, _ = self.whole
        found = []
        for provenance, one in self.tiers:
            saw_fewer = one.accuracy.samples < self.verified.accuracy.samples
            if saw_fewer and TIERS.index(provenance.tier) < TIERS.index(whole.tier):
                found.append((provenance, one.accuracy))
        return found

    @property
    def accuracy_tier(self) -> Tier:
        """The best that took part in the accuracy."""
        return best([self.whole[0].tier, *(provenance.tier for provenance, _ in self.parts)])

    def observations(self) -> tuple[Observation, ...] | None:
        """Every tier's own numbers, where there is more than the verification."""
        if not self.observed:
            return None
        rows = []
        for provenance, one in self.tiers:
            rows.append(
                Observation(
                    tier=provenance.tier,
                    by=provenance.by,
                    device=one.device if isinstance(one, Observed) else None,
                    samples=one.accuracy.samples,
                    accuracy=one.accuracy.value,
                    accuracy_drop_points=one.accuracy.drop_points,
                    accuracy_drop_interval_points=one.accuracy.drop_interval_points,
                    parity_snr_db=one.parity.snr_db,
                    latency_p50_ms=_p50(one),
                    footprint=one.footprint if isinstance(one, Observed) else None,
                )
            )
        return tuple(rows)

    def findings(self, precision: str) -> tuple[str, ...] | None:
        """Tiers that contradict each other: in whether parity is kept, or with drops whose intervals do not meet."""
        found = []
        for provenance, one in self.tiers:
            if one is self.verified:
                continue
            found += _contradictions((self.provenance, self.verified), (provenance, one), precision)
        return tuple(found) or None


def _contradictions(
    ours: tuple[Provenance, Verified], theirs: tuple[Provenance, Verified], precision: str
) -> list[str]:
    (our_origin, our), (their_origin, their) = ours, theirs
    where = f"{their_origin.by} ({their_origin.tier}) contradicts {our_origin.by} ({our_origin.tier})"
    found = []
    passes, our_sentence = parity.verdict(our.parity, precision)
    passes_there, their_sentence = parity.verdict(their.parity, precision)
    if passes != passes_there:
        found.append(f"{where} in parity: {their_sentence}; {our_sentence}")
    low, high = our.accuracy.drop_interval_points
    their_low, their_high = their.accuracy.drop_interval_points
    if their_low > high or their_high < low:
        found.append(
            f"{where} in accuracy: drops {their.accuracy.drop_points:.2f} points ({their_low:.2f} to {their_high:.2f}) "
            f"on {their.accuracy.samples} samples; {our.accuracy.drop_points:.2f} ({low:.2f} to {high:.2f}) on "
            f"{our.accuracy.samples}"
        )
    return found


def _p50(found: Verified) -> float | None:
    """The median at batch 1 of who was timed when it verified, as browsers are."""
    if not isinstance(found, Observed) or found.timed is None or "1" not in found.timed.latency_ms:
        return None
    return found.timed.latency_ms["1"].p50


def _snr(found: Parity) -> float:
    """None, of what is not finite, is the worst."""
    return float("-inf") if found.snr_db is None else found.snr_db
