"""A model by YAML: the same as one in Python, for Dagster, for its `dg`, and for the command line."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import edge_assets
from edge_assets.cli import init
from edge_assets.errors import InvalidSpec
from edge_assets.spec.attributes import attributes_type, model_spec, parsed
from tests import warm
from tests.conftest import ROOT
from tests.tiny.spec import MLP, TINY

NAME = "shapes"
DG = Path(sys.executable).with_name("dg")
TYPE = "edge_assets.EdgeModel"
NAMED = {"spec": "tests.tiny.spec:MLP"}
WRITTEN: dict[str, Any] = {
    "name": "tiny",
    "architecture": "tests.tiny.network:TinyNet",
    "checkpoints": TINY.checkpoints,
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
    "preprocessing": {
        "kind": "image",
        "input": "image",
        "height": 8,
        "width": 8,
        "channels": 1,
        "mean": [0.3],
        "std": [0.35],
    },
    "calibration": {"data": {"load": "tests.tiny.data:calibration"}},
    "evaluation": {"data": {"load": "tests.tiny.data:evaluation"}, "minimum": 500},
    "gates": {"max_accuracy_drop_points": 2.0, "max_size_bytes": 2**20, "max_memory_bytes": 2**30},
    "targets": ["graviton3", "raspberry-pi-5"],
    "class_names": list("0123456789"),
}


class Project:
    """A project as `edge-assets init` makes it, without a checkpoint, and with more models by YAML."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        init.write(NAME, folder)

    def declare(self, place: str, *attributes: dict[str, Any]) -> None:
        """Write a defs.yaml with a document for each of `attributes`."""
        documents = [{"type": TYPE, "attributes": each} for each in attributes]
        file = self.folder / NAME / "defs" / place / "defs.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump_all(documents))

    @property
    def env(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "MLFLOW_", "EDGE_ASSETS_"))}
        return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=300)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return warm.run("edge_assets.cli", arguments, self.folder, self.env)

    def dg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(DG), *arguments)

    def loaded(self) -> subprocess.CompletedProcess[str]:
        """What Dagster loads, printed by tests/loaded.py."""
        return warm.run("tests.loaded", (), self.folder, self.env)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# --- attributes -----------------------------------------------------------------------------------------------


def test_yaml_says_the_same_model_as_python() -> None:
    assert model_spec(parsed(WRITTEN)) == TINY
    assert model_spec(parsed(NAMED)) is MLP


