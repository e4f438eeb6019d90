"""The release rules: gates, one winner, and a verdict with a reason for everyone else."""

from dataclasses import replace
from typing import Any

import pytest

from edge_assets.core.evidence import Accuracy, Latency, Memory, Parity
from edge_assets.core.select import Candidate, Limits, closest, judge
from edge_assets.core.sizes import readable_ms, readable_size

KIB = 1024
LIMITS = Limits(accuracy_drop_points=1.0, size_bytes=1000 * KIB, memory_bytes=1000)
LATENCY = Latency(queries=64, mean=1.0, std=0.0, p50=1.0, p90=None, p95=None, p99=None, throughput_per_s=1.0)


def parity(snr_db: float | None, nan: int = 0) -> Parity:
    return Parity(max_abs=0.1, max_rel=0.1, cosine=1.0, snr_db=snr_db, nan=nan, inf=0, by_output={})


def candidate(name: str, p50: float | None = 1.0, size: int = 800, drop: float = 0.1, **changes: Any) -> Candidate:
    """`size` is in KiB."""
    accuracy = Accuracy(
        value=0.95,
        reference=0.951,
        samples=5000,
        drop_points=drop,
        drop_interval_points=(drop - 0.1, drop + 0.1),
        confidence=0.95,
        lost=0,
        gained=0,
    )
    made = Candidate(
        name=name,
        format="onnx",
        precision="int8",
        recipe="r",
        sha256="0",
        size_bytes=size * KIB,
        blocked=None,
        parity=parity(30.0),
        accuracy=accuracy,
        memory=Memory(500, "measured on here"),
        latency=replace(LATENCY, p50=p50, mean=p50) if p50 else None,
    )
    return replace(made, **changes)


BASELINE = candidate("eager", p50=5.0, is_baseline=True)


def verdicts(*candidates: Candidate) -> dict[str, str]:
    return {entry.candidate.name: entry.verdict for entry in judge(candidates, LIMITS)}


def test_the_fastest_that_passes_wins() -> None:
    judged = judge([BASELINE, candidate("a", 1.0), candidate("b", 2.0, size=500)], LIMITS)
    assert [entry.verdict for entry in judged] == ["baseline", "released", "not_selected"]
    assert "fastest of 2 variants" in judged[1].reason
    assert "5.0 times as fast as PyTorch eager" in judged[1].reason
    assert "smaller (0.62 of a's size) but slower" in judged[2].reason


def test_without_latency_the_smallest_wins_and_says_so() -> None:
    judged = judge([candidate("a", None), candidate("b", None, size=500)], LIMITS)
    assert [entry.verdict for entry in judged] == ["dominated", "released"]
    assert "smallest of 2" in judged[1].reason
    assert "not measured: no device attached" in judged[1].reason


def test_latencies_within_two_percent_are_equal_and_the_smaller_wins() -> None:
    judged = judge([candidate("a", 1.00, size=900), candidate("b", 1.01, size=400)], LIMITS)
    assert [entry.verdict for entry in judged] == ["not_selected", "released"]
    assert "no faster than b by more than 2 %, and larger" in judged[0].reason
    assert judged[1].reason.startswith(
        "within 2 % of the fastest, a with 1.00 ms, and the smallest so near to it, of 2 "
    )


def test_sizes_within_two_percent_are_equal_and_the_leaner_runtime_wins() -> None:
    small, lean = (
        candidate("small", None, size=790),
        candidate("lean", None, size=800, memory=Memory(100, "measured on here")),
    )
    assert verdicts(small, lean) == {"small": "not_selected", "lean": "released"}
    judged = judge([small, lean], LIMITS)
    assert judged[1].reason.startswith("about as small as small, and its runtime needs less memory, of 2 variants")


