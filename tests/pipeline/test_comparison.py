"""Two checkpoints compared by what the store keeps of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from edge_assets.errors import EdgeAssetsError
from edge_assets.families.cpu import CPU
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.comparison import between
from edge_assets.spec.model import Dataset
from edge_assets.targets.project import target
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, open_store
from tests.report.test_comparison import WINNER
from tests.tiny.spec import TINY


def forgetful(checkpoint_file: Path, path: Path) -> Path:
    """The trained tiny model, which never answers 3 any more: it loses about a tenth of the samples."""
    state = load_file(checkpoint_file)
    state["classifier.bias"][3] -= 1000
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    folder = tmp_path_factory.mktemp("comparison")
    return open_store(str(folder / "store"), folder / "cache")


@pytest.fixture(scope="module")
def both(
    own_store: ArtifactStore, checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Checkpoint]:
    """Two checkpoints with their references, and one released row each."""
    worse = forgetful(checkpoint_file, tmp_path_factory.mktemp("worse") / "worse.safetensors")
    registered = []
    for file in (checkpoint_file, worse):
        checkpoint = checkpoints.register(own_store, TINY.name, str(file))
        cell = Cell(TINY, CPU.of(TINY), target("graviton3"), checkpoint, own_store, lambda _line: None)
        accuracy = cell.reference.build().accuracy
        assert accuracy is not None
        row = replace(
            WINNER, checkpoint=checkpoint.key, accuracy=accuracy.value, accuracy_drop_interval_points=(0.0, 0.0)
        )
        rows.write(own_store, cell.path, [row])
        registered.append(checkpoint)
    before, after = registered
    return before, after


def test_fp32_is_compared_sample_by_sample(own_store: ArtifactStore, both: tuple[Checkpoint, Checkpoint]) -> None:
    found = between(own_store, TINY, *both)
    assert found.fp32 is not None
    assert found.fp32.samples == 597
    assert found.fp32.lost is not None
    assert found.fp32.gained is not None
    assert found.fp32.lost > found.fp32.gained
    assert found.fp32.drop_points == pytest.approx(100 * (found.fp32.lost - found.fp32.gained) / 597)
    assert 5 < found.fp32.drop_points < 15
    (change,) = found.changes
    accuracy = change.shift("accuracy")
    assert accuracy is not None
    assert accuracy.difference == pytest.approx(-found.fp32.drop_points)
    assert accuracy.interval is not None
    low, high = found.fp32.drop_interval_points
    assert accuracy.interval[1] - accuracy.interval[0] == pytest.approx(high - low), "the rows here are certain"
    (regression,) = found.regressions
    assert "over the gate of 2.00" in regression


def test_the_other_way_round_it_is_better(own_store: ArtifactStore, both: tuple[Checkpoint, Checkpoint]) -> None:
    before, after = both
    found = between(own_store, TINY, after, before)
    (change,) = found.changes
    accuracy = change.shift("accuracy")
    assert accuracy is not None
    assert accuracy.verdict == "better"
    assert found.regressions == []


def test_on_other_evaluation_data_than_they_were_judged_on_accuracies_are_not_compared(
    own_store: ArtifactStore, both: tuple[Checkpoint, Checkpoint]
) -> None:
    other = replace(TINY.evaluation, data=Dataset("tests.tiny.data:evaluation", version="2"))
    found = between(own_store, replace(TINY, evaluation=other), *both)
    assert found.fp32 is None
    (change,) = found.changes
    assert change.shift("accuracy") is None
    assert change.shift("size") is not None


def test_a_checkpoint_that_was_not_built_is_named_with_what_builds_it(
    own_store: ArtifactStore, both: tuple[Checkpoint, Checkpoint]
) -> None:
    before, after = both
    unbuilt = replace(after, key="tiny-11111111")
    with pytest.raises(EdgeAssetsError, match="tiny-11111111 was not built yet: edge-assets build --model tiny"):
        between(own_store, TINY, before, unbuilt)
