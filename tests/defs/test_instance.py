"""The state folder and its Dagster instance: made once by many, for their owner alone, with settings of today."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from edge_assets.cli import build as building
from edge_assets.core.types import File
from edge_assets.defs import running
from edge_assets.defs.instance import DAGSTER_YAML, FORMER_YAML, missing_settings, open_instance, prepare
from edge_assets.defs.recovery import dead_runs_sensor
from edge_assets.defs.running import FORMER_TAG, TAG, Worker
from edge_assets.errors import EdgeAssetsError, StoreError
from edge_assets.settings import Home, allowed_hosts, home_mode, mlflow_url, token
from resources.checkpoints import Checkpoint
from resources.store import open_store
from tests.conftest import ROOT, Project

PIPES: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
OPEN_AND_ADD = """
from edge_assets.defs.instance import add_partitions, open_instance
from edge_assets.settings import home
with open_instance(home()) as instance:
    print("open", flush=True)
    input()
    add_partitions(instance, "tiny_checkpoints", ["a", "b", "a"])
"""


def test_commands_at_once_make_one_instance_and_each_partition_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    project = Project(tmp_path / "home", tmp_path / "checkpoints")
    command = [sys.executable, "-c", OPEN_AND_ADD]
    processes = [subprocess.Popen(command, env=project.env(), cwd=ROOT, **PIPES) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance:
        assert sorted(instance.get_dynamic_partitions("tiny_checkpoints")) == ["a", "b"]


def test_runs_whose_process_is_gone_are_closed_and_no_others() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = Worker.current()
    gone = Worker(here.host, here.machine, here.boot, here.namespace, ended.pid, here.started)
    elsewhere = Worker(here.host, here.machine, here.boot, "pid:[1]", 1, "1")
    with dg.DagsterInstance.local_temp() as instance:

        def run(
            status: dg.DagsterRunStatus,
            worker: Worker | None = None,
            tag: str = TAG,
            tags: dict[str, str] | None = None,
        ) -> str:
            run_id = str(uuid.uuid4())
            if worker:
                tags = {tag: worker.tags(run_id)[TAG]}
            return create_run_for_test(instance, "tiny_cpu", run_id=run_id, status=status, tags=tags).run_id

        copied = gone.tags(str(uuid.uuid4()))  # a run that repeats another has that one's tags
        unreadable = json.dumps({**asdict(gone), "pid": "x"})
        expected = {
            run(dg.DagsterRunStatus.STARTED, gone): "FAILURE",
            run(dg.DagsterRunStatus.STARTING, gone): "FAILURE",
            run(dg.DagsterRunStatus.STARTED, gone, FORMER_TAG): "FAILURE",
            run(dg.DagsterRunStatus.CANCELING, gone): "CANCELED",
            run(dg.DagsterRunStatus.SUCCESS, gone): "SUCCESS",
            run(dg.DagsterRunStatus.STARTED, here): "STARTED",
            run(dg.DagsterRunStatus.STARTED, elsewhere): "STARTED",
            run(dg.DagsterRunStatus.STARTED, tags={TAG: "host:1"}): "STARTED",
            run(dg.DagsterRunStatus.STARTED): "STARTED",
            run(dg.DagsterRunStatus.STARTING, tags=copied): "STARTING",
            run(dg.DagsterRunStatus.STARTING, tags={TAG: unreadable}): "STARTING",
        }
        answer = dead_runs_sensor(dg.build_sensor_context(instance))
        assert isinstance(answer, dg.SkipReason)
        assert answer.skip_message == "4 dead runs were closed"
        assert {run.run_id: run.status.value for run in instance.get_runs()} == expected


DEAF = """
import signal, sys, time
from pathlib import Path
import dagster as dg
from edge_assets.defs.running import executing
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    with executing(instance, instance.get_run_by_id(sys.argv[2])):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # as native code that never returns
        print("works", flush=True)
        time.sleep(60)
