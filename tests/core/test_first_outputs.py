"""Outputs of the first samples, by which a quantized variant is compared with what it was quantized from."""

from pathlib import Path

import numpy as np
import pytest

from edge_assets.core.verify import first_outputs

OUTPUTS = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)


def saved(path: Path, **outputs: np.ndarray) -> Path:
    first_outputs.save(outputs, path)
    return path


def test_the_worst_output_of_the_first_samples_counts(tmp_path: Path) -> None:
    parent = saved(tmp_path / "parent.npz", scores=OUTPUTS, boxes=OUTPUTS)
    late = OUTPUTS.copy()
    late[8:] = 0  # not among the first eight
    assert first_outputs.snr_db(parent, saved(tmp_path / "same.npz", scores=OUTPUTS, boxes=late)) == 200
    noisy = saved(tmp_path / "noisy.npz", scores=OUTPUTS, boxes=OUTPUTS * np.float32(1.1))
    assert first_outputs.snr_db(parent, noisy) == pytest.approx(20, abs=0.01)


def test_what_cannot_be_compared_has_no_number(tmp_path: Path) -> None:
    parent = saved(tmp_path / "parent.npz", scores=OUTPUTS)
    assert first_outputs.snr_db(parent, saved(tmp_path / "other.npz", others=OUTPUTS)) is None
    assert first_outputs.snr_db(parent, saved(tmp_path / "shape.npz", scores=OUTPUTS[:, :5])) is None
    assert first_outputs.snr_db(parent, saved(tmp_path / "nan.npz", scores=OUTPUTS * np.nan)) is None


def test_of_large_outputs_fewer_samples_are_kept_and_of_huge_ones_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_outputs, "MOST_BYTES", 3 * OUTPUTS[:1].nbytes)
    few = saved(tmp_path / "few.npz", scores=OUTPUTS)
    with np.load(few) as data:
        assert np.array_equal(data["scores"], OUTPUTS[:3])
    monkeypatch.setattr(first_outputs, "MOST_BYTES", 2**24)
    assert first_outputs.snr_db(saved(tmp_path / "all.npz", scores=OUTPUTS), few) == 200
    monkeypatch.setattr(first_outputs, "MOST_BYTES", 8)
    assert not saved(tmp_path / "none.npz", scores=OUTPUTS).exists()
