"""Registering a model: what a wrong spec says, and that it breaks no other."""

import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_assets
from edge_assets import AudioPreprocessing, ImagePreprocessing, Passthrough, TextPreprocessing
from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName
from edge_assets.families.families import family_targets
from edge_assets.pipeline.release.manifest import preprocessing_of
from edge_assets.registry import check_variants, registry
from edge_assets.spec.attributes import model_spec, named_spec, parsed
from edge_assets.spec.model import (
    Automation,
    Calibration,
    Dataset,
    Evaluation,
    FineTuning,
    Gates,
    Metric,
    ModelSpec,
    Search,
    Tensor,
)
from edge_assets.spec.preprocess_check import given_inputs
from edge_assets.spec.source import source_digest
from edge_assets.targets.catalog import parse_target
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
        "targets: cpu must be a list: write ['cpu']",
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
    (
        Tensor,
        {"name": "x", "dtype": "bfloat16", "shape": ("batch", 4)},
        r"tensor 'x'.dtype: bfloat16 is no type of NumPy's.*: declare float32, and keep the architecture in float32",
    ),
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
    ("change", "fault"),
    [
        ({"height": "32"}, "preprocessing.height: 32 must be a whole number"),
        ({"width": 0}, "preprocessing.width: 0 must be greater than or equal to 1"),
        ({"mean": ("0.3",)}, "preprocessing.mean.0: 0.3 must be a number"),
        ({"mean": 0.5}, "preprocessing.mean: 0.5 must be a list: write [0.5]"),
        ({"input": None}, "preprocessing.input: None must be text"),
        ({"crop": 36}, "preprocessing.crop: is no field that there is. Did you mean background?"),
        ({"resize": "croped"}, "preprocessing.resize: croped must be 'none', 'stretch', .* Did you mean crop"),
        ({"mean": [0.5, 0.5], "height": 0}, "preprocessing.height: 0 must be greater"),
        ({"mean": [0.5, 0.5]}, "preprocessing: mean and std need one value per channel"),
    ],
)
def test_a_wrong_preprocessing_is_named_as_it_is_made(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(fault).replace(r"\.\*", ".*")):
        replace(PREPROCESSING, **change)


def test_what_is_no_preprocessing_is_named() -> None:
    with pytest.raises(InvalidSpec, match="preprocessing.inputs: image must be a list: write \\['image'\\]"):
        Passthrough("image")  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec, match="preprocessing: str is not one of ImagePreprocessing, AudioPreprocessing"):
        replace(DIGITS, preprocessing="image")  # type: ignore[arg-type]
    assert replace(PREPROCESSING, mean=[0.3]) == replace(PREPROCESSING, mean=(0.3,))  # type: ignore[arg-type]


ODD: tuple[Any, ...] = (
    None,
    5,
    -1,
    0.5,
    float("nan"),
    True,
    "x",
    "",
    b"x",
    (),
    [5],
    {"a": 1},
    {5: None},
    object(),
    Gates,
)
CLASSES = [getattr(edge_assets, name) for name in edge_assets.__all__ if name[0].isupper() and name != "EdgeModel"]


@pytest.mark.parametrize("kind", CLASSES)
def test_no_wrong_value_of_any_field_is_told_in_pythons_own_words(kind: type[Any]) -> None:
    good = WHOLE[kind]
    assert kind(**good)
    for field in fields(kind):
        for value in ODD:
            try:
                kind(**{**good, field.name: value})
            except InvalidSpec as error:
                for place, reason in error.faults:
                    assert place
                    assert not PYTHONS.search(reason), f"{place}: {reason}"
    for arguments in ((), (1,) * 30):
        with pytest.raises(InvalidSpec) if arguments or kind not in DEFAULTED else nullcontext():
            kind(*arguments)
    with pytest.raises(InvalidSpec, match="is no field that there is"):
        kind(**good, nonsense=1)