"""


def test_a_process_that_goes_on_after_its_run_was_ended_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []
    with open_instance(home) as instance:
        runs = [create_run_for_test(instance, "tiny_cpu", status=dg.DagsterRunStatus.STARTED) for _ in range(2)]
        try:
            for run in runs:
                command = [sys.executable, "-c", DEAF, str(home.dagster), run.run_id]
                processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **PIPES))
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "works\n", process.communicate()[1]
            deaf, working = processes
            ended = runs[0].run_id
            instance.run_launcher.terminate(ended)
            instance.report_run_failed(runs[0], "Exceeded maximum runtime of 86400 seconds.")
            dead_runs_sensor(dg.build_sensor_context(instance))
            assert deaf.poll() is None, "it may be about to end"
            monkeypatch.setattr(running, "DEAF_SECONDS", 0)
            dead_runs_sensor(dg.build_sensor_context(instance))
            assert deaf.wait(10) == -signal.SIGKILL
            assert working.poll() is None
            said = [entry.message for entry in instance.all_logs(ended)]
            assert f"Killed the process {deaf.pid}, which worked on this run after it had ended." in said
            locks = [path.stem for path in (home.dagster / "running").glob("*.lock")]
            assert locks == [runs[1].run_id]
        finally:
            for process in processes:
                process.kill()
                process.wait()


INTERRUPTIBLE = """
import dataclasses, json, signal, time
from edge_assets.defs.running import Worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a test run in the background has ignored
print(json.dumps(dataclasses.asdict(Worker.current())), flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_terminate_interrupts_the_process_of_a_command_and_no_other(home: Home) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **PIPES)
    assert process.stdout is not None
    worker = json.loads(process.stdout.readline())
    with open_instance(home) as instance:

        def run(**changes: str) -> str:
            run_id = str(uuid.uuid4())
            tags = {TAG: json.dumps({"run": run_id, **worker, **changes})}
            started = dg.DagsterRunStatus.STARTED
            return create_run_for_test(instance, "tiny_cpu", run_id=run_id, status=started, tags=tags).run_id

        def status(run_id: str) -> str:
            found = instance.get_run_by_id(run_id)
            assert found is not None
            return found.status.value

        launcher = instance.run_launcher
        given_away = run(started="1")  # its process id belongs to another process today
        assert launcher.terminate(given_away)
        assert status(given_away) == "FAILURE"
        elsewhere = run(namespace="pid:[1]")
        assert not launcher.terminate(elsewhere)
        assert status(elsewhere) == "CANCELING"
        of_another = run(run="another")  # whoever launches a run may give it such a tag
        assert not launcher.terminate(of_another)
        assert status(of_another) == "CANCELING"
        assert process.poll() is None
        assert launcher.terminate(run())
    assert process.communicate(timeout=30)[0] == "interrupted\n"


# --- dagster.yaml --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr("os.environ", dict(os.environ))  # `prepare` sets DAGSTER_HOME
    return Home(tmp_path / "home")


def test_settings_that_a_former_version_wrote_are_replaced(home: Home) -> None:
    home.dagster.mkdir(parents=True)
    for former in FORMER_YAML:
        (home.dagster / "dagster.yaml").write_text(former)
        prepare(home)
        assert (home.dagster / "dagster.yaml").read_text() == DAGSTER_YAML
    assert missing_settings(home) == []
    assert [path.name for path in home.dagster.iterdir()] == ["dagster.yaml"]


def test_settings_of_the_users_own_are_kept_and_what_they_lack_is_said(home: Home) -> None:
    home.dagster.mkdir(parents=True)
    own = FORMER_YAML[0].replace("max_concurrent_runs: 1", "max_concurrent_runs: 2")
    (home.dagster / "dagster.yaml").write_text(own)
    prepare(home)
    assert (home.dagster / "dagster.yaml").read_text() == own
    lacks = missing_settings(home)
    assert len(lacks) == 3
    assert any("run_monitoring.max_runtime_seconds: a run that hangs" in lack for lack in lacks)


