"""Builds of several families at once: the same results, and what becomes of them when a process ends."""

import json
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from edge_assets.cli.workers import Do, Event, Finished, Result, Said, Work, at_once, worker_count
from edge_assets.core import log_filters
from edge_assets.targets import this_machine
from edge_assets.targets.catalog import BUILT_IN
from tests.cli.test_build import runs_by_status
from tests.conftest import Project
from tests.pipeline.test_comparison import forgetful
from tests.warm import Started

WORKS = [Work("tiny", "tiny-00000000", family, (f"{family}-1", f"{family}-2"), "rapid") for family in ("cpu", "apple")]
PLANNED, BEGUN = " on raspberry-pi-5: ", "✓ checkpoint: "  # what a build prints of each piece of work
DIED = "a process that was building died; what is left is built one after the other"


# --- work in processes ---------------------------------------------------------------------------------


def tell(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    """Two results, the process and its cores in their messages; runs in a worker."""
    hear(Said("begun", work.targets[0]))
    hear(Finished(work.family, "onnx_model", 1.5))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [Result(name, "built", f"{os.getpid()} {cores}", {"onnx_fp16": "why"}) for name in work.targets]


def wait_for_cores(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    """The first work is done at once; the second when it has every core of the machine, or has waited in vain."""
    deadline = time.monotonic() + 20
    every = len(os.sched_getaffinity(os.getppid()))
    while work == WORKS[1] and len(os.sched_getaffinity(0)) < every and time.monotonic() < deadline:
        time.sleep(0.05)
    return tell(work, hear)


def die(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def drop(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    """Is interrupted where Python drops what is raised, then works on."""
    watched = threading.Event()
    callback = weakref.ref(watched, lambda _gone: signal.raise_signal(signal.SIGINT))
    del watched
    time.sleep(5)
    return [Result(str(callback), "built", "", {})]


def drop_in_a_step(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    """The same as in a step of Dagster's, where an interruption is an exception of its own."""

    def interrupted(_signal: int, _frame: object) -> None:
        raise dg.DagsterExecutionInterruptedError

    signal.signal(signal.SIGINT, interrupted)
    try:
        return drop(work, hear)
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None


def fail(work: Work, hear: Callable[[Event], None]) -> list[Result]:
    raise ValueError(f"not {work.family}")


def test_work_is_done_in_other_processes_and_told_of_meanwhile() -> None:
    heard: list[Event] = []
    found = dict(at_once(WORKS, tell, 2, heard.append))
    assert set(found) == set(WORKS)
    for work, results in found.items():
        assert [result.target for result in results] == list(work.targets)
        assert results[0].failures == {"onnx_fp16": "why"}
        assert results[0].message.split()[0] != str(os.getpid())
    assert {event.target for event in heard if isinstance(event, Said)} == {"cpu-1", "apple-1"}
    assert sum(isinstance(event, Finished) for event in heard) == 2, "all that was told is heard before the end"


@pytest.fixture
def all_cores() -> Iterator[set[int]]:
    """Every core of the machine for this process, which may have been given one of them."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system keeps no process to a core")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        if len(os.sched_getaffinity(0)) < 2:
            pytest.skip("needs two cores")
        yield os.sched_getaffinity(0)
    finally:
        os.sched_setaffinity(0, before)


def test_workers_keep_to_cores_of_their_own(all_cores: set[int]) -> None:
    results = [results[0] for _work, results in at_once(WORKS * 4, tell, 2, lambda _event: None)]
    before_the_last = results[:-1]  # which gets all cores
    cores = {result.message.split(" ", 1)[0]: result.message.split(" ", 1)[1] for result in before_the_last}
    shares = [set(yaml.safe_load(text)) for text in cores.values()]
    assert all(len(share) < len(all_cores) for share in shares)
    assert set.union(*shares) <= all_cores
    assert all(not one & other for one in shares for other in shares if one is not other)


def test_the_last_worker_gets_the_cores_of_those_that_are_done(all_cores: set[int]) -> None:
    results = dict(at_once(WORKS, wait_for_cores, 2, lambda _event: None))
    cores = results[WORKS[1]][0].message.partition(" ")[2]
    assert set(yaml.safe_load(cores)) == all_cores


@pytest.mark.parametrize("do", [drop, drop_in_a_step])
def test_an_interruption_that_falls_into_a_callback_is_not_lost(do: Do, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(at_once(WORKS[:1], do, 1, lambda _event: None))
    assert "ignored" not in capfd.readouterr().err


def test_a_worker_that_is_killed_is_an_error_and_no_wait_without_end() -> None:
    with pytest.raises(BrokenProcessPool):
        list(at_once(WORKS, die, 2, lambda _event: None))


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="not cpu"):
        list(at_once(WORKS[:1], fail, 2, lambda _event: None))


def test_there_is_a_worker_for_each_core_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(cores: int, gibibytes: int) -> int:
        machine = replace(this_machine(), cores=cores, memory_bytes=gibibytes * 2**30)
        monkeypatch.setattr("edge_assets.cli.workers.this_machine", lambda: machine)
        return worker_count()

    assert counted(8, 64) == 8
    assert counted(8, 9) == 2
    assert counted(2, 1) == 1


def test_a_database_that_is_interrupted_says_nothing_of_it_and_of_other_errors_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_filters.silence_interruptions()
    for error in (KeyboardInterrupt(), OSError("disk I/O error")):
        try:
            raise error
        except BaseException:
            logging.getLogger("sqlalchemy.pool.impl.NullPool").exception("Exception closing connection")
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["disk I/O error"]


# --- builds --------------------------------------------------------------------------------------------

SPEC = """
from dataclasses import replace
from tests.tiny.spec import TINY

VARIANTS = ("onnx_model", "onnx_int8_static", "torch_int8", "litert_int8_full")
SPEC = replace(TINY, targets=("graviton3", "cortex-m4", "this-machine"), variants=VARIANTS)
"""
OTHER_TARGETS = {"EDGE_ASSETS_MODELS": "several:SPEC"}
BOTH = ("--target", "graviton3", "--target", "cortex-m4")
# what differs from build to build: times, memory, and who built it first
VARYING = {"build_seconds", "effort_seconds", "reused", "reason", "verdict"}
# its file says which lines of which files were traced
OF_TORCHSCRIPT = {"sha256", "size_bytes", "size_ratio"}
VARYING |= {"evidence", "host_baseline_memory_bytes", "host_peak_memory_bytes"}


def with_this_machine(project: Project) -> Project:
    """The same project with a spec for three targets, of which one is the machine that builds."""
    machine = this_machine()
    entry = yaml.safe_load(BUILT_IN.read_text())["x86-64-avx2"]
    entry["architecture"] = machine.architecture
    entry["match"] = {"instruction_sets": list(machine.instruction_sets)}
    entry["batch_sizes"] = [1]
    (project.folder / "targets.yaml").write_text(yaml.safe_dump({"this-machine": entry}))
    (project.folder / "pyproject.toml").write_text('[tool.edge_assets]\nmodels = []\ntargets = ["targets.yaml"]\n')
    (project.folder / "several.py").write_text(SPEC)
    project.environment.update(OTHER_TARGETS)
    return project


def judged(project: Project, target: str) -> list[dict[str, Any]]:
    """The rows of a target without what differs from build to build, or with how many others there are."""
    result = project.run("scorecard", "--json", "--target", target)
    assert result.returncode == 0, result.stderr
    rows = []
    for row in json.loads(result.stdout):
        left_out = VARYING | OF_TORCHSCRIPT if row["format"] == "torchscript" else VARYING
        rows.append({name: value for name, value in row.items() if name not in left_out})
    return rows


def read_until(process: Started, words: str) -> str:
    """What it prints up to the line with these words."""
    printed = ""
    for line in process.stdout:
        printed += line
        if words in line:
            return printed
    raise AssertionError(f"the build ended without '{words}': {printed}")


def ended(process: Started) -> str:
    """What a process prints on standard error to its end."""
    _output, errors = process.communicate()
    return errors


@pytest.mark.slow
@pytest.mark.skipif(not this_machine().instruction_sets, reason="no target can name this machine")
def test_families_built_at_once_have_the_rows_of_ones_built_alone_and_what_is_timed_comes_last(
    project: Project, built: Project
) -> None:
    with_this_machine(project)
    process = project.start("build", "--target", "this-machine", *BOTH, "--jobs", "2")
    printed = read_until(process, "on this-machine: to be measured, with nothing else at work")
    process.send_signal(signal.SIGTERM)  # measuring has tests of its own
    assert "interrupted: what was finished is kept" in ended(process)
    assert process.returncode == 130
    lines = printed.splitlines()
    assert {line.split()[0] for line in lines if "✓ release: " in line} == {"graviton3", "cortex-m4"}, printed
    assert [line for line in lines if line.split()[0] == "this-machine" and "✓ onnx_model: " in line], "built with them"
    assert not [line for line in lines if "timing" in line]
    alone = {row["artifact"]: row for row in judged(built, "graviton3")}
    together = {row["artifact"]: row for row in judged(project, "graviton3")}
    assert together == {name: alone[name] for name in ("checkpoint", "onnx_model", "onnx_int8_static", "torch_int8")}


@pytest.fixture
def two_works(copy_of_built: Project, checkpoint_file: Path) -> Project:
    """A built project with a second checkpoint: on another target, each of the two is a piece of work."""
    forgetful(checkpoint_file, copy_of_built.checkpoints / "worse.safetensors")
    copy_of_built.environment["EDGE_ASSETS_MODELS"] = "tests.tiny.few:FEW"
    return copy_of_built


def start_both(project: Project, words: str, in_background: bool = False) -> tuple[Started, list[psutil.Process]]:
    """A build of both checkpoints at once that has printed these words of both, and its workers."""
    arguments = ("--model", "tiny", "--checkpoint", "all", "--target", "raspberry-pi-5", "--jobs", "2")
    process = project.start("build", *arguments, in_background=in_background)
    printed = ""
    while printed.count(words) < 2:
        line = process.stdout.readline()
        assert line, f"the build ended early: {printed}"
        printed += line
    return process, workers_of(process)


def workers_of(process: Started) -> list[psutil.Process]:
    """The processes that build for a command."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_said_and_the_rest_is_built_one_after_the_other(two_works: Project) -> None:
    process, workers = start_both(two_works, BEGUN)
    assert len(workers) == 2
    workers[0].kill()
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    assert DIED in output
    assert "2 built, 0 up to date, 0 failed" in output
    assert "Traceback" not in output + errors
    again = two_works.run("build", "--model", "tiny", "--checkpoint", "all", "--target", "raspberry-pi-5")
    assert "0 built, 2 up to date, 0 failed" in again.stdout


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        pytest.param(signal.SIGINT, PLANNED, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, BEGUN, marks=pytest.mark.slow),
        (signal.SIGTERM, BEGUN),
    ],
    ids=["Ctrl-C before a run has begun", "Ctrl-C", "SIGTERM"],
)
def test_an_interruption_ends_the_workers_and_is_recorded(two_works: Project, sent: signal.Signals, words: str) -> None:
    process, workers = start_both(two_works, words, in_background=sent == signal.SIGTERM)
    process.send_signal(sent)
    if sent == signal.SIGINT:
        for worker in workers:  # a terminal sends it to all; a supervisor sends SIGTERM to the command alone
            worker.send_signal(sent)
    errors = ended(process)
    assert process.returncode == 130, errors
    assert "interrupted: what was finished is kept" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while any(worker.is_running() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.is_running()]
    assert runs_by_status(two_works).keys() <= {"SUCCESS", "FAILURE", "CANCELED"}, "none is left as running"