def test_every_field_of_a_spec_can_be_said() -> None:
    every = {
        "automation": {"on_checkpoint": False},
        "axis_ranges": {},
        "description": "Digits",
        "finetuning": {"data": {"load": "tests.tiny.data:finetuning", "version": "2"}, "epochs": 1},
        "flush_subnormals": True,
        "license": "MIT",
        "owners": ["team:vision"],
        "schemes": "all",
        "search": {"objective": "latency", "max_trials": 3},
        "states": {},
        "variants": ["onnx_int8_static"],
        "weights": "ema",
    }
    spec = model_spec(parsed({**WRITTEN, **every}))
    assert set(attributes_type().model_fields) == {"spec", *every, *WRITTEN}
    assert spec.finetuning is not None
    assert spec.finetuning.data.version == "2"
    assert spec.finetuning.seed == 0
    assert spec.search is not None
    assert spec.search.objective == "latency"
    assert spec.owners == ("team:vision",)
    assert spec.schemes == "all"
    assert spec.variants == ("onnx_int8_static",)
    assert spec.weights == "ema"
    assert (spec.automation.on_checkpoint, spec.automation.nightly) == (False, True)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (None, "give spec, or all of the model's fields"),
        ({**WRITTEN, "gate": {}}, "gate: is no field that there is. Did you mean gates"),
        ({**WRITTEN, "gates": {"max_size": 3}}, "gates.max_size: is no field .* Did you mean max_size_bytes"),
        ({"name": "tiny"}, "architecture, checkpoints, .* not given"),
        ({**NAMED, "targets": ["l4"]}, "stands for all fields, so leave out targets"),
        ({"spec": "tests.tiny.spec"}, "is not of the form"),
        ({"spec": "tests.tiny.spec:SPLITS"}, "module 'tests.tiny.spec' has no 'SPLITS'"),
        ({**WRITTEN, "preprocessing": {"kind": "sound"}}, "sound must be image or audio or passthrough or text"),
        ({**WRITTEN, "preprocessing": {**WRITTEN["preprocessing"], "mean": [1, 2]}}, "one value per channel"),
        ({**WRITTEN, "checkpoints": "{{ env.HOME }}"}, "is a template"),
        ({**WRITTEN, "name": "My model"}, "name: 'My model' must match"),
    ],
)
def test_wrong_attributes_are_named(attributes: object, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        model_spec(parsed(attributes))


# --- registration ---------------------------------------------------------------------------------------------


def test_a_model_by_yaml_is_the_same_for_dagster_as_by_name(tmp_path: Path) -> None:
    by_name, by_yaml = Project(tmp_path / "name"), Project(tmp_path / "yaml")
    settings = by_yaml.folder / "pyproject.toml"
    settings.write_text(settings.read_text().replace(f'models = ["{NAME}.spec:MODEL"]', "models = []"))
    by_yaml.declare("vision/shapes", {"spec": f"{NAME}.spec:MODEL"})
    expected, found = by_name.loaded(), by_yaml.loaded()
    assert expected.returncode == found.returncode == 0, expected.stderr + found.stderr
    assert json.loads(found.stdout) == json.loads(expected.stdout)
    assert "scorecard_sensor" in found.stdout
    assert f"{NAME}_checkpoint_sensor" in found.stdout


def test_the_command_line_knows_it(project: Project) -> None:
    project.declare("two", NAMED, {**WRITTEN, "checkpoints": "elsewhere"})
    listed = project.cli("doctor").stdout
    for name in (NAME, "mlp", "tiny"):
        assert f"✓ model {name}: " in listed
    assert "no checkpoint of tiny in" in project.cli("build", "--model", "tiny").stderr


def test_a_model_that_is_registered_twice_is_one_clear_error(project: Project) -> None:
    project.declare("again", {"spec": f"{NAME}.spec:MODEL"})
    reason = f"name: '{NAME}' is already registered, by {NAME}.spec:MODEL: remove one of the two"
    doctor = project.cli("doctor")
    assert doctor.returncode == 1
    assert f"model defs/again/defs.yaml: {reason}" in doctor.stdout
    loaded = project.loaded()
    assert loaded.returncode != 0
    assert reason in loaded.stderr
    assert "again" in loaded.stderr


def test_two_files_with_one_name(project: Project) -> None:
    project.declare("first", NAMED)
    project.declare("second", NAMED, {"spec": "tests.tiny.spec:TINY"})
    reason = "'mlp' is already registered, by defs/first/defs.yaml"
    assert f"defs/second/defs.yaml: name: {reason}" in project.cli("doctor").stdout
    assert reason in project.loaded().stderr


def test_a_wrong_file_stops_no_build_of_another_model(project: Project) -> None:
    project.declare("wrong", {**WRITTEN, "targets": ["raspberry-pi-4"]})
    (project.folder / NAME / "defs" / "torn").mkdir()
    (project.folder / NAME / "defs" / "torn" / "defs.yaml").write_text("type: [")
    doctor = project.cli("doctor")
    assert doctor.returncode == 1
    assert "model defs/wrong/defs.yaml: targets: unknown target 'raspberry-pi-4'. Did you mean" in doctor.stdout
    assert "model defs/torn/defs.yaml: attributes: cannot be read" in doctor.stdout
    built = project.cli("build", "--model", NAME)
    assert "no checkpoint of shapes in" in built.stderr, built.stderr


# --- Dagster's own tools --------------------------------------------------------------------------------------


def test_the_package_announces_its_component() -> None:
    from dagster.components.core.package_entry import get_package_objects_in_module

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["dagster_dg_cli.registry_modules"].values()
    assert module == edge_assets.__name__
    assert dict(get_package_objects_in_module(edge_assets)) == {"EdgeModel": edge_assets.EdgeModel}


def test_importing_the_package_imports_neither_dagster_nor_pydantic() -> None:
    code = "import sys, edge_assets; dir(edge_assets); print({'dagster', 'pydantic', 'yaml'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_an_empty_defs_folder_costs_nothing(project: Project) -> None:
    code = "import sys, edge_assets.definitions; print({'dagster_aws', 'boto3', 'torch'} & sys.modules.keys())"
    assert project.run(sys.executable, "-c", code).stdout.strip() == "set()"


@pytest.mark.parametrize("parameters", [None, {"spec": "tests.tiny.spec:MLP"}])
def test_what_is_scaffolded_loads(project: Project, parameters: dict[str, str] | None) -> None:
    code = (
        "from pathlib import Path\n"
        "from dagster.components.component_scaffolding import scaffold_object\n"
        f"path = Path.cwd() / '{NAME}' / 'defs' / 'other'\n"
        f"scaffold_object(path, '{TYPE}', {json.dumps(parameters) if parameters else None!r}, 'yaml', Path.cwd())\n"
    )
    scaffolded = project.run(sys.executable, "-c", code)
    assert scaffolded.returncode == 0, scaffolded.stderr
    name = "mlp" if parameters else "other"
    loaded = project.loaded()
    assert loaded.returncode == 0, loaded.stderr
    assert {f"{name}_cpu", f"{NAME}_cpu"} <= set(json.loads(loaded.stdout)["jobs"])


@pytest.mark.skipif(
    not DG.exists(), reason="Dagster's dg is not installed: pip install 'edge-assets[dg]', not beside litert"
)
class TestDg:
    def test_lists_the_component(self, project: Project) -> None:
        listed = project.dg("list", "components", "--json")
        assert listed.returncode == 0, listed.stdout + listed.stderr
        assert f'"{TYPE}"' in listed.stdout, listed.stdout + listed.stderr

    def test_scaffolds_checks_and_lists(self, project: Project) -> None:
        for arguments in (
            ("scaffold", "defs", TYPE, "other"),
            ("scaffold", "defs", TYPE, "tiny", "--spec", "tests.tiny.spec:TINY"),
            ("check", "yaml"),
            ("check", "defs"),
        ):
            done = project.dg(*arguments)
            assert done.returncode == 0, f"dg {' '.join(arguments)}: {done.stdout}{done.stderr}"
        listed = project.dg("list", "defs", "--json")
        keys = {asset["asset_key"] for asset in json.loads(listed.stdout)["assets"]}
        assert {f"{name}/cpu/release" for name in (NAME, "other", "tiny")} <= keys

    def test_refuses_what_is_wrong(self, project: Project) -> None:
        project.declare("wrong", {**WRITTEN, "gate": {}})
        checked = project.dg("check", "yaml")
        assert checked.returncode != 0
        assert "'gate' was unexpected" in checked.stdout
        assert project.dg("check", "defs").returncode != 0

    def test_refuses_a_name_that_is_taken(self, project: Project) -> None:
        project.declare("again", {"spec": f"{NAME}.spec:MODEL"})
        checked = project.dg("check", "defs")
        assert checked.returncode != 0
        assert f"'{NAME}' is already registered, by {NAME}.spec:MODEL" in checked.stdout + checked.stderr

    def test_has_no_python_form(self, project: Project) -> None:
        asked = project.dg("scaffold", "defs", TYPE, "other", "--format", "python")
        assert asked.returncode != 0
        assert "that pyproject.toml names" in asked.stderr
