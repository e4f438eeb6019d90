"""The sensor and the schedule: with a real daemon, and by asking them directly."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from tests.conftest import Project

if TYPE_CHECKING:
    from tests.ask import Night, Tick

INTERVAL = 4


@pytest.fixture
def watched_project(tmp_path: Path) -> Project:
    """An empty checkpoint folder, and a Dagster instance for a daemon."""
    from edge_assets.defs.instance import DAGSTER_YAML

    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    environment = {"EDGE_ASSETS_SENSOR_SECONDS": str(INTERVAL), "DAGSTER_HOME": str(tmp_path / "home" / "dagster")}
    project = Project(tmp_path / "home", checkpoints, environment)
    (project.home / "dagster").mkdir(parents=True)
    (project.home / "dagster" / "dagster.yaml").write_text(DAGSTER_YAML)
    with dg.DagsterInstance.from_config(str(project.home / "dagster")):
        pass  # the daemon and the test must not create its databases at the same time
    return project


@contextmanager
def running_daemon(project: Project) -> Iterator[None]:
    """A dagster-daemon of the project."""
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-m", "edge_assets.definitions"]
    with (project.folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project.folder, env=project.env(), stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def daemon(watched_project: Project) -> Iterator[Project]:
    """A running dagster-daemon over an empty checkpoint folder."""
    with running_daemon(watched_project):
        yield watched_project


def test_a_dropped_file_becomes_a_partition_and_its_runs_once(daemon: Project, checkpoint_file: Path) -> None:
    content = checkpoint_file.read_bytes()
    dropped = daemon.checkpoints / "step-100.safetensors"
    with dg.DagsterInstance.from_config(str(daemon.home / "dagster")) as instance:
        wait_for(lambda: ticks(instance) >= 2, 90)
        dropped.write_bytes(content[: len(content) // 2])  # training is still writing
        seen = ticks(instance)
        wait_for(lambda: ticks(instance) >= seen + 3, 60)
        assert runs(instance) == {}
        assert instance.get_dynamic_partitions("tiny_checkpoints") == []

        dropped.write_bytes(content)
        wait_for(lambda: sorted(runs(instance).values()) == ["SUCCESS", "SUCCESS"], 200)
        (key,) = instance.get_dynamic_partitions("tiny_checkpoints")
        assert set(runs(instance)) == {f"{key}|graviton3", f"{key}|raspberry-pi-5"}
        assert release_checks(instance) == [
            (False, f"{key}, the newest checkpoint, is not released yet for graviton3, raspberry-pi-5"),
            (False, f"{key}, the newest checkpoint, is not released yet for raspberry-pi-5"),
            (True, f"{key}, the newest checkpoint, is released for every target"),
        ]
        scorecard = dg.AssetKey(["tiny", "scorecard"])
        wait_for(lambda: key in instance.get_materialized_partitions(scorecard), 90)

        shutil.copy(dropped, daemon.checkpoints / "the-same-again.safetensors")
        dropped.touch()
        seen = ticks(instance)
        wait_for(lambda: ticks(instance) >= seen + 4, 60)
        assert len(runs(instance)) == 2
        assert instance.get_dynamic_partitions("tiny_checkpoints") == [key]


def runs(instance: dg.DagsterInstance) -> dict[str, str]:
    """Status of the family job's runs by partition."""
    found = instance.get_runs(dg.RunsFilter(job_name="tiny_cpu"))
    return {run.tags["dagster/partition"]: run.status.value for run in found}


def ticks(instance: dg.DagsterInstance) -> int:
    """How often the checkpoint sensor has been evaluated."""
    states = [s for s in instance.all_instigator_state() if s.instigator_name == "tiny_checkpoint_sensor"]
    return sum(len(instance.get_ticks(state.instigator_origin_id, state.selector_id)) for state in states)


def release_checks(instance: dg.DagsterInstance) -> list[tuple[bool, str]]:
    """What was said of the tiny model's releases, the earliest first: whether they are of the newest checkpoint."""
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "cpu", "release"]), "newest_checkpoint")
    said = []
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=10):
        event = record.event.dagster_event if record.event else None
        if event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            said.append((evaluation.passed, evaluation.description or ""))
    return said[::-1]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(1)


# --- asked directly ------------------------------------------------------------------------------------


def ask(project: Project, *arguments: str, **changes: str) -> str:
    """What tests/ask.py prints in the project: JSON."""
    result = project.run_module("tests.ask", *arguments, **changes)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def ask_sensor(project: Project, times: int) -> "list[Tick]":
    """The answers of the checkpoint sensor to so many ticks."""
    return json.loads(ask(project, "sensor", str(times)))


def ask_schedule(project: Project, **changes: str) -> "Night":
    """The answer of the nightly schedule."""
    return json.loads(ask(project, "schedule", **changes))


def test_the_first_tick_registers_history_and_builds_only_the_newest(project: Project) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(project.checkpoints / "tiny.safetensors")
    (project.checkpoints / "tiny.safetensors").unlink()
    for epoch in (9, 10, 2):
        save_file(
            {**state, "classifier.bias": torch.full((10,), float(epoch))}, project.checkpoints / f"e{epoch}.safetensors"
        )
    (project.checkpoints / "notes.txt").write_text("not a checkpoint")
    first, second, third = ask_sensor(project, 3)
    assert first == {"runs": [], "added": []}, "nothing is known to be settled yet"
    assert [key.rpartition("-")[0] for key in second["added"]] == ["e2", "e9", "e10"]
    assert {str(run).partition("|")[0].rpartition("-")[0] for run in second["runs"]} == {"e10"}
    assert third == {"runs": [], "added": []}


def test_nightly_rebuilds_only_what_is_stale_of_the_newest(copy_of_built: Project) -> None:
    copy_of_built.run("build", "--model", "tiny")  # the other target too
    fresh = ask_schedule(copy_of_built)
    assert fresh["runs"] == []
    assert "is up to date on every target" in (fresh["skip"] or "")
    stale = ask_schedule(copy_of_built, TINY_CALIBRATION="2")
    assert [str(key).partition("|")[2] for key in stale["runs"]] == ["graviton3", "raspberry-pi-5"]