PYTHONS = re.compile(
    r"object has no|NoneType|unexpected keyword|Input should|positional argument|not (iterable|subscriptable)"
)
DEFAULTED = (Automation, Gates, Search)
WHOLE: dict[type[Any], dict[str, Any]] = {
    Automation: {},
    Gates: {},
    Search: {},
    Calibration: {"data": DIGITS.calibration.data},
    Dataset: {"load": "examples.digits.data:calibration"},
    Evaluation: {"data": DIGITS.evaluation.data},
    FineTuning: {"data": Dataset("examples.digits.data:finetuning")},
    Metric: {"name": "f1"},
    Tensor: {"name": "x", "dtype": "float32", "shape": ("batch", 3)},
    ModelSpec: {field.name: getattr(DIGITS, field.name) for field in fields(DIGITS)},
    ImagePreprocessing: {field.name: getattr(PREPROCESSING, field.name) for field in fields(PREPROCESSING)},
    AudioPreprocessing: {"input": "sound", "sampling_rate": 16000},
    Passthrough: {"inputs": ("x",)},
    TextPreprocessing: {"field": "text", "tokenizer": "tokenizer.json", "max_length": 8},
}


TALL: dict[str, Any] = {"inputs": (Tensor("image", "float32", ("batch", 1, "height", 32)),)}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"preprocessing": replace(PREPROCESSING, height=28)},
            "makes 'image' float32 ('batch', 1, 28, 32), and the model",
        ),
        (
            {"preprocessing": replace(PREPROCESSING, input="imag")},
            "makes 'imag', which is no input .* Did you mean image",
        ),
        ({"preprocessing": Passthrough(("image", "mask"))}, "makes 'mask', which is no input of the model (image)"),
        (
            {"preprocessing": AudioPreprocessing("image", 8000)},
            "makes 'image' float32 ('batch', 'samples'), and the model",
        ),
        (
            {"inputs": (*DIGITS.inputs, Tensor("mask", "float32", ("batch", 3)))},
            "preprocessing: makes no 'mask', which the model takes, but image",
        ),
        (
            {"evaluation": replace(DIGITS.evaluation, metric=Metric("f1", {"output": "logit"}))},
            "evaluation.metric.options.output: 'logit' is no output of the model (logits). Did you mean logits?",
        ),
        (
            {"evaluation": replace(DIGITS.evaluation, metrics=(Metric("coco_map"),))},
            "evaluation.metrics.0.options.boxes: 'boxes' is no output of the model (logits)",
        ),
        (
            {"preprocessing": replace(PREPROCESSING, least=(16, 32))},
            "preprocessing.least: pictures keep sizes from 16 to 32, and the model takes 32 alone: name the axis",
        ),
        (
            {"preprocessing": replace(PREPROCESSING, least=(16, 32)), **TALL, "axis_ranges": {"height": (20, 24, 64)}},
            "axis_ranges: height: pictures keep sizes from 16 to 32, which must lie within 20 to 64",
        ),
        (
            {
                "preprocessing": replace(PREPROCESSING, least=(16, 32), multiple=8),
                **TALL,
                "axis_ranges": {"height": (16, 28, 64)},
            },
            "axis_ranges: height: the best size, 28, must be one that pictures get, from 16 to 32 in multiples of 8",
        ),
    ],
)
def test_what_fields_say_together_is_found_before_any_data_are_read(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(fault).replace(r"\.\*", ".*")):
        replace(DIGITS, **change)


def test_pictures_may_keep_their_height_and_have_one_width() -> None:
    image = replace(PREPROCESSING, least=(16, 32))
    spec = replace(DIGITS, preprocessing=image, **TALL, axis_ranges={"height": (16, 24, 64)})
    assert preprocessing_of(spec, {}) == image
    assert preprocessing_of(spec, {"fixed_axes": {"height": 24}}) == replace(PREPROCESSING, height=24)
    assert preprocessing_of(DIGITS, {"fixed_axes": {}}) == PREPROCESSING


