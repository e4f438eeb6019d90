"""Shared parts: a model trained once per session, the command line as a user runs it, a built state folder, a store.

What is made once is made once for all parallel workers, by the first that asks for it.
"""

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from filelock import FileLock

from edge_assets.core import garbage
from tests import warm

if TYPE_CHECKING:
    import torch

    from resources.store import ArtifactStore

ROOT = Path(__file__).parent.parent
SPEC = "tests.tiny.spec:TINY"
# The modules that take the most, longest first: started early, none is left for one worker alone at the end.
LONGEST = (
    "test_formats",
    "test_browser_streams",
    "test_served",
    "test_workers",
    "test_browser",
    "test_tracking_faults",
    "test_build",
    "test_over_ssh",
    "test_recovery",
    "test_text",
    "test_failures",
    "test_gc",
    "test_ui",
    "test_bundle_faults",
    "test_qat",
    "test_store",
    "test_release_app",
    "test_release_sound",
    "test_tracking",
    "test_report",
    "test_browser_device",
    "test_browser_streams",
    "test_recurrent",
    "test_guard",
    "test_engines",
    "test_store_faults",
    "test_init",
    "test_bad_input",
    "test_sensor",
    "test_minilm",
    "test_compare",
    "test_installing",
    "test_mlflow_models",
    "test_large",
    "test_project",
    "test_component",
    "test_coreml_operations",
    "test_examples",
    "test_instance",
    "test_apple",
    "test_search",
)
# where MLflow's database names a folder of artifacts
ARTIFACT_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
MEMORY, MEMORY_NEEDED = Path("/dev/shm"), 10 * 2**30  # bytes, most of them for what the workers import
BUILD = ("build", "--model", "tiny", "--target", "graviton3")


def pytest_configure() -> None:
    """Temporary folders in memory where there is plenty, and each parallel worker on one core, where it measures alone.

    The databases of Dagster and MLflow wait for the disk hundreds of times a build; threads of two workers would spin
    against each other for the same cores.
    """
    memory = psutil.virtual_memory().available
    if MEMORY.is_dir() and min(memory, shutil.disk_usage(MEMORY).free) > MEMORY_NEEDED:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    if worker:
        lock = Path(tempfile.gettempdir()) / f"edge-assets-measuring-{worker}.lock"
        os.environ["EDGE_ASSETS_MEASURING_LOCK"] = str(lock)


def pytest_collection_finish() -> None:
    """What was imported to collect the tests stays, and need not be gone through with the garbage of each."""
    gc.freeze()
    garbage.look_less_often()


def pytest_unconfigure() -> None:
    warm.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first; parallel workers take modules in this order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@dataclass
class Project:
    """One state folder and its environment; runs the command line in new processes, as a user would."""

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
        others = ("DAGSTER_", "MLFLOW_", "EDGE_ASSETS_", "COLUMNS")  # GNU readline sets it for children
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        return {**inherited, **own, **self.environment, **changes}

    def copy_to(self, folder: Path) -> "Project":
        """The same state and checkpoints in another folder."""
        home = shutil.copytree(self.home, folder / "home")
        moved(home / "mlflow" / "mlflow.db")
        return Project(home, shutil.copytree(self.checkpoints, folder / "checkpoints"))

    def start(self, *arguments: str, in_background: bool = False) -> warm.Started:
        """Start `edge-assets ...`, to be read from and signalled while it runs.

        `in_background`: as a script's `&` does, with Ctrl-C ignored.
        """
        return warm.start("edge_assets.cli", arguments, self.folder, self.env(), in_background)

    def start_cold(self, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """The same in a process with imports of its own, as a user starts it."""
        return subprocess.Popen(
            [sys.executable, "-m", "edge_assets.cli", *arguments],
            cwd=self.folder,
            env=self.env(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-assets ...` to its end and return what it printed."""
        return self.run_module("edge_assets.cli", *arguments, **changes)

    def run_module(self, module: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """As `python -m module ...` in the user's project, in a new process whose heavy imports are done."""
        return warm.run(module, arguments, self.folder, self.env(**changes))

    def build(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Build the tiny model for one target."""
        return self.run(*BUILD, *arguments, **changes)


def moved(database: Path) -> None:
    """Lets a copied MLflow database name its own artifacts: it has absolute places, and would log to the original's."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (old,) = connection.execute("SELECT artifact_location FROM experiments WHERE name = 'tiny'").fetchone()
        places = (old.removesuffix("/tiny"), (database.parent / "artifacts").as_uri())
        for table, column in ARTIFACT_PLACES:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", places)


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a distribution read as not installed for one test."""

    def take(distribution: str) -> None:
        def without(name: str) -> str:
            if name == distribution:
                raise PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr("edge_assets.core.tools.distribution_version", without)

    return take


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder by name that a function fills, called by the first worker that asks for it; the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / f"once-{name}", shared / f"once-{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint_file(once: Callable[..., Path]) -> Path:
    """The tiny model, trained for a second: about 97 % accurate."""
    from tests.tiny.network import TinyNet

    return once("trained", lambda folder: trained(TinyNet, folder / "tiny.safetensors")) / "tiny.safetensors"


@pytest.fixture(scope="session")
def store(once: Callable[..., Path]) -> "ArtifactStore":
    """What tests build by calling the steps themselves: a recipe is built once for all of them."""
    from resources.store import open_store

    folder = once("store", lambda _folder: None)
    return open_store(str(folder / "store"), folder / "cache")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 API over HTTP, with the bucket `models`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="models")
    yield endpoint
    server.stop()


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
def built(once: Callable[..., Path], checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny model built for one target, once. Tests only read it."""

    def build(folder: Path) -> None:
        (folder / "checkpoints").mkdir()
        shutil.copy(checkpoint_file, folder / "checkpoints")
        process = Project(folder / "home", folder / "checkpoints").start_cold(*BUILD)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, output + errors

    folder = once("built", build)
    # each worker reads a copy: a database that is open in one could change under another's hands
    return Project(folder / "home", folder / "checkpoints").copy_to(tmp_path_factory.mktemp("built"))


@pytest.fixture
def copy_of_built(built: Project, tmp_path: Path) -> Project:
    """A private copy of the built state folder, for tests that change it."""
    return built.copy_to(tmp_path)


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
