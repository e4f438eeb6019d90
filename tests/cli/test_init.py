"""`edge-assets init`: a project that builds at once, and nothing left of one that could not be made."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_assets.cli import init
from edge_assets.errors import EdgeAssetsError
from tests import warm
from tests.conftest import ROOT

NAME = "shapes"
OTHER = "a" * 63  # the longest there is: the code keeps to its format with it, too


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a new user's terminal: nothing but the folder says what to build."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "MLFLOW_", "EDGE_ASSETS_"))}
    return warm.run("edge_assets.cli", arguments, folder, {**inherited, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def made(once: Callable[..., Path]) -> Path:
    """The folder of a project, made and built for one target."""

    def fill(folder: Path) -> None:
        made = run("init", NAME, folder=folder)
        assert made.returncode == 0, made.stderr
        assert "edge-assets build" in made.stdout
        built = run("build", "--target", "raspberry-pi-5", folder=folder / NAME)
        assert built.returncode == 0, built.stdout + built.stderr

    return once("init", fill) / NAME


def test_a_new_project_builds_at_once_and_its_release_runs(made: Path) -> None:
    (release,) = (made / ".edge-assets" / "releases" / NAME / "raspberry-pi-5").iterdir()
    sample = subprocess.run(
        [sys.executable, "infer.py"], cwd=release, capture_output=True, text=True, check=True, timeout=200
    )
    assert "logits" in sample.stdout
    rows = json.loads(run("scorecard", "--json", folder=made).stdout)
    (baseline,) = [row for row in rows if row["artifact"] == "checkpoint"]
    assert baseline["accuracy"] > 0.9
    assert "released" in {row["verdict"] for row in rows}


def test_another_name_is_another_checkpoint(made: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(made, tmp_path / NAME, ignore=shutil.ignore_patterns(".edge-assets"))
    script = f"""
import runpy, sys, {NAME}.train as training
few = {{name: values[:200] for name, values in training.train().items()}}
training.train = training.evaluation = lambda: few
training.main("first"), training.main("second")
sys.argv = ["train", "--help"]
runpy.run_module("{NAME}.train", run_name="__main__")
"""
    subprocess.run([sys.executable, "-c", script], cwd=copied, check=True, timeout=200, capture_output=True)
    first, second = sorted((copied / "checkpoints").iterdir())
    assert (first.name, second.name) == ("first.safetensors", "second.safetensors"), "and none of --help"
    assert first.read_bytes() != second.read_bytes()


def test_nothing_but_the_project_is_made(made: Path) -> None:
    assert not [path.name for path in made.parent.iterdir() if path != made]
    assert "__pycache__/" in (made / ".gitignore").read_text()
    assert len((made / "README.md").read_text().splitlines()) <= 15


@pytest.mark.parametrize("name", [NAME, OTHER])
def test_its_code_is_in_the_form_that_ruff_gives_it(tmp_path: Path, name: str) -> None:
    init.write(name, tmp_path)
    for command in (["check"], ["format", "--check"]):
        tidy = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert tidy.returncode == 0, tidy.stdout


def test_it_is_built_for_this_machine_where_that_is_a_target_and_for_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_assets.targets import load_catalog

    for own, expected in (
        ("graviton3", ["graviton3", "raspberry-pi-5"]),
        ("raspberry-pi-5", ["raspberry-pi-5"]),
        (None, ["raspberry-pi-5"]),
    ):
        found = load_catalog().targets.get(own) if own else None
        monkeypatch.setattr(init, "local_target", lambda _targets, _family, found=found: found)
        assert init.default_targets() == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-model", "cannot name a package"),
        ("../up", "cannot name a package"),
        ("Shapes", "cannot name a package"),
        ("3d", "cannot name a package"),
        ("class", "cannot name a package"),
        ("json", "would hide"),
        ("torch", "would hide"),
        ("resources", "would hide"),
    ],
)
def test_a_name_that_no_package_can_have(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(EdgeAssetsError, match=reason):
        init.create(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "notes.txt").write_text("mine")
    refused = run("init", NAME, folder=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1
    assert "exists already" in refused.stderr
    assert [path.name for path in tmp_path.rglob("*")] == [NAME, "notes.txt"]


def test_a_place_that_cannot_be_written() -> None:
    with pytest.raises(EdgeAssetsError, match="cannot write /proc"):
        init.create(NAME, Path("/proc"))


def test_nothing_is_left_where_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "TRAINING_SECONDS", 0.05)
    with pytest.raises(EdgeAssetsError, match="took more than"):
        init.create(NAME, tmp_path)
    assert not list(tmp_path.iterdir())


def test_build_asks_which_model_only_where_there_are_several(tmp_path: Path, made: Path) -> None:
    assert "1 up to date" in run("build", "--target", "raspberry-pi-5", folder=made).stdout
    (tmp_path / "pyproject.toml").write_text('[tool.edge_assets]\nmodels = ["two:A", "two:B"]\n')
    code = "from dataclasses import replace\nfrom tests.tiny.spec import MLP as A, TINY as B\n"
    (tmp_path / "two.py").write_text(code)
    asked = run("build", folder=tmp_path)
    assert asked.returncode == 1
    assert "say which model with --model: mlp, tiny" in asked.stderr
    (tmp_path / "pyproject.toml").write_text("[tool.edge_assets]\nmodels = []\n")
    file = tmp_path / "pyproject.toml"
    assert f"no model is registered: name one in {file}" in run("build", folder=tmp_path).stderr
    file.unlink()
    alone = run("build", folder=tmp_path).stderr
    assert f"there is no pyproject.toml with [tool.edge_assets] in {tmp_path} or above it" in alone
    assert "edge-assets init NAME" in alone


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('[tool.edge_assets]\nmodels = "two:A"\n', "[tool.edge_assets] models: must be a list of texts"),
        (
            '[tool.edge_assets]\nmodel = ["two:A"]\n',
            "[tool.edge_assets] model: is no setting: there are models, targets",
        ),
        ("[tool.edge_assets\n", "pyproject.toml: is no TOML: "),
    ],
)
def test_wrong_settings_of_a_project_are_one_sentence(tmp_path: Path, written: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(written)
    result = run("build", folder=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
