"""Every release loads in MLflow and predicts from raw inputs, by its own code; where it cannot, the error says why."""

from dataclasses import asdict
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from edge_assets.core.types import Result
from edge_assets.defs import entries
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.targets.project import target
from resources import checkpoints
from resources.mlflow_models import write_model
from resources.store import ArtifactStore
from tests.pipeline.test_evidence import judged
from tests.tiny.data import evaluation
from tests.tiny.spec import TINY

HERE = ("graviton3", "pixel-8", "snapdragon-8", "cortex-m4", "t4")  # targets whose runtime, or its stand-in, is here
ELSEWHERE = {
    "iphone-15-pro": "CoreML exists on macOS",
    "browser-wasm": "runs on its target only",
}


def released(store: ArtifactStore, checkpoint_file: Path, name: str) -> tuple[Judgement, Result]:
    """The tiny model's release for a target, with a measurement that was made up."""
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    made_for = target(name)
    family = FAMILIES[made_for.family].of(TINY)
    cell = Cell(TINY, family, made_for, checkpoint, store, lambda _line: None)
    judgement = judged(cell, cell.build_all(), None, peak_bytes=2**16)
    return judgement, judgement.release()


def in_mlflow(store: ArtifactStore, checkpoint_file: Path, name: str, folder: Path) -> Path:
    """The release in MLflow's layout."""
    judgement, release = released(store, checkpoint_file, name)
    entry, _parent, _history = entries.release_entries(judgement, release, "card", "0")
    assert entry.model is not None
    assert release.artifact is not None
    write_model(store, entry.model, store.checkout(release.artifact), folder, Model())
    return folder


@pytest.mark.parametrize("name", HERE)
def test_a_release_loads_and_predicts_from_raw_inputs(
    store: ArtifactStore, checkpoint_file: Path, tmp_path: Path, name: str
) -> None:
    folder = in_mlflow(store, checkpoint_file, name, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(folder))
    data = evaluation()
    logits = model.predict({"image": data["image"][:64]})["logits"]
    assert (np.asarray(logits).argmax(1) == data["label"][:64]).mean() > 0.9
    required = (folder / "requirements.txt").read_text()
    assert f"numpy=={np.__version__}" in required
    assert not list(folder.rglob("*.pkl"))


@pytest.mark.parametrize(("name", "reason"), ELSEWHERE.items())
def test_where_the_runtime_cannot_run_the_error_says_what_it_needs(
    store: ArtifactStore, checkpoint_file: Path, tmp_path: Path, name: str, reason: str
) -> None:
    folder = in_mlflow(store, checkpoint_file, name, tmp_path / "model")
    with pytest.raises(MlflowException, match=reason):
        mlflow.pyfunc.load_model(str(folder))


def test_a_missing_package_is_named(
    store: ArtifactStore, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_mlflow(store, checkpoint_file, "graviton3", tmp_path / "model")
    for module in ("onnxruntime", "torch"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MlflowException, match=r"cannot run here: .*Needs NumPy and (onnxruntime|torch)"):
        mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize("changed", ["runtime.py", "preprocess.py", "sample.npz"])
def test_nothing_is_imported_of_a_folder_that_is_not_as_it_was_released(
    store: ArtifactStore, checkpoint_file: Path, tmp_path: Path, changed: str
) -> None:
    folder = in_mlflow(store, checkpoint_file, "graviton3", tmp_path / "model")
    (path,) = folder.rglob(changed)
    proof = tmp_path / "imported"
    path.write_text(f"open({str(proof)!r}, 'w')\n")
    with pytest.raises(MlflowException, match=f"{changed} is not the released file"):
        mlflow.pyfunc.load_model(str(folder))
    assert not proof.exists()
    path.unlink()
    with pytest.raises(MlflowException, match=f"{changed} of the release cannot be read"):
        mlflow.pyfunc.load_model(str(folder))


def test_an_entry_is_the_same_after_it_waited(store: ArtifactStore, checkpoint_file: Path) -> None:
    import json

    from resources.outbox import Entry

    judgement, release = released(store, checkpoint_file, "graviton3")
    for entry in entries.release_entries(judgement, release, "card", "0"):
        waited = Entry.from_dict(json.loads(json.dumps(asdict(entry))))
        assert (waited.digest, waited.name) == (entry.digest, entry.name)
