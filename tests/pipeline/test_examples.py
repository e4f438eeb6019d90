"""The examples with trained weights go the whole way: a face detector, a segmentation network, a speaker encoder."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from edge_assets.core.types import Built
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import ModelSpec
from edge_assets.targets.project import target
from examples.segmentation.spec import SEGMENTATION
from examples.voices import data as voices
from examples.voices.fetch import CHECKPOINT
from examples.voices.spec import VOICES
from resources import checkpoints
from resources.store import ArtifactStore
from tests.conftest import ROOT

CellOf = Callable[[ModelSpec, str], Cell]


@pytest.fixture
def cell(store: ArtifactStore) -> CellOf:
    """A cell of an example with its newest checkpoint."""

    def of(spec: ModelSpec, name: str) -> Cell:
        (path,) = (path for path in (ROOT / spec.checkpoints).iterdir() if path.suffix in (".pt", ".safetensors"))
        checkpoint = checkpoints.register(store, spec.name, str(path))
        family = FAMILIES[target(name).family]
        return Cell(spec, family.of(spec), target(name), checkpoint, store, lambda _line: None)

    return of


def values(cell: Cell, *names: str) -> dict[str, float]:
    """The deciding metric of the reference and of these variants."""
    builts: dict[str, Built] = {}
    for name in names:
        builts[name] = cell.build(name)
        assert builts[name].failed is None, builts[name].failed
    found = {}
    for name, built in builts.items():
        assert built.accuracy is not None, name
        found[name] = built.accuracy.value
        found["reference"] = built.accuracy.reference
    return found


@pytest.mark.slow
def test_segmentation(cell: CellOf) -> None:
    found = values(cell(SEGMENTATION, "graviton3"), "onnx_model", "onnx_int8_static")
    assert 0.7 < found["reference"] < 0.97
    assert found["onnx_int8_static"] > found["reference"] - 0.01


def test_the_checkpoint_of_the_segmentation_network_is_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / SEGMENTATION.checkpoints).iterdir()]
    assert sum(sizes) < 500_000


@pytest.mark.slow
def test_faces(cell: CellOf) -> None:
    try:
        version("scikit-image")
    except PackageNotFoundError:
        pytest.skip("needs the extra faces, whose pictures are scikit-image's")
    from examples.faces.spec import FACES

    found = values(cell(FACES, "graviton3"), "onnx_model")
    assert 0.85 < found["reference"] < 0.99
    assert found["onnx_model"] == pytest.approx(found["reference"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "name"),
    [("graviton3", "onnx_model"), ("browser-wasm", "onnx_fp16"), ("l4", "tensorrt_engine_fp16")],
)
def test_voices(cell: CellOf, on: str, name: str) -> None:
    if not CHECKPOINT.exists():
        pytest.skip("needs the published weights: python -m examples.voices.fetch")
    found = values(cell(VOICES, on), name)
    assert 0.5 < found["reference"] < 0.9
    assert found[name] == pytest.approx(found["reference"], abs=1e-3)


def test_utterances_of_a_voice_stand_side_by_side() -> None:
    data = voices.utterances(3, seed=2)
    assert data["sound"].shape == (6, 25_600)
    assert data["sound"].dtype == np.int16
    assert data["label"].tolist() == [0, 0, 1, 1, 2, 2]
    again = voices.utterances(3, seed=2)
    np.testing.assert_array_equal(data["sound"], again["sound"])
    angles = np.radians([0, 10, 90, 30])  # the last is nearer to both of the first pair than to its partner
    last = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outputs = {"embedding": np.stack([np.zeros_like(last), last], axis=1)}
    ranks = voices.reciprocal_rank(outputs, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(ranks, [1, 1, 1, 1 / 3])
