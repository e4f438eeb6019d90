"""Which process executes a run, whether it is still there, and what becomes of a run whose process is not.

A run that was killed with its machine, or together with the server that watched it, would stay 'started' for ever and
keep the queue waiting. So the process that executes a run says who it is, in a tag of the run, and holds a lock beside
the instance for as long as it works. A run is dead only if that can be known from here:

- on the same boot of the same kernel, in the same namespace of process ids: there is no such process any more, or one
  that started at another time has its id;
- on the same boot in another namespace, which is another container: nobody holds its lock, and the lock's file is in
  this folder, so that both look at the same one;
- on an earlier boot of the same machine, outside of containers.

Host names decide nothing: those of containers change and repeat. A container on another machine, or before a reboot of
this one, cannot be told apart from one that works: its run is left alone, and ends by `max_runtime_seconds` of
dagster.yaml or by somebody who terminates it.

The other way round, a run may be ended whose process goes on: one that hangs in native code does not hear the interrupt
by which a run is terminated. It would keep what it holds, such as the right to measure alone, from all that come after.
So a process of this machine that still works on a run which ended a while ago is killed.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Self

import dagster as dg

TAG = ".dagster/edge_assets_process"  # Dagster shows no tag that begins so
FORMER_TAG = "edge_assets/process"  # of runs that an earlier version left unfinished
INITIAL_NAMESPACE = "pid:[4026531836]"  # of process ids, outside of any container; a constant of the kernel
ACTIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
DEAF_SECONDS = 30  # after its run has ended, a process that still works on it does not hear interrupts
REASON = "The process that executed this run is gone. What it had finished is kept; run it again to go on from there."


@dataclass(frozen=True)
class Worker:
    """A process, told apart from all others of this and other machines."""

    host: str  # for people
    machine: str  # stays over reboots
    boot: str  # of the kernel: containers on one machine share it
    namespace: str  # in which `pid` means something
    pid: int
    started: str

    @classmethod
    def current(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), _boot(), _namespace(), pid, _start_time(pid) or "")

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Self | None:
        """The process that executes a run; None if the run does not say.

        A run that repeats another has that one's tags until its own process says who it is, and whoever launches a run
        gives it what tags he likes: a tag counts only for the run that it names.
        """
        try:
            said = json.loads(run.tags.get(TAG) or run.tags.get(FORMER_TAG, ""))
            return cls(**said) if said.pop("run") == run.run_id else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def tags(self, run_id: str) -> dict[str, str]:
        """What a run that this process executes carries."""
        return {TAG: json.dumps({**asdict(self), "run": run_id})}


@contextmanager
def executing(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[None]:
    """Let it be known, until the block ends, that this process executes a run."""
    worker = Worker.current()
    if Worker.of(run) != worker:
        instance.add_run_tags(run.run_id, worker.tags(run.run_id))
    path = _lock_file(instance, run.run_id)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        _lock(file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock is free: who finds the file free knows that nobody let go


def close_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark the runs whose process is known to be gone as failed, or as canceled if they were to be. Returns them."""
    return [run for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE)) if close_if_dead(instance, run)]


def close_if_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run's process is known to be gone; if so, the run is not active any more."""
    worker = Worker.of(run)
    lock = _lock_file(instance, run.run_id)
    if worker is None or not is_gone(worker, Worker.current(), lock):
        return False
    current = instance.get_run_by_id(run.run_id)  # again: its last act may have been to end
    if current is not None and current.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(current, REASON)
    elif current is not None and current.status in ACTIVE:
        instance.report_run_failed(current, REASON)
    lock.unlink(missing_ok=True)
    return True


def kill_deaf_workers(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Kill the processes of this machine that still work on a run which has ended. Returns the runs."""
    killed = []
    for lock in (Path(instance.root_directory) / "running").glob("*.lock"):
        record = instance.get_run_record_by_id(lock.stem)
        if record is None or record.end_time is None or time.time() - record.end_time < DEAF_SECONDS:
            continue
        worker = Worker.of(record.dagster_run)
        if worker is None or not is_here(worker) or not is_running(worker) or _is_free(lock):
            continue
        os.kill(worker.pid, signal.SIGKILL)
        lock.unlink(missing_ok=True)
        text = f"Killed the process {worker.pid}, which worked on this run after it had ended."
        instance.report_engine_event(text, record.dagster_run)
        killed.append(record.dagster_run)
    return killed


def is_gone(worker: Worker, here: Worker, lock: Path) -> bool:
    """Whether `worker` is known, from `here`, not to run any more. False if it runs or if that cannot be known."""
    if not worker.boot or not here.boot:
        return False
    if worker.boot != here.boot:
        is_same_machine = worker.machine == here.machine and worker.host == here.host
        are_outside = worker.namespace == here.namespace and here.namespace in (INITIAL_NAMESPACE, "")
        return bool(worker.machine) and is_same_machine and are_outside
    if worker.namespace == here.namespace:
        return not is_running(worker)
    return _is_free(lock)


def is_running(worker: Worker) -> bool:
    """Whether a process of this namespace is there, and is the one that is meant."""
    import psutil

    if not psutil.pid_exists(worker.pid):
        return False
    try:
        return _start_time(worker.pid) == worker.started
    except PermissionError:
        return True  # another account's, hidden from this one


def is_here(worker: Worker) -> bool:
    """Whether process ids mean the same to `worker` and to this process."""
    here = Worker.current()
    return bool(here.boot) and (worker.boot, worker.namespace) == (here.boot, here.namespace)


def _lock(file: IO[bytes]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # a file system without locks: the process id alone has to do


def _lock_file(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(instance.root_directory) / "running" / f"{run_id}.lock"


def _is_free(lock: Path) -> bool:
    """Whether the lock's file is there and nobody holds it."""
    try:
        with lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(lock.stat(), os.fstat(file.fileno()))  # not one that was just let go
    except OSError:
        return False


def _start_time(pid: int) -> str | None:
    """When a process started, in the system's own counting. None if it is gone, or only waits to be buried."""
    import psutil

    if sys.platform != "linux":
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            raise PermissionError from None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        if psutil.pid_exists(pid):
            raise PermissionError from None
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _macos("kern.bootsessionuuid")


@cache
def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return _macos("kern.uuid")


def _namespace() -> str:
    """Empty where there are none: process ids then mean the same in the whole system."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _macos(name: str) -> str:
    if sys.platform != "darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], check=False, capture_output=True, text=True).stdout.strip()
