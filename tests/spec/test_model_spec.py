"""Registering a model: what a wrong spec says, and that it breaks no other."""

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName
from edge_assets.registry import registry
from edge_assets.spec.attributes import model_spec, parsed
from edge_assets.spec.model import (
    Automation,
    Calibration,
    Dataset,
    Evaluation,
    FineTuning,
    Gates,
    ModelSpec,
    Search,
    Tensor,
)
from edge_assets.spec.preprocess import Passthrough
from edge_assets.spec.source import source_digest
from edge_assets.targets.project import target
from examples.digits.spec import DIGITS, PREPROCESSING

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "My Model"}, "name", "must match"),
    ({"architecture": "examples.digits.network"}, "architecture", "is not of the form"),
    ({"architecture": "examples.digits.nowhere:Net"}, "architecture", "no module named 'examples.digits.nowhere'"),
    ({"architecture": "examples.digits.network:Net"}, "architecture", "defines no 'Net'"),
    ({"inputs": ()}, "inputs", "must not be empty"),
    ({"outputs": (Tensor("image", "float32", ("batch", 10)),)}, "inputs and outputs", "repeated names"),
    ({"evaluation": replace(DIGITS.evaluation, metric="f2")}, "evaluation.metric", "neither built in"),
    ({"calibration": Calibration(Dataset("examples.digits.data:nothing"))}, "calibration.data.load", "defines no"),
    ({"calibration": Calibration(DIGITS.evaluation.data)}, "calibration.data", "is the evaluation data itself"),
    (
        {"evaluation": Evaluation(Dataset("examples.digits.data:evaluation", files=("no.csv",)))},
        "evaluation.data",
        "no",
    ),
    ({"targets": ()}, "targets", "at least one"),
    ({"inputs": (Tensor("image", "float32", (1, 1, 32, 32)),)}, "inputs", "none has the axis 'batch'"),
    ({"outputs": (Tensor("logits", "float32", (1, 10)),)}, "outputs", "the first, logits, has no axis 'batch'"),
    ({"states": {"image": "features"}}, "states", "must be an input and the output that becomes it"),
    ({"states": {"image": "logits"}}, "states", "must be alike"),
]


