"""Gates, and exactly one winner per target, with a verdict and one sentence for every loser.

The objective is the median latency at batch 1 where it was measured on the target's own hardware, else the
size; which one is part of the verdict. Missing evidence blocks: a variant nobody verified cannot win.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edge_assets.core.evidence import Accuracy, Gate, GateName, Latency, Memory, Parity, Provenance, Verdict
from edge_assets.core.sizes import readable_ms, readable_size
from edge_assets.core.verify import parity
from edge_assets.spec.tiers import Tier, suffices

FAILED: Mapping[GateName, Verdict] = {
    "parity": "failed_parity",
    "accuracy": "failed_accuracy",
    "size": "failed_size",
    "memory": "failed_memory",
}  # in the order in which gates decide
# Latencies or sizes closer than this are equal; then the smaller artifact wins, or, among equal sizes, the one that
# drops least, then the one whose runtime needs less memory.
TIE = 0.02
SIZE_TIE_BYTES = 1024  # no device stores less at a time: a page of flash has at least as much
NOT_MEASURED = "not measured: no device attached"


@dataclass(frozen=True)
class Limits:
    """What a release must keep: the tighter of the model's gates and the target's budgets. Bytes and points."""

    accuracy_drop_points: float
    size_bytes: int
    memory_bytes: int
    cosine: float | None = None  # least mean cosine of the first output with fp32's; None: no such gate
    own_unit: str | None = None  # the deciding metric, where its gate is given in its own unit; None: in points
    metric: str | None = None  # the deciding metric, where it is not accuracy
    # largest drops of metrics beside the deciding one, by label, in the metric's own unit; None: it is only reported
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    evidence: Tier | None = None  # the least tier of parity and accuracy; None: the best that there is


@dataclass(frozen=True)
class Candidate:
    """One variant and everything known about it that counts."""

    name: str
    format: str
    precision: str
    recipe: str  # the scheme's name
    sha256: str | None
    size_bytes: int | None
    blocked: tuple[Verdict, str] | None  # why no gate is asked: it failed, is refused, unavailable or unverified
    parity: Parity | None
    accuracy: Accuracy | None
    metrics: Mapping[str, Accuracy] = field(default_factory=dict)  # beside the deciding one, by label
    memory: Memory | None = None
    latency: Latency | None = None  # at batch 1, measured on the target's own hardware
    cosine_mean: float | None = None  # of the first output with fp32's, over the evaluation samples
    is_baseline: bool = False
    # by gate, how its evidence is known; a gate that is not here has none
    tiers: Mapping[GateName, Tier] = field(default_factory=dict)
    parts: Sequence[tuple[Provenance, Accuracy]] = ()  # of better tiers that saw a part of the evaluation set


@dataclass(frozen=True)
class Judged:
    """A candidate's verdict, the sentence that explains it, and its gates."""

    candidate: Candidate
    verdict: Verdict
    reason: str
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class Contest:
    """Those that passed every gate, and what their winner is chosen by."""

    passing: Sequence[Candidate]
    baseline: Candidate | None
    not_measured: str  # why nothing was timed, where nothing was
    limits: Limits

    @property
    def is_timed(self) -> bool:
        """Whether latency decides: it was measured of all of them."""
        return all(candidate.latency for candidate in self.passing)

    def winner(self) -> Candidate:
        """The fastest where all were timed, else the smallest."""
        if self.is_timed:
            return _fastest(self.passing)
        return _smallest(self.passing)


def judge(candidates: Sequence[Candidate], limits: Limits, not_measured: str = NOT_MEASURED) -> list[Judged]:
    """A verdict for each candidate, in order; at most one is `released`. `not_measured` says why nothing was timed."""
    judged = [_gated(candidate, limits) for candidate in candidates]
    passing = [entry.candidate for entry in judged if entry.verdict == "not_selected"]
    if not passing:
        return judged
    baseline = next((candidate for candidate in candidates if candidate.is_baseline), None)
    contest = Contest(passing, baseline, not_measured, limits)
    winner = contest.winner()
    ranked = []
    for entry in judged:
        if entry.verdict == "not_selected":
            verdict, reason = _rank(entry.candidate, winner, contest)
            ranked.append(replace(entry, verdict=verdict, reason=reason))
        else:
            ranked.append(entry)
    return ranked


def closest(judged: Sequence[Judged]) -> str:
    """What came nearest to a release: the candidate that failed latest in the order of the gates."""
    order = ["missing_evidence", *FAILED.values()]
    failed = [entry for entry in judged if entry.verdict in order]
    if not failed:
        return "none could be judged. " + "; ".join(_blocked_ones(judged))

    def nearness(entry: Judged) -> tuple[int, float]:
        accuracy = entry.candidate.accuracy
        drop = accuracy.drop_points if accuracy else float("inf")
        return order.index(entry.verdict), -drop

    best = max(failed, key=nearness)
    return f"{best.candidate.name} came closest: {best.reason}"