def test_doctor_says_what_is_open_and_shows_no_credentials(project: Project) -> None:
    folder = project.home / "dagster"
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    project.home.chmod(0o755)
    result = project.run("doctor", MLFLOW_TRACKING_URI="http://alice:s3cret@127.0.0.1:1")
    shown = " ".join(result.stdout.split())
    assert "MLflow http://127.0.0.1:1" in shown
    assert "s3cret" not in result.stdout + result.stderr
    assert "has no run_launcher.class" in shown
    assert f"{project.home} can be read by other accounts" in shown


def test_links_to_mlflow_hold_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_ASSETS_MLFLOW_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:s3cret@models.example.com/mlflow/?token=1")
    assert mlflow_url() == "http://models.example.com/mlflow"


# --- the folder ----------------------------------------------------------------------------------------


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


def test_a_new_state_folder_is_its_owners_alone_whatever_the_umask(home: Home) -> None:
    said: list[str] = []
    before = os.umask(0)
    try:
        prepare(home, said.append)
    finally:
        os.umask(before)
    assert mode(home.root) == 0o700
    assert said == []


def test_a_state_folder_that_others_could_read_is_closed_with_a_word(home: Home) -> None:
    home.root.mkdir()
    home.root.chmod(0o755)
    said: list[str] = []
    prepare(home, said.append)
    assert mode(home.root) == 0o700
    assert len(said) == 1
    assert "could be read by other accounts" in said[0]
    prepare(home, said.append)
    assert len(said) == 1


def test_a_team_shares_its_state_folder_by_choice(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_HOME_MODE", "2770")
    prepare(home)
    assert mode(home.root) == 0o2770
    home.root.chmod(0o2777)
    prepare(home)
    assert mode(home.root) == 0o2770
    monkeypatch.setenv("EDGE_ASSETS_HOME_MODE", "0070")
    with pytest.raises(EdgeAssetsError, match="EDGE_ASSETS_HOME_MODE=0070"):
        home_mode()


def test_a_folder_that_holds_more_than_state_is_left_as_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.root.mkdir()
    home.root.chmod(0o755)
    monkeypatch.chdir(home.root)
    said: list[str] = []
    prepare(home, said.append)
    assert mode(home.root) == 0o755
    assert len(said) == 1
    assert "give it a folder alone" in said[0]


# --- the environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["http://models.example.com", "*.example.com", "a b", "host/path"])
def test_allowed_hosts_are_names_as_they_stand_in_addresses(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_ALLOWED_HOSTS", "Models.example.com, localhost:8000")
    assert allowed_hosts() == {"models.example.com", "localhost:8000"}
    monkeypatch.setenv("EDGE_ASSETS_ALLOWED_HOSTS", value)
    with pytest.raises(EdgeAssetsError, match="is not a host name"):
        allowed_hosts()


@pytest.mark.parametrize("value", ["short", "long enough but with spaces", "ä" * 16])
def test_a_token_that_is_short_or_no_token_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ASSETS_TOKEN", value)
    with pytest.raises(EdgeAssetsError, match="at least 16 letters") as failed:
        token()
    assert value not in str(failed.value)


def test_a_full_disk_of_the_store_stops_a_build_as_one_of_the_state_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "elsewhere" / "store"), tmp_path / "home" / "cache")
    full = {tmp_path / "elsewhere" / "store"}
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(folder: Path) -> object:
        return usage._replace(free=5) if full & {folder, *folder.parents} else usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    (tmp_path / "elsewhere" / "store").mkdir(parents=True)
    checkpoint = Checkpoint("tiny", "tiny-1", File("tiny.pt", "0" * 64, 1), "tiny.pt", 0.0)
    with pytest.raises(StoreError, match="set EDGE_ASSETS_STORE to another disk"):
        building._check_space(Home(tmp_path / "home"), store, [checkpoint])


def test_ports_that_cannot_be_served_are_refused_before_anything_starts(project: Project) -> None:
    same = project.run("serve", "--dagster-port", "43990", "--mlflow-port", "43990")
    assert same.returncode == 1
    assert "cannot both have port 43990" in same.stderr
    outside = project.run("serve", "--dagster-port", "70000")
    assert outside.returncode == 2
    assert "70000 is not in the range" in outside.stderr
    assert not project.home.exists()
