"""Parity, task accuracy and latency statistics: formulas against independent computations."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_assets.core.benchmark.statistics import MODES, least_queries, summarize
from edge_assets.core.session import Feeds
from edge_assets.core.verify import accuracy, parity
from edge_assets.families.cpu import CPU
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import Tensor
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import export as onnx
from resources import checkpoints
from resources.store import ArtifactStore
from tests.tiny.spec import TINY


class Scaled:
    """A session whose only fault is a relative error, or a NaN, or a wrong batch."""

    def __init__(self, factor: float = 1.0, nan: bool = False, keeps_batch: bool = True) -> None:
        self.factor, self.nan, self.keeps_batch = factor, nan, keeps_batch

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        out = feeds["x"] * self.factor
        if self.nan:
            out[0, 0] = np.nan
        return {"y": out if self.keeps_batch else out[:1]}


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)


def test_parity_numbers(samples: np.ndarray) -> None:
    measured = parity.measure(Scaled(1.01), {"x": samples}, {"y": samples})
    assert measured.snr_db == pytest.approx(40, abs=0.01)  # an error of 1 % is 40 dB down
    assert measured.max_abs == pytest.approx(0.01 * np.abs(samples).max(), rel=1e-3)
    assert measured.max_rel == pytest.approx(0.01, rel=1e-3)
    assert measured.cosine == pytest.approx(1)
    assert set(measured.by_output["y"]) == {"1", "2", "5"}


def test_equal_outputs_are_capped_and_not_infinite(samples: np.ndarray) -> None:
    measured = parity.measure(Scaled(), {"x": samples}, {"y": samples})
    assert (measured.max_abs, measured.snr_db) == (0, parity.SNR_CAP_DB)


@pytest.mark.parametrize("broken", [Scaled(nan=True), Scaled(keeps_batch=False)], ids=["NaN", "fixed batch"])
def test_broken_outputs_fail_at_every_precision(samples: np.ndarray, broken: Scaled) -> None:
    measured = parity.measure(broken, {"x": samples}, {"y": samples})
    assert measured.snr_db is None
    assert not any(parity.verdict(measured, precision)[0] for precision in parity.LEAST_SNR_DB)


@pytest.mark.parametrize(
    ("factor", "failing"),
    [
        (1.0001, set()),
        (1.005, {"fp32"}),
        (1.2, {"fp32", "fp16", "lut6"}),
        (1.35, {"fp32", "fp16", "lut6", "int8", "int4", "lut4"}),  # 9 dB
        (-1, {"fp32", "fp16", "lut6", "int8", "int4", "lut4"}),
    ],
)
def test_thresholds_follow_the_precision(samples: np.ndarray, factor: float, failing: set[str]) -> None:
    measured = parity.measure(Scaled(factor), {"x": samples}, {"y": samples})
    assert {name for name in parity.LEAST_SNR_DB if not parity.verdict(measured, name)[0]} == failing


def test_drop_is_paired_and_positive_when_worse() -> None:
    reference = np.array([1.0] * 950 + [0.0] * 50)
    scores = reference.copy()
    scores[:20] = 0  # twenty lost
    scores[-5:] = 1  # five gained
    result = accuracy.compare(scores, reference, higher_is_better=True)
    assert (result.lost, result.gained) == (20, 5)
    assert result.drop_points == pytest.approx(1.5)
    low, high = result.drop_interval_points
    # the normal approximation of a paired proportion difference
    half = 1.96 * 100 * math.sqrt(25 - 15**2 / 1000) / 1000
    assert low == pytest.approx(1.5 - half, abs=0.15)
    assert high == pytest.approx(1.5 + half, abs=0.15)


def test_a_metric_where_lower_is_better() -> None:
    errors, worse = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 3.5])
    assert accuracy.compare(worse, errors, higher_is_better=False).drop_points == pytest.approx(100 / 3)


def test_identical_scores_have_an_interval_of_zero() -> None:
    scores = np.ones(100)
    assert accuracy.compare(scores, scores, True).drop_interval_points == (0, 0)


def test_percentiles_appear_only_with_mlperfs_counts() -> None:
    assert {p: least_queries(p) for p in (90, 95, 99)} == {90: 64, 95: 130, 99: 662}
    summary = summarize(np.linspace(1, 2, 129).tolist())
    assert summary.p90 == pytest.approx(1.9)
    assert summary.p95 is summary.p99 is None
    assert summarize([1.0] * 662).p99 == 1


def test_throughput_counts_the_batch() -> None:
    assert summarize([4.0, 4.0], batch=8).throughput_per_s == pytest.approx(2000)


def test_modes_are_mlperf_mobiles() -> None:
    assert {name: (mode.queries, mode.seconds) for name, mode in MODES.items()} == {
        "rapid": (64, 6),
        "quick": (128, 10),
        "release": (1024, 60),
    }


def test_an_output_may_be_called_as_the_scores_are(store: ArtifactStore, checkpoint_file: Path) -> None:
    spec = replace(TINY, name="named", outputs=(Tensor("scores", "float32", ("batch", 10)),))
    checkpoint = checkpoints.register(store, "named", str(checkpoint_file))
    cell = Cell(spec, CPU, target("graviton3"), checkpoint, store, lambda _line: None)
    reference = cell.reference.build()
    built = cell.variants.build(onnx.MODEL, reference)
    assert reference.accuracy is not None, reference.failed
    assert built.accuracy is not None, built.failed
    assert built.accuracy.value == pytest.approx(reference.accuracy.value, abs=0.01)
    assert built.verified is not None
    assert set(built.verified.agreement or ()) == {"scores"}
