"""Runs whose process is gone: by asking about processes that are, and with a real daemon whose processes are killed."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest

from edge_assets.defs import running
from edge_assets.defs.running import INITIAL_NAMESPACE, Worker, is_gone
from tests.conftest import Project
from tests.serving import Served, brisk_instance, is_alive, start, wait_for

EARLIER = Worker("host", "machine", "earlier", INITIAL_NAMESPACE, os.getpid(), "1")  # before a reboot

# --- is it gone? ---------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[Worker, subprocess.Popen[str], Path]]:
    """Another process that holds a lock, as it would identify itself."""
    lock = tmp_path / "run.lock"
    code = (
        "import fcntl, sys, json, dataclasses; from edge_assets.defs.running import Worker\n"
        f"file = open({str(lock)!r}, 'ab'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(json.dumps(dataclasses.asdict(Worker.current())), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Worker(**json.loads(process.stdout.readline())), process, lock
    process.kill()
    process.wait()


def test_a_process_that_runs_is_not_gone_and_one_that_was_killed_is(
    other: tuple[Worker, subprocess.Popen[str], Path],
) -> None:
    worker, process, lock = other
    here = Worker.current()
    assert (worker.boot, worker.namespace) == (here.boot, here.namespace)
    assert not is_gone(worker, here, lock)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, whose process id is there
    assert psutil.pid_exists(process.pid)
    assert is_gone(worker, here, lock)
    process.wait()
    assert is_gone(worker, here, lock)


def test_a_process_id_that_was_given_to_another_process_is_gone(
    other: tuple[Worker, subprocess.Popen[str], Path],
) -> None:
    worker, _process, lock = other
    assert is_gone(replace(worker, started="1"), Worker.current(), lock)


def test_in_another_container_of_this_machine_the_lock_tells(
    other: tuple[Worker, subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    worker, process, lock = other
    # host names of containers change and repeat, and process ids mean something else there: none of them may decide
    for host, pid in ((worker.host, 999_999_999), ("another", 1), ("another", os.getpid())):
        elsewhere = replace(worker, namespace="pid:[4026532000]", host=host, pid=pid)
        assert not is_gone(elsewhere, Worker.current(), lock)
        assert not is_gone(elsewhere, Worker.current(), tmp_path / "no-such.lock"), "it may use another folder"
    process.kill()
    process.wait()
    assert is_gone(elsewhere, Worker.current(), lock)


def test_a_lock_that_is_let_go_at_this_moment_tells_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not running._is_free(lock)
        lock.unlink()
    assert not running._is_free(lock)


@pytest.mark.parametrize(
    ("before", "gone"),
    [
        (EARLIER, True),
        (replace(EARLIER, host="another"), False),
        (replace(EARLIER, machine="another"), False),
        (replace(EARLIER, machine=""), False),
        (replace(EARLIER, namespace="pid:[4026532000]"), False),
        (replace(EARLIER, boot=""), False),
    ],
)
def test_after_a_reboot_what_ran_on_the_same_machine_outside_of_containers_is_gone(
    before: Worker, gone: bool, tmp_path: Path
) -> None:
    here = Worker("host", "machine", "now", INITIAL_NAMESPACE, os.getpid(), "2")
    assert is_gone(before, here, tmp_path) == gone
    assert not is_gone(EARLIER, replace(here, machine="", boot=""), tmp_path)


def test_inside_containers_a_reboot_cannot_be_told_from_another_machine(tmp_path: Path) -> None:
    inside = "pid:[4026532000]"
    before = Worker("host", "machine", "earlier", inside, 1, "1")
    assert not is_gone(before, Worker("host", "machine", "now", inside, 1, "2"), tmp_path)


# --- with a real daemon --------------------------------------------------------------------------------

RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
MESSAGES = """
query M($run: ID!) { logsForRun(runId: $run) {
  ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
TERMINATE = "mutation T($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }"
LAUNCH = """
mutation L($tags: [ExecutionTag!]) { launchRun(executionParams: {
  selector: {repositoryName: "__repository__", repositoryLocationName: "edge_assets", jobName: "tiny_cpu"},
  runConfigData: {}, executionMetadata: {tags: $tags}}) { ... on LaunchRunSuccess { run { runId } } } }"""
ADD = """
mutation A($key: String!) { addDynamicPartition(repositorySelector: {repositoryName: "__repository__",
  repositoryLocationName: "edge_assets"}, partitionsDefName: "tiny_checkpoints", partitionKey: $key) { __typename } }"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: Path) -> Project:
    """A project whose runs wait, in the first step, as long as the file `hold` is there."""
    folder = tmp_path_factory.mktemp("recovery")
    (folder / "checkpoints").mkdir()
    (folder / "hold").touch()
    brisk_instance(folder / "home")
    settings = folder / "home" / "dagster" / "dagster.yaml"
    often = settings.read_text().replace("run_monitoring:\n", "run_monitoring:\n  poll_interval_seconds: 1\n")
    settings.write_text(often)
    shutil.copy(checkpoint_file, folder / "checkpoints")
    environment = {"EDGE_ASSETS_SENSOR_SECONDS": "3600", "EDGE_ASSETS_MODELS": "tests.tiny.held:HELD"}
    return Project(folder / "home", folder / "checkpoints", {**environment, "TINY_HOLD": str(folder / "hold")})


def launch(served: Served, checkpoint: Path, **more_tags: str) -> str:
    """Launch a run of the checkpoint's, and return its id."""
    key = f"tiny-{hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8]}"
    served.graphql(ADD, key=key)
    tags = {"dagster/partition/checkpoint": key, "dagster/partition/target": "graviton3"}
    tags["dagster/partition"] = f"{key}|graviton3"
    tags |= {name.replace("__", "/"): value for name, value in more_tags.items()}
    launched = served.graphql(LAUNCH, tags=[{"key": name, "value": value} for name, value in tags.items()])
    return str(launched["launchRun"]["run"]["runId"])


def status(served: Served, run: str) -> str:
    return next(r["status"] for r in served.graphql(RUNS)["runsOrError"]["results"] if r["runId"] == run)


def worker_of(served: Served, run: str) -> int | None:
    """Process id of what executes a run, once it says so. Dagster's page does not show it."""
    (found,) = [r for r in served.graphql(RUNS)["runsOrError"]["results"] if r["runId"] == run]
    assert not any("process" in tag["key"] for tag in found["tags"])
    with dg.DagsterInstance.from_config(str(served.project.home / "dagster")) as instance:
        kept = instance.get_run_by_id(run)
    worker = Worker.of(kept) if kept else None
    return worker.pid if worker else None


def messages(served: Served, run: str) -> str:
    """What the run's log in Dagster's page says."""
    found = served.graphql(MESSAGES, run=run)["logsForRun"]["events"]
    return "\n".join(event["message"] for event in found)


def executed(served: Served, run: str) -> int:
    """Process id of what executes a run, waited for."""
    wait_for(lambda: status(served, run) == "STARTED" and worker_of(served, run), 60, "the run is executed")
    pid = worker_of(served, run)
    assert pid is not None
    assert is_alive(pid)
    return pid


def code_servers(served: Served) -> list[int]:
    """Process ids of the code server: what serves, and what has loaded the code."""
    found = [pid for name, pid in served.processes().items() if "code-server start" in name or "api grpc" in name]
    assert len(found) == 2
    return found


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def terminate(served: Served, run: str) -> None:
    """As the button in Dagster's UI does."""
    assert served.graphql(TERMINATE, run=run)["terminateRun"] == {"__typename": "TerminateRunSuccess"}


@pytest.mark.slow
def test_killed_processes_are_noticed_and_the_queue_goes_on(project: Project, checkpoint_file: Path) -> None:
    served = start(project)
    try:
        first, second, third = (launch(served, checkpoint_file) for _ in range(3))
        worker = executed(served, first)
        assert status(served, second) == "QUEUED"
        kill(*code_servers(served), worker)  # as the kernel does when memory runs out
        wait_for(lambda: status(served, first) == "FAILURE", 30, "the dead run is closed")
        assert "the code server died and is started again" in "".join(served.printed)

        worker = executed(served, second)
        terminate(served, second)
        wait_for(lambda: status(served, second) == "CANCELED" and not is_alive(worker), 20, "the live run ends")

        worker = executed(served, third)
        fourth, fifth = (launch(served, checkpoint_file) for _ in range(2))
        kill(*code_servers(served))
        assert is_alive(worker)
        terminate(served, third)
        wait_for(lambda: status(served, third) == "CANCELED", 20, "the live run ends without its code server")

        executed(served, fourth)  # what was queued has waited for the new code server
    finally:
        kill(served.process.pid, *served.processes().values())  # all of it, as by a power loss
        served.process.wait()
    served = start(project)
    try:
        assert f"closed run {fourth} of tiny_cpu: its process is gone" in "".join(served.printed)
        assert status(served, fourth) == "FAILURE"
        executed(served, fifth)

        hanging = launch(served, checkpoint_file, dagster__max_runtime="2")
        last = launch(served, checkpoint_file)
        terminate(served, fifth)
        worker = executed(served, hanging)
        wait_for(lambda: status(served, hanging) == "FAILURE", 20, "the run that takes too long is ended")
        wait_for(lambda: not is_alive(worker), 20, "its process ends")
        assert "Exceeded maximum runtime of 2 seconds." in messages(served, hanging)
        executed(served, last)
    finally:
        servers = served.processes()
        kill(served.process.pid)  # alone: it cannot stop the others
        served.process.wait()
        listening = [pid for name, pid in servers.items() if "webservers" in name or "dagster-daemon" in name]
        wait_for(lambda: not any(is_alive(pid) for pid in listening), 30, "the servers end")
        kill(*(pid for pid in servers.values() if is_alive(pid)))  # the run, which would go on to its end
