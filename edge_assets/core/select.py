"""Gates, and exactly one winner per target, with a verdict and one sentence for every loser.

The objective is the median latency at batch 1 where it was measured on the target's own hardware, else the
size; which one is part of the verdict. Missing evidence blocks: a variant nobody verified cannot win.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edge_assets.core.verify import parity

Verdict = Literal[
    "released",
    "baseline",
    "failed",
    "refused",
    "unavailable",
    "unverified",
    "missing_evidence",
    "failed_parity",
    "failed_accuracy",
    "failed_size",
    "failed_memory",
    "slower_than_baseline",
    "dominated",
    "not_selected",
]
# Latencies or sizes closer than this are equal; then the smaller artifact wins, or, among equal sizes, the one
# whose runtime needs less memory.
TIE = 0.02
NOT_MEASURED = "not measured: no device attached"


@dataclass(frozen=True)
class Limits:
    """What a release must keep: the tighter of the model's gates and the target's budgets. Bytes and points."""

    accuracy_drop_points: float
    size_bytes: int
    memory_bytes: int
    cosine: float | None = None  # least mean cosine of the first output with fp32's; None: no such gate


@dataclass(frozen=True)
class Gate:
    """One gate's outcome. `passed` is None where its evidence is missing."""

    name: Literal["parity", "accuracy", "size", "memory"]
    passed: bool | None
    sentence: str
    how: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One variant and everything known about it. Times are in ms at batch 1, sizes in bytes."""

    name: str
    format: str
    precision: str
    recipe: str
    sha256: str | None
    size_bytes: int | None
    blocked: tuple[Verdict, str] | None  # why no gate is asked: it failed, is refused, unavailable or unverified
    parity: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    peak_memory_bytes: int | None
    latency_ms: Mapping[str, Any] | None  # measured on the target's own hardware, else None
    cosine_mean: float | None = None  # of the first output with fp32's, over the evaluation samples
    memory_how: str = ""  # "measured on ..." or "estimated: ...", for the memory gate's evidence
    is_baseline: bool = False


@dataclass(frozen=True)
class Judged:
    """A candidate's verdict, the sentence that explains it, and its gates."""

    candidate: Candidate
    verdict: Verdict
    reason: str
    gates: tuple[Gate, ...] = ()

    def evidence(self) -> list[dict[str, Any]]:
        """The gates as JSON."""
        return [asdict(gate) for gate in self.gates]


def judge(candidates: Sequence[Candidate], limits: Limits, not_measured: str = NOT_MEASURED) -> list[Judged]:
    """A verdict for each candidate, in order; at most one is `released`. `not_measured` says why nothing was timed."""
    judged = [_gated(candidate, limits) for candidate in candidates]
    passing = [entry.candidate for entry in judged if entry.verdict == "not_selected"]
    if not passing:
        return judged
    timed = all(candidate.latency_ms for candidate in passing)
    winner = _fastest(passing) if timed else _smallest(passing)
    baseline = next((c for c in candidates if c.is_baseline), None)
    return [
        _ranked(entry, winner, passing, baseline, timed, not_measured) if entry.verdict == "not_selected" else entry
        for entry in judged
    ]


def closest(judged: Sequence[Judged]) -> str:
    """What came nearest to a release: the candidate that failed latest in the order of the gates."""
    order = ["missing_evidence", "failed_parity", "failed_accuracy", "failed_size", "failed_memory"]
    failed = [entry for entry in judged if entry.verdict in order]
    if not failed:
        return "none could be judged. " + "; ".join(_blocked_ones(judged))

    def nearness(entry: Judged) -> tuple[int, float]:
        drop = entry.candidate.accuracy["drop_points"] if entry.candidate.accuracy else float("inf")
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
        yield f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {verdict}: {reason}"


def gates(candidate: Candidate, limits: Limits) -> tuple[Gate, ...]:
    """The four gates of one candidate, in the order in which they decide."""
    return (
        _parity_gate(candidate),
        _accuracy_gate(candidate, limits),
        _limit_gate("size", candidate.size_bytes, limits.size_bytes, ""),
        _limit_gate("memory", candidate.peak_memory_bytes, limits.memory_bytes, candidate.memory_how),
    )


def _gated(candidate: Candidate, limits: Limits) -> Judged:
    if candidate.is_baseline:
        trouble = f"; {candidate.blocked[1]}" if candidate.blocked else ""
        return Judged(candidate, "baseline", f"PyTorch eager in fp32: what every variant is compared with{trouble}")
    if candidate.blocked:
        return Judged(candidate, *candidate.blocked)
    outcomes = gates(candidate, limits)
    missing = [gate.name for gate in outcomes if gate.passed is None]
    if missing:
        reason = f"no evidence for {', '.join(missing)}, and missing evidence blocks a release"
        return Judged(candidate, "missing_evidence", reason, outcomes)
    for gate in outcomes:
        if not gate.passed:
            return Judged(candidate, f"failed_{gate.name}", gate.sentence, outcomes)  # type: ignore[arg-type]
    return Judged(candidate, "not_selected", "", outcomes)


def _parity_gate(candidate: Candidate) -> Gate:
    if candidate.parity is None:
        return Gate("parity", None, "not verified against PyTorch")
    return Gate("parity", *parity.verdict(candidate.parity, candidate.precision))