@pytest.mark.parametrize(("change", "field", "reason"), WRONG, ids=[field for _change, field, _reason in WRONG])
def test_a_wrong_field_is_named_with_the_reason(change: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(DIGITS, **change)
    assert error.value.field.startswith(field)
    assert reason in str(error.value)


def test_every_fault_of_a_spec_is_on_a_line_of_its_own() -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(DIGITS, name=5, targets="cpu", schemes="most", gates=None, owners=["somebody"])  # type: ignore[arg-type]
    assert str(error.value).splitlines() == [
        "name: 5 must be text",
        "targets: cpu must be a list",
        "gates: None must be an instance of Gates",
        "owners: 'somebody' is neither an e-mail address nor 'team:name'",
        "schemes: most must be 'usual' or 'all'",
    ]
    with pytest.raises(InvalidSpec) as error:
        replace(DIGITS, architecture="nowhere:Net", axis_ranges={"width": (1, 2, 3)})
    assert [field for field, _reason in error.value.faults] == ["architecture", "axis_ranges"]
    with pytest.raises(InvalidSpec, match=r"(?s)^architecture: is missing\ncheckpoints: is.*\ntragets: is no field"):
        ModelSpec(name="digits", tragets=("cpu",))  # type: ignore[call-arg]


WRONG_PARTS: list[tuple[Callable[..., object], dict[str, object], str]] = [
    (Gates, {"max_accuracy_drop_points": -1}, "gates.max_accuracy_drop_points: -1 must be greater than or equal to 0"),
    (Gates, {"max_accuracy_drop_points": float("nan")}, "gates.max_accuracy_drop_points: nan must be a finite number"),
    (Gates, {"min_cosine": True}, "gates.min_cosine: True must be a number"),
    (Automation, {"nightly": 1}, "automation.nightly: 1 must be true or false"),
    (Gates, {"max_size_bytes": "4 MiB"}, "gates.max_size_bytes: 4 MiB must be a whole number"),
    (Dataset, {"load": 5}, "dataset.load: 5 must be text"),
    (Dataset, {"load": "a:b", "files": "a.csv"}, "dataset.files: a.csv must be a list"),
    (Calibration, {"data": "a:b"}, "calibration.data: a:b must be an instance of Dataset"),
    (Calibration, {"data": Dataset("a:b"), "method": "mean"}, "calibration.method: mean must be 'minmax'"),
    (Evaluation, {"data": Dataset("a:b"), "minimum": "500"}, "evaluation.minimum: 500 must be a whole number"),
    (Evaluation, {"data": Dataset("a:b"), "higher_is_better": 1}, "higher_is_better: 1 must be true or false"),
    (Evaluation, {"data": Dataset("a:b"), "minimum": 3}, "evaluation.minimum: 3 must be greater than or equal to 8"),
    (FineTuning, {"data": Dataset("a:b"), "epochs": 0}, "finetuning.epochs: 0 must be greater than or equal to 1"),
    (FineTuning, {"data": Dataset("a:b"), "learning_rate": 0}, "finetuning.learning_rate: 0 must be greater than 0"),
    (
        Search,
        {"max_seconds": "900", "max_trials": 0},
        "search.max_trials: 0 .*\nsearch.max_seconds: 900 must",
    ),
]


@pytest.mark.parametrize(("part", "fields", "reason"), WRONG_PARTS)
def test_a_wrong_part_is_named_where_it_is_written(
    part: Callable[..., object], fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        part(**fields)


@pytest.mark.parametrize(
    ("preprocessing", "fault"),
    [
        (replace(PREPROCESSING, height="32"), "preprocessing.height: 32 must be a whole number"),  # type: ignore[arg-type]
        (replace(PREPROCESSING, width=0), "preprocessing.width: 0 must be greater than or equal to 1"),
        (replace(PREPROCESSING, mean=("0.3",)), "preprocessing.mean.0: 0.3 must be a number"),  # type: ignore[arg-type]
        (replace(PREPROCESSING, input=None), "preprocessing.input: None must be text"),  # type: ignore[arg-type]
        (Passthrough("image"), "preprocessing.inputs: image must be a list"),  # type: ignore[arg-type]
        (
            "image",
            "preprocessing: str is not one of ImagePreprocessing, AudioPreprocessing, Passthrough, TextPreprocessing",
        ),
    ],
)
def test_a_wrong_preprocessing_is_named(preprocessing: Any, fault: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(DIGITS, preprocessing=preprocessing)
    assert str(error.value) == fault


def test_a_spec_is_a_value_as_it_was_written() -> None:
    again = pickle.loads(pickle.dumps(DIGITS))
    assert again == DIGITS
    assert hash(again) == hash(DIGITS)
    assert replace(DIGITS) == DIGITS
    assert repr(Search(max_seconds=60).max_seconds) == "60", "recipes of a whole number stay"
    assert Tensor("x", "float32", ["batch", 3]).shape == ("batch", 3)  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        DIGITS.name = "other"  # type: ignore[misc]
    error = pickle.loads(pickle.dumps(InvalidSpec("a", "is wrong", [("b", "is missing")])))
    assert error.field == "a"
    assert str(error) == "a: is wrong\nb: is missing"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("image", "float8", ("batch", 3)), "tensor 'image'.dtype: float8 must be 'float32'"),
        (("image", "float32", "batch"), "shape: batch must be a list"),
        (("image", "float32", ("batch", True)), "an axis that is neither a whole number nor a name"),
        (("image", "float32", ("batch", "batch")), "has the axis 'batch' more than once"),
        (("image", "float32", ("batch", 0)), "has an axis below 1"),
        (("an image", "float32", ("batch",)), "must be a Python identifier"),
    ],
)
def test_a_wrong_tensor(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        Tensor(*arguments)


def test_a_broken_model_is_reported_and_the_others_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: Callable[..., None]
) -> None:
    (tmp_path / "broken_models.py").write_text(
        "from dataclasses import replace\nfrom tests.tiny.spec import TINY\n"
        "NOT_A_SPEC = 3\n"
        "FAR = replace(TINY, name='far', targets=('raspberry-pi-4',))\n"
        "TWIN = TINY\n"
    )
    (tmp_path / "crashing_model.py").write_text("raise RuntimeError('no weights today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["tests.tiny.spec:TINY", "broken_models:NOT_A_SPEC", "broken_models:FAR", "broken_models:TWIN"]
    clean_environment(EDGE_ASSETS_MODELS=",".join([*names, "crashing_model:X", "nonsense", "no.such:MODEL"]))
    found = registry()
    assert set(found.models) == {"digits", "minilm", "tiny"}
    assert found.broken["broken_models:NOT_A_SPEC"].endswith("is a int, not a ModelSpec")
    assert found.broken["broken_models:FAR"].startswith("targets: unknown target 'raspberry-pi-4'. Did you mean")
    assert found.broken["broken_models:TWIN"] == (
        "name: 'tiny' is already registered, by tests.tiny.spec:TINY: remove one of the two"
    )
    assert found.broken["crashing_model:X"] == "RuntimeError: no weights today"
    assert "is not of the form" in found.broken["nonsense"]
    assert "No module named 'no'" in found.broken["no.such:MODEL"]
    with pytest.raises(EdgeAssetsError, match="Did not load: .*no weights today"):
        found.model("crashing")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown target 'raspbery-pi5'. Did you mean raspberry-pi-5"):
        target("raspbery-pi5")
    with pytest.raises(UnknownName, match="unknown model 'digit'. Did you mean digits"):
        registry().model("digit")


def test_source_digest_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "some_model"
    package.mkdir()
    (package / "__init__.py").touch()

    def digest_of(helper: str, main: str) -> str:
        source_digest.cache_clear()
        (package / "helper.py").write_text(helper)
        (package / "main.py").write_text(main)
        return source_digest("some_model.main:f")

    plain = digest_of("x = 1", "from .helper import x\ndef f():\n    return x")
    assert (
        digest_of("x = 1  # one", '"""Docs."""\nfrom .helper import x\n\ndef f():\n    """Docs."""\n    return x')
        == plain
    )
    assert digest_of("x = 2", "from .helper import x\ndef f():\n    return x") != plain, "a helper it imports changed"


def test_yaml_says_what_is_built_by_itself() -> None:
    data = {"load": "examples.digits.data:calibration"}
    written = {
        "name": "by_hand",
        "architecture": DIGITS.architecture,
        "checkpoints": "checkpoints",
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "calibration": {"data": data},
        "evaluation": {"data": {"load": "examples.digits.data:evaluation"}},
        "targets": ["graviton3"],
    }
    assert model_spec(parsed(written)).automation == Automation(on_checkpoint=True, nightly=True)
    off = model_spec(parsed(written | {"automation": {"on_checkpoint": False}}))
    assert off.automation == Automation(on_checkpoint=False, nightly=True)
    with pytest.raises(InvalidSpec, match="automation.hourly: Extra inputs are not permitted"):
        parsed(written | {"automation": {"hourly": True}})
