"""Shared parts: a model trained once per session, the command line as a user runs it, a built state folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parent.parent
SPEC = "tests.tiny.spec:TINY"


def pytest_configure() -> None:
    """Each parallel worker keeps to one core: threads of two would spin against each other for the same cores."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@dataclass
class Project:
    """One state folder and its environment; runs the command line in a new process, as a user would."""

    home: Path
    checkpoints: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # a project of its own, so that the repository's example is not registered beside the tiny model
        (self.folder / "pyproject.toml").write_text("[tool.edge_assets]\nmodels = []\n")

    @property
    def folder(self) -> Path:
        """The user's project: where commands are run."""
        return self.home.parent

    def env(self, **changes: str) -> dict[str, str]:
        own = {
            "EDGE_ASSETS_HOME": str(self.home),
            "EDGE_ASSETS_MODELS": SPEC,
            "TINY_CHECKPOINTS": str(self.checkpoints),
            "PYTHONPATH": str(ROOT),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "MLFLOW_", "EDGE_ASSETS_"))}
        return {**inherited, **own, **self.environment, **changes}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "edge_assets.cli", *arguments]

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-assets ...` to its end and return what it printed."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env(**changes),
            text=True,
            capture_output=True,
            timeout=300,
        )

    def build(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Build the tiny model for one target."""
        return self.run("build", "--model", "tiny", "--target", "graviton3", *arguments, **changes)


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, trained for a second: about 97 % accurate."""
    from tests.tiny.network import TinyNet

    return trained(TinyNet, tmp_path_factory.mktemp("trained") / "tiny.safetensors")


def trained(architecture: Callable[[], "torch.nn.Module"], path: Path) -> Path:
    """A checkpoint of an architecture for the tiny data, trained for a second."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy

    from tests.tiny.data import split
    from tests.tiny.spec import TINY

    torch.manual_seed(0)
    model = architecture()
    data = split("train")
    images = torch.from_numpy(TINY.preprocess.apply(data)["image"])
    labels = torch.from_numpy(data["label"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(12):
        for batch in torch.randperm(len(labels)).split(100):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def project(tmp_path: Path, checkpoint_file: Path) -> Project:
    """An empty state folder, and a checkpoint folder with the trained checkpoint."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    shutil.copy(checkpoint_file, checkpoints)
    return Project(tmp_path / "home", checkpoints)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: Path) -> Project:
    """The tiny model built for one target, once. Tests only read it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "checkpoints").mkdir()
    shutil.copy(checkpoint_file, folder / "checkpoints")
    project = Project(folder / "home", folder / "checkpoints")
    result = project.build()
    assert result.returncode == 0, result.stdout + result.stderr
    return project


@pytest.fixture
def copy_of_built(built: Project, tmp_path: Path) -> Project:
    """A private copy of the built state folder, for tests that change it."""
    shutil.copytree(built.home, tmp_path / "home")
    shutil.copytree(built.checkpoints, tmp_path / "checkpoints")
    return Project(tmp_path / "home", tmp_path / "checkpoints")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets environment variables for code that runs in this process, and forgets what was cached from others."""
    from edge_assets.registry import registry

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        registry.cache_clear()

    registry.cache_clear()
    yield change
    registry.cache_clear()