def _accuracy_gate(candidate: Candidate, limits: Limits) -> Gate:
    if candidate.accuracy is None:
        return Gate("accuracy", None, "not evaluated")
    drop, (low, high) = candidate.accuracy["drop_points"], candidate.accuracy["drop_interval_points"]
    limit = limits.accuracy_drop_points
    sentence = (
        f"drops {drop:.2f} points ({low:.2f} to {high:.2f}) on {candidate.accuracy['samples']} samples, "
        f"{'within' if drop <= limit else 'over'} the gate of {limit:.2f}"
    )
    return Gate("accuracy", *_with_cosine(drop <= limit, sentence, candidate.cosine_mean, limits.cosine))


def _with_cosine(passed: bool, sentence: str, cosine: float | None, least: float | None) -> tuple[bool | None, str]:
    if least is None:
        return passed, sentence
    if cosine is None:
        return None, f"{sentence}; mean cosine with fp32 not known"
    comparison = "at least" if cosine >= least else "below"
    return passed and cosine >= least, f"{sentence}; mean cosine with fp32 {cosine:.4f}, {comparison} {least:g}"


def _limit_gate(name: Literal["size", "memory"], value: int | None, limit: int, how: str) -> Gate:
    if value is None:
        return Gate(name, None, f"{name} not measured")
    what = f"{'size' if name == 'size' else 'peak memory'} {_mib(value)}{f' {how}' if how else ''}"
    sentence = f"{what}, {'within' if value <= limit else 'over'} the budget of {_mib(limit)}"
    return Gate(name, value <= limit, sentence, how or None)


def _p50(candidate: Candidate) -> float:
    assert candidate.latency_ms is not None
    return float(candidate.latency_ms["p50"] or candidate.latency_ms["mean"])


def _size(candidate: Candidate) -> int:
    assert candidate.size_bytes is not None
    return candidate.size_bytes


def _drop(candidate: Candidate) -> float:
    assert candidate.accuracy is not None
    return float(candidate.accuracy["drop_points"])


def _fastest(passing: Sequence[Candidate]) -> Candidate:
    best = min(map(_p50, passing))
    return min((c for c in passing if _p50(c) <= best * (1 + TIE)), key=lambda c: (_size(c), _p50(c)))


def _smallest(passing: Sequence[Candidate]) -> Candidate:
    best = min(map(_size, passing))
    return min(
        (c for c in passing if _size(c) <= best * (1 + TIE)),
        key=lambda c: (c.peak_memory_bytes or 0, _drop(c), _size(c)),
    )


def _ranked(
    entry: Judged,
    winner: Candidate,
    passing: Sequence[Candidate],
    baseline: Candidate | None,
    timed: bool,
    not_measured: str,
) -> Judged:
    candidate = entry.candidate
    if candidate is winner:
        return replace(entry, verdict="released", reason=_why_it_won(winner, passing, baseline, timed, not_measured))
    if timed and baseline and baseline.latency_ms and _p50(candidate) > _p50(baseline):
        reason = f"P50 {_p50(candidate):.2f} ms, PyTorch eager {_p50(baseline):.2f} ms{_smaller(candidate, winner)}"
        return replace(entry, verdict="slower_than_baseline", reason=reason)
    rivals = [winner, *(c for c in passing if c is not winner)]
    better = next((rival for rival in rivals if _dominates(rival, candidate, timed)), None)
    if better:
        return replace(entry, verdict="dominated", reason=f"{better.name} is {_versus(better, candidate, timed)}")
    return replace(entry, verdict="not_selected", reason=_why_it_lost(candidate, winner, timed))


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


def _why_it_won(
    winner: Candidate, passing: Sequence[Candidate], baseline: Candidate | None, timed: bool, not_measured: str
) -> str:
    among = f"of {len(passing)} variants that passed every gate"
    alone = len(passing) == 1
    if not timed:
        rank = "the only variant that passed every gate" if alone else f"smallest {among}"
        return f"{rank}: {_mib(_size(winner))}; latency {not_measured}"
    rank = "the only variant that passed every gate" if alone else f"fastest {among}"
    text = f"{rank}: P50 {_p50(winner):.2f} ms at batch 1, measured on the target's hardware"
    if baseline and baseline.latency_ms:
        ratio = _p50(baseline) / _p50(winner)
        text += f", {ratio:.1f} times as fast as PyTorch eager" if ratio >= 1 else ", slower than PyTorch eager"
    return text


def _why_it_lost(candidate: Candidate, winner: Candidate, timed: bool) -> str:
    numbers = f"{_numbers(candidate, timed)} against {_numbers(winner, timed)}"
    mine, best = (_p50(candidate), _p50(winner)) if timed else (_size(candidate), _size(winner))
    if mine > best * (1 + TIE):
        objective = "slower" if timed else "larger"
        return f"{objective} than {winner.name}: {numbers}{_smaller(candidate, winner) if timed else ''}"
    if timed:
        return f"no faster than {winner.name} by more than {100 * TIE:.0f} %, and larger: {numbers}"
    return f"no smaller than {winner.name} by more than {100 * TIE:.0f} %, and its runtime needs more memory: {numbers}"


def _versus(better: Candidate, worse: Candidate, timed: bool) -> str:
    return f"no worse on any count, better on one: {_numbers(better, timed)} against {_numbers(worse, timed)}"


def _numbers(candidate: Candidate, timed: bool) -> str:
    latency = f"{_p50(candidate):.2f} ms, " if timed else ""
    return f"{latency}{_mib(_size(candidate))}, drop {_drop(candidate):.2f} points"


def _smaller(candidate: Candidate, winner: Candidate) -> str:
    ratio = _size(candidate) / _size(winner)
    return f"; it is smaller ({ratio:.2f} of {winner.name}'s size) but slower" if ratio < 1 else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
