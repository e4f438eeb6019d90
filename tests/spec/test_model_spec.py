"""Registering a model: what a wrong spec says, and that it breaks no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName
from edge_assets.registry import registry
from edge_assets.spec.model import Calibration, Dataset, Evaluation, Gates, Tensor
from edge_assets.spec.source import source_digest
from edge_assets.targets.project import target
from examples.digits.spec import DIGITS

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "My Model"}, "name", "must match"),
    ({"architecture": "examples.digits.network"}, "architecture", "is not of the form"),
    ({"architecture": "examples.digits.nowhere:Net"}, "architecture", "no module named 'examples.digits.nowhere'"),
    ({"architecture": "examples.digits.network:Net"}, "architecture", "defines no 'Net'"),
    ({"inputs": ()}, "inputs", "must not be empty"),
    ({"outputs": (Tensor("image", "float32", ("batch", 10)),)}, "inputs and outputs", "repeated names"),
    ({"evaluation": replace(DIGITS.evaluation, metric="f1")}, "evaluation.metric", "neither built in"),
    ({"calibration": Calibration(Dataset("examples.digits.data:nothing"))}, "calibration.data.load", "defines no"),
    ({"calibration": Calibration(DIGITS.evaluation.data)}, "calibration.data", "is the evaluation data itself"),
    (
        {"evaluation": Evaluation(Dataset("examples.digits.data:evaluation", files=("no.csv",)))},
        "evaluation.data",
        "no",
    ),
    ({"gates": Gates(max_accuracy_drop_points=-1)}, "gates.max_accuracy_drop_points", "negative"),
    ({"targets": ()}, "targets", "at least one"),
]


@pytest.mark.parametrize(("change", "field", "reason"), WRONG, ids=[field for _change, field, _reason in WRONG])
def test_a_wrong_field_is_named_with_the_reason(change: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        replace(DIGITS, **change)
    assert error.value.field.startswith(field)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("image", "float8", ("batch", 3)), "'float8' is not one of"),
        (("image", "float32", (1, 3)), "must begin with the dynamic axis 'batch'"),
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
    assert set(found.models) == {"digits", "digits_in_depth", "minilm", "tiny"}
    assert found.broken["broken_models:NOT_A_SPEC"].endswith("is a int, not a ModelSpec")
    assert found.broken["broken_models:FAR"].startswith("targets: unknown target 'raspberry-pi-4'. Did you mean")
    assert found.broken["broken_models:TWIN"] == "name: 'tiny' is already registered"
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