def _blocked_ones(judged: Sequence[Judged]) -> Iterator[str]:
    """Why no gate was asked of any, those with the same reason together, each reason by its first line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in judged:
        if entry.candidate.blocked:
            reason = entry.reason.partition("\n")[0]
            groups.setdefault((entry.verdict, reason), []).append(entry.candidate.name)
    for (verdict, reason), names in groups.items():
        verb = "is" if len(names) == 1 else "are"
        yield f"{', '.join(names)} {verb} {verdict}: {reason}"


def gates(candidate: Candidate, limits: Limits) -> tuple[Gate, ...]:
    """The four gates of one candidate, in the order in which they decide."""
    return (
        _parity_gate(candidate),
        _accuracy_gate(candidate, limits),
        _size_gate(candidate, limits),
        _memory_gate(candidate, limits),
    )


def _gated(candidate: Candidate, limits: Limits) -> Judged:
    if candidate.is_baseline:
        trouble = f"; {candidate.blocked[1]}" if candidate.blocked else ""
        return Judged(candidate, "baseline", f"PyTorch eager in fp32: what every variant is compared with{trouble}")
    if candidate.blocked:
        verdict, reason = candidate.blocked
        return Judged(candidate, verdict, reason)
    outcomes = gates(candidate, limits)
    weak = _too_weak(outcomes, limits.evidence)
    if weak:
        return Judged(candidate, "missing_evidence", weak, outcomes)
    missing = [gate.name for gate in outcomes if gate.passed is None]
    if missing:
        reason = f"no evidence for {', '.join(missing)}, and missing evidence blocks a release"
        return Judged(candidate, "missing_evidence", reason, outcomes)
    for gate in outcomes:
        if not gate.passed:
            return Judged(candidate, FAILED[gate.name], gate.sentence, outcomes)
    return Judged(candidate, "not_selected", "", outcomes)


def _parity_gate(candidate: Candidate) -> Gate:
    if candidate.parity is None:
        return Gate("parity", None, "not verified against PyTorch")
    passed, sentence = parity.verdict(candidate.parity, candidate.precision)
    return Gate("parity", passed, sentence, tier=candidate.tiers.get("parity"))


def _accuracy_gate(candidate: Candidate, limits: Limits) -> Gate:
    accuracy = candidate.accuracy
    if accuracy is None:
        return Gate("accuracy", None, "not evaluated")
    passed, sentence = _drop_sentence(accuracy, limits)
    outcomes = [passed]
    for label, most in limits.metrics.items():
        if most is None:
            continue
        other = candidate.metrics.get(label)
        if other is None:
            return Gate("accuracy", None, f"{sentence}; {label} not evaluated")
        is_within, own_sentence = _own_unit(other, label, 100 * most)
        outcomes.append(is_within)
        sentence += f"; {own_sentence}"
    for provenance, part in candidate.parts:
        is_no_worse, own_sentence = _part_sentence(provenance, part, limits)
        outcomes.append(is_no_worse)
        sentence += f"; {own_sentence}"
    tier = candidate.tiers.get("accuracy")
    if limits.cosine is None:
        return Gate("accuracy", all(outcomes), sentence, tier=tier)
    cosine = candidate.cosine_mean
    if cosine is None:
        return Gate("accuracy", None, f"{sentence}; mean cosine with fp32 not known", tier=tier)
    comparison = "at least" if cosine >= limits.cosine else "below"
    sentence += f"; mean cosine with fp32 {cosine:.4f}, {comparison} {limits.cosine:g}"
    return Gate("accuracy", all(outcomes) and cosine >= limits.cosine, sentence, tier=tier)


def _drop_sentence(accuracy: Accuracy, limits: Limits) -> tuple[bool, str]:
    """Whether the deciding metric is within its gate, and the sentence that says so."""
    limit = limits.accuracy_drop_points
    if limits.own_unit:
        passed, sentence = _own_unit(accuracy, limits.own_unit, limit)
        return passed, f"{sentence}, on {accuracy.samples} samples"
    passed = accuracy.drop_points <= limit
    low, high = accuracy.drop_interval_points
    name = f"{limits.metric} " if limits.metric else ""
    sentence = (
        f"{name}drops {accuracy.drop_points:.2f} points ({low:.2f} to {high:.2f}) on {accuracy.samples} samples, "
        f"{_within(passed)} the gate of {limit:.2f}"
    )
    return passed, sentence


def _own_unit(accuracy: Accuracy, label: str, limit_points: float) -> tuple[bool, str]:
    """The same of a metric whose gate is in its own unit."""
    passed = accuracy.drop_points <= limit_points
    low, high = accuracy.drop_interval
    sentence = (
        f"{label} {accuracy.value:.4g} is worse by {accuracy.drop:.4g} ({low:.4g} to {high:.4g}), "
        f"{_within(passed)} the gate of {limit_points / 100:g}"
    )
    return passed, sentence


def _part_sentence(provenance: Provenance, part: Accuracy, limits: Limits) -> tuple[bool, str]:
    """Whether a part of the set does not show a drop over the gate, and the sentence: few samples prove little."""
    low, high = part.drop_interval_points
    limit = limits.accuracy_drop_points
    unit, scale = "points", 1.0
    if limits.own_unit:
        unit, scale = limits.own_unit, 0.01
    passed = low <= limit
    sentence = (
        f"on {provenance.by} ({provenance.tier}) {scale * part.drop_points:.4g} {unit} "
        f"({scale * low:.4g} to {scale * high:.4g}) on {part.samples} samples"
    )
    if not passed:
        sentence += ", which is over the gate"
    return passed, sentence


def _too_weak(outcomes: Sequence[Gate], demanded: Tier | None) -> str | None:
    """Why evidence of parity or accuracy does not count, where a better tier is demanded.

    Memory has a tier too, which is at most `host` where no device is at hand, whatever computed the outputs.
    """
    weak = []
    for gate in outcomes:
        if gate.name in ("parity", "accuracy") and gate.tier is not None and not suffices(gate.tier, demanded):
            weak.append(f"{gate.name} is known by tier {gate.tier}")
    if not weak:
        return None
    return f"evidence of tier {demanded} is demanded, and {', '.join(weak)}"


def _size_gate(candidate: Candidate, limits: Limits) -> Gate:
    if candidate.size_bytes is None:
        return Gate("size", None, "size not measured")
    passed = candidate.size_bytes <= limits.size_bytes
    budget = f"{_within(passed)} the budget of {readable_size(limits.size_bytes)}"
    return Gate("size", passed, f"size {readable_size(candidate.size_bytes)}, {budget}")


def _memory_gate(candidate: Candidate, limits: Limits) -> Gate:
    memory = candidate.memory
    if memory is None:
        return Gate("memory", None, "memory not measured")
    passed = memory.bytes <= limits.memory_bytes
    budget = f"{_within(passed)} the budget of {readable_size(limits.memory_bytes)}"
    sentence = f"peak memory {readable_size(memory.bytes)} {memory.how}, {budget}"
    return Gate("memory", passed, sentence, memory.how, tier=candidate.tiers.get("memory"))


def _within(passed: bool) -> Literal["within", "over"]:
    return "within" if passed else "over"


def _p50(candidate: Candidate) -> float:
    assert candidate.latency is not None
    return candidate.latency.typical


def _size(candidate: Candidate) -> int:
    assert candidate.size_bytes is not None
    return candidate.size_bytes


def _drop(candidate: Candidate) -> float:
    assert candidate.accuracy is not None
    return candidate.accuracy.drop_points


def _memory(candidate: Candidate) -> int:
    return candidate.memory.bytes if candidate.memory else 0


def _fastest(passing: Sequence[Candidate]) -> Candidate:
    best = min(_p50(candidate) for candidate in passing)
    equal = [candidate for candidate in passing if _p50(candidate) <= best * (1 + TIE)]
    return min(equal, key=lambda candidate: (_size(candidate), _p50(candidate)))


def _smallest(passing: Sequence[Candidate]) -> Candidate:
    best = min(_size(candidate) for candidate in passing)
    equal = [candidate for candidate in passing if _size(candidate) <= _largest_equal(best)]
    return min(equal, key=lambda candidate: (_drop(candidate), _memory(candidate), _size(candidate)))


def _largest_equal(size: int) -> float:
    """The largest size that counts as equal to `size`, in bytes."""
    return max(size * (1 + TIE), size + SIZE_TIE_BYTES)


def _rank(candidate: Candidate, winner: Candidate, contest: Contest) -> tuple[Verdict, str]:
    """The verdict on one that passed every gate, and why."""
    timed, baseline = contest.is_timed, contest.baseline
    if candidate is winner:
        return "released", _why_it_won(winner, contest)
    if timed and baseline and baseline.latency and _p50(candidate) > _p50(baseline):
        times = f"P50 {readable_ms(_p50(candidate))}, PyTorch eager {readable_ms(_p50(baseline))}"
        return "slower_than_baseline", times + _smaller(candidate, winner)
    rivals = [winner, *(rival for rival in contest.passing if rival is not winner)]
    for rival in rivals:
        if _dominates(rival, candidate, timed):
            return "dominated", f"{rival.name} is {_versus(rival, candidate, contest)}"
    return "not_selected", _why_it_lost(candidate, winner, contest)


def _dominates(rival: Candidate, candidate: Candidate, timed: bool) -> bool:
    if rival is candidate:
        return False
    mine, theirs = _counts(candidate, timed), _counts(rival, timed)
    no_worse = all(a <= b for a, b in zip(theirs, mine, strict=True))
    return no_worse and theirs != mine


def _counts(candidate: Candidate, timed: bool) -> list[float]:
    """What counts, the less the better: bytes, points, and ms where it was timed."""
    counts = [float(_size(candidate)), _drop(candidate)]
    return [*counts, _p50(candidate)] if timed else counts


def _why_it_won(winner: Candidate, contest: Contest) -> str:
    rank = _rank_in_words(winner, contest)
    if not contest.is_timed:
        return f"{rank}: {readable_size(_size(winner))}; latency {contest.not_measured}"
    text = f"{rank}: P50 {readable_ms(_p50(winner))} at batch 1, measured on the target's hardware{_disturbed(contest)}"
    if contest.baseline is None or contest.baseline.latency is None:
        return text
    ratio = _p50(contest.baseline) / _p50(winner)
    if ratio < 1:
        return f"{text}, slower than PyTorch eager"
    return f"{text}, {ratio:.1f} times as fast as PyTorch eager"


def _rank_in_words(winner: Candidate, contest: Contest) -> str:
    """What the winner is among those that passed, also where another is ahead by too little to count."""
    if len(contest.passing) == 1:
        return "the only variant that passed every gate"
    those = f"of {len(contest.passing)} variants that passed every gate"
    if contest.is_timed:
        first = min(contest.passing, key=_p50)
        if _p50(first) == _p50(winner):
            return f"fastest {those}"
        return (
            f"within {100 * TIE:.0f} % of the fastest, {first.name} with {readable_ms(_p50(first))}, and the smallest "
            f"so near to it, {those}"
        )
    first = min(contest.passing, key=_size)
    if _size(first) == _size(winner):
        return f"smallest {those}"
    better = "drops less"
    if _drop(first) == _drop(winner):
        better = "its runtime needs less memory"
    return f"about as small as {first.name}, and {better}, {those}"


def _disturbed(contest: Contest) -> str:
    """That others took part in the timing of some, in words; empty where nobody did."""
    surroundings = [candidate.latency.surroundings for candidate in contest.passing if candidate.latency]
    disturbed = [found for found in surroundings if found and found.disturbed]
    if not disturbed:
        return ""
    return f" while something else ran on it, so that no time is certain ({disturbed[0].said})"


def _why_it_lost(candidate: Candidate, winner: Candidate, contest: Contest) -> str:
    numbers = f"{_numbers(candidate, contest)} against {_numbers(winner, contest)}"
    if contest.is_timed:
        if _p50(candidate) > _p50(winner) * (1 + TIE):
            return f"slower than {winner.name}: {numbers}{_smaller(candidate, winner)}"
        return f"no faster than {winner.name} by more than {100 * TIE:.0f} %, and larger: {numbers}"
    if _size(candidate) > _largest_equal(_size(winner)):
        return f"larger than {winner.name}: {numbers}"
    worse = "drops more"
    if _drop(candidate) == _drop(winner):
        worse = "its runtime needs more memory"
    return f"about as small as {winner.name}, and {worse}: {numbers}"


def _versus(better: Candidate, worse: Candidate, contest: Contest) -> str:
    numbers = f"{_numbers(better, contest)} against {_numbers(worse, contest)}"
    return f"no worse on any count, better on one: {numbers}"


def _numbers(candidate: Candidate, contest: Contest) -> str:
    latency = f"{readable_ms(_p50(candidate))}, " if contest.is_timed else ""
    return f"{latency}{readable_size(_size(candidate))}, {_drop_in_words(candidate, contest.limits)}"


def _drop_in_words(candidate: Candidate, limits: Limits) -> str:
    """In points, or, where the gate is in the metric's own unit, in that."""
    if limits.own_unit:
        return f"{limits.own_unit} worse by {_drop(candidate) / 100:.4g}"
    name = f"{limits.metric} " if limits.metric else ""
    return f"{name}drop {_drop(candidate):.2f} points"


def _smaller(candidate: Candidate, winner: Candidate) -> str:
    ratio = _size(candidate) / _size(winner)
    return f"; it is smaller ({ratio:.2f} of {winner.name}'s size) but slower" if ratio < 1 else ""