def test_a_sounds_features_have_the_shape_that_is_told_of_them() -> None:
    for audio in (
        AudioPreprocessing("sound", 8000, samples=4000),
        AudioPreprocessing("sound", 8000, samples=4000, n_fft=400, hop=160),
        AudioPreprocessing("sound", 8000, samples=4000, n_fft=401, hop=160, n_mels=20, axes=("channel", "time", "mel")),
        AudioPreprocessing("sound", 8000, samples=4000, n_fft=400, hop=160, center=False),
        AudioPreprocessing("sound", 8000, n_fft=400, hop=160, frames=7, center=False),
    ):
        made = audio.apply({"sound": np.zeros((1, 4000), np.float32)})["sound"]
        given = given_inputs(audio)["sound"]
        assert given is not None
        assert given.sample_shape == made.shape[1:]


def test_names_that_are_nearly_right_are_offered() -> None:
    near = "Did you mean"
    for change, offered in (
        ({"architecture": "examples.digits.network:DigitNet"}, "DigitsNet"),
        ({"schemes": "usuall"}, "usual"),
        ({"evaluation": replace(DIGITS.evaluation, metric="top1_acuracy")}, "top1_accuracy"),
        ({"finetuning": FineTuning(Dataset("examples.digits.data:finetuning"), loss="crossentropy")}, "cross_entropy"),
        ({"evaluation": replace(DIGITS.evaluation, metric=Metric("f1", {"avrage": "micro"}))}, "average"),
    ):
        with pytest.raises(InvalidSpec, match=f"{near}.* {offered}"):
            replace(DIGITS, **change)
    with pytest.raises(InvalidSpec, match=f"gates.max_size_byte: is no field that there is. {near} max_size_bytes"):
        parsed({"gates": {"max_size_byte": 5}})
    with pytest.raises(InvalidSpec, match=f"preprocessing.heigth: is no field .* {near} height"):
        parsed({"preprocessing": {"kind": "image", "heigth": 5}})
    with pytest.raises(InvalidSpec, match=f"module 'examples.digits.spec' has no 'DIGIT'. {near} DIGITS"):
        named_spec("examples.digits.spec:DIGIT")
    with pytest.raises(InvalidSpec, match=f"target x.batchsizes: is no field that there is. {near} batch_sizes"):
        parse_target("x", {"batchsizes": [1]})


def test_named_variants_are_all_there_is_with_what_they_are_made_from() -> None:
    spec = replace(DIGITS, targets=("graviton3", "browser-wasm"), variants=("onnx_int4_gptq", "onnx_int8_dynamic"))
    check_variants(spec)
    assert {family.name: [variant.name for variant in family.variants] for family, _ in family_targets(spec)} == {
        "cpu": ["onnx_model", "onnx_int8_dynamic", "onnx_int4_gptq"],
        "browser": ["onnx_model", "onnx_int8_dynamic", "web_bundle"],
    }
    cpu = next(family for family, _targets in family_targets(spec))
    assert cpu.intermediates == {"onnx_model"}, "which nobody asked for"
    for names, fault in (
        (("onnx_int8_dynamik",), "variants: .* is no variant of cpu and browser. Did you mean onnx_int8_dynamic"),
        (("onnx_int8_qat",), "variants: onnx_int8_qat is for models that have `finetuning` or `search`"),
        (("onnx_int4_gptq",), "variants: names nothing that can be released for browser"),
    ):
        with pytest.raises(InvalidSpec, match=fault):
            check_variants(replace(spec, variants=names))
    with pytest.raises(InvalidSpec, match=r"variants: named more than once: \['onnx_int4'\]"):
        replace(spec, variants=("onnx_int4", "onnx_int4"))


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
    place = tmp_path / "crashing_model.py"
    assert found.broken["crashing_model:X"] == f"RuntimeError: no weights today ({place}, line 1, in <module>)"
    assert "is not of the form" in found.broken["nonsense"]
    assert found.broken["no.such:MODEL"].startswith(
        "models: no module named 'no' (from 'no.such:MODEL'): it must lie in"
    )
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
    with pytest.raises(InvalidSpec, match="automation.hourly: is no field that there is"):
        parsed(written | {"automation": {"hourly": True}})
