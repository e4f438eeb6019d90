"""Bad input: one clear message, a failed asset or command, a non-zero exit, and nothing lost."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_assets.core.checkpoint import load_model
from edge_assets.core.data import load
from edge_assets.errors import CheckpointError, DataError, InvalidSpec
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import open_store
from tests.conftest import Project
from tests.tiny.spec import TINY

ARCHITECTURE = "tests.tiny.network:TinyNet"


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


# --- checkpoints ---------------------------------------------------------------------------------------


def test_missing_checkpoint(project: Project) -> None:
    result = project.build("--checkpoint", "nowhere/model.safetensors")
    assert_clear(result, "checkpoint nowhere/model.safetensors does not exist")


def test_unknown_checkpoint_offers_the_nearest(copy_of_built: Project) -> None:
    assert_clear(copy_of_built.build("--checkpoint", "tinny"), "unknown checkpoint of tiny 'tinny'. Did you mean tiny")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_checkpoint(project: Project, checkpoint_file: Path, suffix: str) -> None:
    path = project.checkpoints / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(load_file(checkpoint_file), path)
    else:
        shutil.copy(checkpoint_file, path)
    path.write_bytes(path.read_bytes()[:-1000])
    result = project.build("--checkpoint", str(path))
    assert_clear(result, f"{path} is ")
    assert "truncated" in result.stderr
    assert not (project.home / "store" / "pointers" / "checkpoints").exists(), "it became no partition"


def test_corrupt_header(project: Project) -> None:
    path = project.checkpoints / "noise.safetensors"
    path.write_bytes(b"\x13" * 4096)
    assert_clear(project.build("--checkpoint", str(path)), "is truncated or corrupt")


def test_pickle_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    old, new = tmp_path / "old.pth", tmp_path / "new.pt"
    old.write_bytes(pickle.dumps(Malicious(trap)))
    torch.save({"weight": Malicious(trap)}, new)
    with pytest.raises(CheckpointError, match="old-style pickle, which is refused because reading it can run code"):
        load_model(ARCHITECTURE, old)
    with pytest.raises(CheckpointError, match="was refused: it holds pickled objects that could run code") as error:
        load_model(ARCHITECTURE, new)
    assert "can still be loaded" not in str(error.value), "torch's own advice"
    assert not trap.exists()


def test_wrong_architecture_lists_keys_and_shapes(tmp_path: Path, checkpoint_file: Path) -> None:
    state = load_file(checkpoint_file)
    state["head.weight"] = state.pop("classifier.weight")
    state["features.0.weight"] = torch.zeros(8, 1, 3, 3)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_model(ARCHITECTURE, tmp_path / "other.safetensors")
    assert "missing keys: classifier.weight." in str(error.value)
    assert "unexpected keys: head.weight." in str(error.value)
    assert "features.0.weight is (8, 1, 3, 3), expected (16, 1, 3, 3)" in str(error.value)
    save_file(
        {f"{number}.{'query_key_value_' * 3}": torch.zeros(3) for number in range(40)}, tmp_path / "far.safetensors"
    )
    with pytest.raises(CheckpointError) as error:
        load_model(ARCHITECTURE, tmp_path / "far.safetensors")
    assert "..." not in str(error.value), "cut in the middle of a name"
    assert str(error.value).endswith("Name another with --checkpoint, or change the spec's architecture")


def test_nan_weights_fail_the_checkpoint_asset(project: Project, checkpoint_file: Path) -> None:
    state = load_file(checkpoint_file)
    state["features.3.weight"][0, 0, 0, 0] = float("nan")
    path = project.checkpoints / "nan.safetensors"
    save_file(state, path)
    result = project.build("--checkpoint", str(path))
    assert_clear(result, "NaN or infinite weights in features.3.weight")
    assert "tiny/cpu/checkpoint" in result.stderr
    assert "building onnx_model" not in result.stdout


def test_old_style_checkpoints_with_tensors_only_are_read(tmp_path: Path, checkpoint_file: Path) -> None:
    state = load_file(checkpoint_file)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.pt")
    loaded = load_model(ARCHITECTURE, tmp_path / "lightning.pt").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


# --- names and models ----------------------------------------------------------------------------------


def test_unknown_model_and_target(built: Project) -> None:
    assert_clear(built.run("build", "--model", "tinny"), "unknown model 'tinny'. Did you mean tiny")
    assert_clear(built.run("build", "--model", "tiny", "--target", "graviton"), "Did you mean graviton3")


def test_a_broken_model_does_not_stop_another(copy_of_built: Project) -> None:
    models = "tests.tiny.spec:TINY,tests.tiny.spec:NOTHING"
    result = copy_of_built.build(EDGE_ASSETS_MODELS=models)
    assert result.returncode == 0
    assert "'tests.tiny.spec:NOTHING' is not registered" in result.stderr
    assert result.stderr.count("has no 'NOTHING'") == 1
    doctor = copy_of_built.run("doctor", EDGE_ASSETS_MODELS=models)
    assert doctor.returncode == 1
    assert (doctor.stdout + doctor.stderr).count("has no 'NOTHING'") == 1


@pytest.mark.parametrize("command", ["build", "scorecard", "compare", "doctor"])
def test_what_is_wrong_with_the_only_model_is_said_once(project: Project, command: str) -> None:
    (project.folder / "wrong.py").write_text(
        "from edge_assets import ImagePreprocessing\n"
        "SPEC = ImagePreprocessing('image', 8, 8, channels='1', mean=0.5, std=(1.0,), crop=9)\n"
    )
    result = project.run(command, EDGE_ASSETS_MODELS="wrong:SPEC")
    assert result.returncode == 1
    printed = result.stdout + result.stderr
    for fault in (
        "preprocessing.channels: 1 must be a whole number",
        "preprocessing.mean: 0.5 must be a list: write [0.5]",
        "preprocessing.crop: is no field that there is. Did you mean",
    ):
        assert printed.count(fault) == 1, printed
    assert "Traceback" not in printed
    assert "TypeError" not in printed


def test_doctor_says_which_model_needs_what_that_is_missing(project: Project) -> None:
    (project.folder / "pictures.py").write_text(
        "from edge_assets import image_folder\nimport nosuchlibrary\n\n\n"
        "def test() -> object:\n    return image_folder('pictures')\n"
    )
    (project.folder / "spec.py").write_text(
        "from dataclasses import replace\nfrom edge_assets import Dataset, Evaluation\n"
        "from tests.tiny.spec import TINY\n"
        "SPEC = replace(TINY, name='photos', evaluation=Evaluation(Dataset('pictures:test')))\n"
    )
    printed = project.run("doctor", EDGE_ASSETS_MODELS="tests.tiny.spec:TINY,spec:SPEC").stdout
    lines = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.count("│") > 3}
    assert "photos" in lines["pillow"]
    assert "tiny" not in lines["pillow"]
    assert "none of the models" in lines["pyarrow"]
    assert "! model photos: its code imports nosuchlibrary, which is not installed" in printed
    assert "npm:@huggingface/transformers" in printed, "names are whole without a terminal"


def cut(folder: Path) -> None:
    (folder / "cut.safetensors").write_bytes(b"\x13" * 4096)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: folder.rmdir(), "there is no such folder. Save the trained state dict there, or name another"),
        (lambda _folder: None, "save the trained state dict there as one of .safetensors, .pt"),
        (lambda folder: (folder / "a.h5").touch(), "a.h5 '.h5' is not read: save the state dict as .safetensors"),
        (cut, "left out for now: checkpoint "),
    ],
)
def test_without_a_checkpoint_it_is_said_what_to_do(
    project: Project, prepare: Callable[[Path], object], reason: str
) -> None:
    next(project.checkpoints.iterdir()).unlink()
    prepare(project.checkpoints)
    result = project.build("--quiet")
    assert_clear(result, f"no checkpoint of tiny in {project.checkpoints}: {reason}")
    assert prepare is not cut or "cut.safetensors is truncated or corrupt" in result.stderr


@pytest.mark.slow
def test_unsupported_operator_names_operator_and_module(project: Project) -> None:
    result = project.run(
        "build", "--model", "unsupported", "--target", "graviton3", EDGE_ASSETS_MODELS="tests.tiny.spec:UNSUPPORTED"
    )
    assert_clear(result, "onnx_model is failed: operator aten.special_bessel_j0.default in the model itself")


# --- data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "loader", "message"),
    [
        (
            "calibration",
            "few",
            "10 samples, at least 100 are needed: load more, or lower `minimum` of the spec's calibration",
        ),
        ("calibration", "constant", "calibration data: all 200 samples are alike"),
        (
            "calibration",
            "wrong_shape",
            "calibration data does not fit the preprocessing: a picture of 'image'",
        ),
        ("calibration", "leaking", "calibration and evaluation data overlap: 200 samples are in both"),
        ("evaluation", "few", "evaluation data: 10 samples, at least 500 are needed"),
        ("evaluation", "wrong_labels", "labels are outside 0..9"),
    ],
)
def test_untrustworthy_data_is_refused_before_slow_work(
    tmp_path: Path, checkpoint_file: Path, which: str, loader: str, message: str
) -> None:
    part = getattr(TINY, which)
    changed = replace(part, data=replace(part.data, load=f"tests.tiny.data:{loader}"))
    spec = replace(TINY, **{which: changed})
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    lines: list[str] = []
    cell = Cell(spec, FAMILIES["cpu"], target("graviton3"), checkpoint, store, lines.append)
    with pytest.raises(DataError, match=message):
        cell.reference.build()
    assert all(line.startswith("loading") for line in lines), "nothing but the data was touched"


def test_labels_of_f1_are_classes_too(tmp_path: Path, checkpoint_file: Path) -> None:
    data = replace(TINY.evaluation.data, load="tests.tiny.data:wrong_labels")
    spec = replace(TINY, evaluation=replace(TINY.evaluation, data=data, metric="f1"))
    store = open_store(str(tmp_path / "store"), tmp_path / "cache")
    checkpoint = checkpoints.register(store, "tiny", str(checkpoint_file))
    cell = Cell(spec, FAMILIES["cpu"], target("graviton3"), checkpoint, store, lambda _line: None)
    with pytest.raises(DataError, match="labels are outside 0..9"):
        cell.reference.build()


def generated() -> object:
    return {"image": (number for number in range(200))}


def ragged() -> object:
    return {"image": [[1.0], [1.0, 2.0]]}


def pictures_of_several_sizes() -> object:
    return {"image": [np.zeros((32, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)]}


def boxed_pictures_of_several_sizes() -> object:
    pictures = np.empty(2, object)
    pictures[:] = [np.zeros((32, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)]
    return {"image": pictures}


def objects() -> object:
    return {"image": np.array([{}, Path()], dtype=object)}


def masked() -> object:
    return {"image": np.ma.masked_array(np.zeros(3), mask=[False, True, False])}


def named_file() -> object:
    return {"file": np.zeros(3)}


def path_like() -> object:
    return {"../image": np.zeros(3)}


def numbered() -> object:
    return {5: np.zeros(3)}


def structured() -> object:
    return {"image": np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])}


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (generated, "field 'image' is of kind generator: it must be an array"),
        (ragged, "field 'image' cannot be made an array"),
        (
            pictures_of_several_sizes,
            "field 'image' has entries of shape (32, 64, 3) and (64, 32, 3): all samples of a data set have one shape",
        ),
        (boxed_pictures_of_several_sizes, "where that has a range of sizes by `preprocessing.of_size(height, width)"),
        (objects, "field 'image' is of kind object array"),
        (masked, "field 'image' is a masked array"),
        (named_file, "the field name 'file' must be"),
        (path_like, "the field name '../image' must be"),
        (numbered, "the field name '5' must be"),
        (structured, "field 'image' is of kind [("),
    ],
)
def test_data_that_cannot_be_kept_is_refused_before_it_is_kept(loader: object, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load(f"{__name__}:{getattr(loader, '__name__')}", "calibration")  # noqa: B009
    assert str(error.value).startswith("calibration data: ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 5}, "name"),
        ({"name": "n" * 64}, "name"),
        ({"owners": ("somebody",)}, "owners"),
        ({"owners": "a@b.c"}, "owners"),
        ({"targets": ("graviton3", "graviton3")}, "targets"),
        ({"description": None}, "description"),
    ],
)
def test_a_spec_that_dagster_would_refuse_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(TINY, **change)
    assert error.value.field == field


# --- the terminal --------------------------------------------------------------------------------------


def test_scorecard_before_any_build_says_what_to_do(project: Project) -> None:
    result = project.run("scorecard", "--model", "tiny")
    assert_clear(result, f"nothing of tiny was built yet, as far as {project.home / 'store'} knows: edge-assets build")


def test_json_is_clean_on_stdout(built: Project) -> None:
    json.loads(built.run("scorecard", "--model", "tiny", "--json").stdout)


def assert_clear(result: object, message: str) -> None:
    """A non-zero exit, the message on stderr, and no traceback."""
    returncode, errors = getattr(result, "returncode"), getattr(result, "stderr")  # noqa: B009
    assert returncode == 1, result
    assert message in errors, errors
    assert "Traceback" not in errors