def test_of_equal_sizes_the_smaller_drop_wins_before_the_leaner_runtime() -> None:
    tiny = {"size_bytes": 4 * KIB}
    worse = candidate("worse", None, drop=0.9, memory=Memory(100, "measured on here"), **tiny)
    better = candidate("better", None, drop=0.1, size_bytes=4 * KIB + 96)
    assert verdicts(worse, better) == {"worse": "not_selected", "better": "released"}, "96 bytes are worth no point"
    judged, won = judge([worse, better], LIMITS)
    assert judged.reason.startswith("about as small as better, and drops more: 4.00 KiB, drop 0.90 points against")
    assert won.reason.startswith(
        "about as small as worse, and drops less, of 2 variants that passed every gate: 4.09 KiB"
    )


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0.01234, "0.0123 ms"),
        (0.415, "0.415 ms"),
        (3.09, "3.09 ms"),
        (41.26, "41.3 ms"),
        (1234.5, "1234 ms"),
        (0, "0 ms"),
    ],
)
def test_a_time_has_as_many_digits_as_tell_it_from_another(milliseconds: float, words: str) -> None:
    assert readable_ms(milliseconds) == words


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"parity": parity(2.0)}, "failed_parity", "SNR 2.0 dB, below 10 dB"),
        ({"parity": parity(None, nan=3)}, "failed_parity", "3 NaN"),
        ({"drop": 1.2}, "failed_accuracy", "drops 1.20 points (1.10 to 1.30) on 5000 samples, over the gate of 1.00"),
        ({"size": 1200}, "failed_size", "over the budget"),
        ({"memory": Memory(1200, "measured on here")}, "failed_memory", "measured on here, over the budget"),
        ({"parity": None}, "missing_evidence", "no evidence for parity"),
        ({"accuracy": None}, "missing_evidence", "no evidence for accuracy"),
        ({"memory": None}, "missing_evidence", "no evidence for memory"),
        ({"blocked": ("refused", "no node changed")}, "refused", "no node changed"),
    ],
)
def test_a_gate_that_fails_or_lacks_evidence_blocks(changes: dict[str, Any], verdict: str, reason: str) -> None:
    fast_but_bad = candidate("bad", 0.1, **changes)
    judged = judge([BASELINE, fast_but_bad, candidate("good", 2.0)], LIMITS)
    assert [entry.verdict for entry in judged] == ["baseline", verdict, "released"]
    assert reason in judged[1].reason


def test_a_demanded_tier_is_one_of_parity_and_accuracy() -> None:
    """Memory is read on the building machine where no device is at hand, whichever CPU is emulated."""
    strict = replace(LIMITS, evidence="emulated")
    emulated = candidate("a", tiers={"parity": "emulated", "accuracy": "emulated", "memory": "host"})
    assert judge([emulated], strict)[0].verdict == "released"
    (partly,) = judge([replace(emulated, tiers={**emulated.tiers, "accuracy": "host"})], strict)
    assert partly.verdict == "missing_evidence"
    assert partly.reason == "evidence of tier emulated is demanded, and accuracy is known by tier host"


def test_slower_than_baseline_says_that_it_is_smaller() -> None:
    judged = judge([BASELINE, candidate("fast", 1.0), candidate("slow", 9.0, size=200)], LIMITS)
    assert judged[2].verdict == "slower_than_baseline"
    assert "P50 9.00 ms, PyTorch eager 5.00 ms; it is smaller (0.25 of fast's size) but slower" in judged[2].reason


def test_dominated_names_what_is_better() -> None:
    judged = judge([candidate("best", 1.0), candidate("worse", 2.0, size=900, drop=0.2)], LIMITS)
    assert (judged[1].verdict, judged[1].reason.split()[0]) == ("dominated", "best")


def test_at_most_one_winner_and_what_came_closest() -> None:
    judged = judge(
        [BASELINE, candidate("a", drop=3), candidate("b", drop=1.5), candidate("c", blocked=("refused", "x"))], LIMITS
    )
    assert "released" not in {entry.verdict for entry in judged}
    assert closest(judged).startswith("b came closest: drops 1.50 points")
    later = judge([candidate("a", drop=1.1), candidate("b", size=2000)], LIMITS)
    assert closest(later).startswith("b came closest: size"), "it failed at a later gate"
    assert "refused" in closest(judge([candidate("c", blocked=("refused", "x"))], LIMITS))


def test_sizes_are_said_in_the_unit_that_has_them() -> None:
    assert readable_size(1000) == "1000 B"
    assert readable_size(21 * 2**10 + 512) == "21.50 KiB"
    assert readable_size(2**20 - 1) == "1024.00 KiB"
    assert readable_size(3 * 2**20) == "3.00 MiB"


def test_a_metric_of_another_name_or_unit_is_told_by_it_in_every_sentence() -> None:
    candidates = [candidate("a", size=500, p50=None), candidate("b", size=800, p50=None), candidate("c", drop=9.0)]
    for limits, told, not_told in (
        (replace(LIMITS, metric="f1"), "f1 drop", "accuracy"),
        (replace(LIMITS, metric="mae", own_unit="mae"), "mae worse by 0.001", "points"),
    ):
        judged = judge(candidates, limits)
        assert [entry.verdict for entry in judged] == ["released", "dominated", "failed_accuracy"]
        assert told in judged[1].reason
        assert judged[2].reason.startswith(("f1 drops 9.00 points", "mae 0.95 is worse by 0.09"))
        for entry in judged:
            assert not_told not in entry.reason
    usual = judge(candidates, LIMITS)
    assert "drop 0.10 points" in usual[1].reason
    assert usual[2].reason.startswith("drops 9.00 points (8.90 to 9.10) on 5000 samples")
