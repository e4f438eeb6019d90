"""Times variants against each other: one child process each, interleaved A/B/A/B.

Whatever the machine does meanwhile (frequency, neighbours, temperature) hits all of them alike.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edge_assets.core.benchmark.statistics import Mode, least_queries, summarize
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.evidence import Latency, MeasuredVariant
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.shapes import read
from edge_assets.errors import MeasurementError, log_end

ROUNDS = 12  # interleaved turns of each variant
SWEEP_QUERIES = 1 / 4  # of a mode's queries, likewise; a percentile is claimed only where they suffice for it
SWEEP_WARM_UP = 4  # queries
MEMORY_QUERIES = 16  # of a variant whose memory alone is measured
LONGEST_WARM_UP = 400  # queries until a variant that is timed must be steady
SWEEP_SHARE = 1 / 12  # of a mode's duration, for each batch size besides the first
TOGETHER_BYTES = 3 * 2**30  # on disk, of the models that are loaded at once to be timed in rotation
TIMEOUT = 600  # seconds for an answer, besides those that the request itself asks for


@dataclass(frozen=True)
class Contestant:
    """One variant to measure, and the sha256 of exactly the artifact that is loaded."""

    name: str
    sha256: str
    loadable: Loadable


@dataclass(frozen=True)
class Timed:
    """A worker's answer to `time`."""

    ms: tuple[float, ...]


class Worker(Protocol):
    """What holds one variant and answers requests, wherever it is."""

    def ask(self, command: str, seconds: float = 0, **request: object) -> dict[str, object]:
        """The answer to `warm_up` or `time`, as `core/benchmark/worker` gives it."""
        ...


class WorkerProcess:
    """A child process with one model loaded."""

    def __init__(self, contestant: Contestant, inputs: Path, errors: Path) -> None:
        self.contestant = contestant
        self.errors = errors
        with errors.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_assets.core.benchmark.worker", str(inputs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that what it started, such as a browser, can be ended with it
            )
        self.is_hung = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it is gone, with a request in the pipe
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kill()

    def ask(self, command: str, seconds: float = 0, **request: object) -> dict[str, object]:
        """Send one request, which asks for so many seconds of work.

        Raises MeasurementError, with the child's log, if it failed, died, or did not answer in `TIMEOUT` seconds more
        than the request asks it to work.
        """
        patience = TIMEOUT + seconds
        watch = threading.Timer(patience, self._give_up)
        watch.start()
        try:
            line = self._answer_to(json.dumps({"command": command, "seconds": seconds, **request}))
        finally:
            watch.cancel()
        if not line and self.is_hung:
            raise self._error(f"its process did not answer '{command}' within {patience:.0f} s and was ended.")
        if not line:
            raise self._error(f"its process ended (exit {self.process.wait()}) during '{command}'.")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise self._error(f"'{command}' failed: {answer['error']}.")
        return answer

    def _answer_to(self, request: str) -> str:
        """The child's answer, empty if it is gone."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()
        except BrokenPipeError:
            return ""

    def _give_up(self) -> None:
        self.is_hung = True
        self._kill()

    def _kill(self) -> None:
        """End the child and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself meanwhile
        self.process.wait()

    def _error(self, sentence: str) -> MeasurementError:
        log = self.errors.read_text(errors="replace")
        return MeasurementError(self.contestant.name, f"measuring failed: {sentence} {log_end(log)}", log)


def measure(
    contestants: Sequence[Contestant],
    feeds: Feeds,
    mode: Mode | None,
    batch_sizes: Sequence[int],
    threads: int,
    log: Callable[[str], None],
) -> dict[str, MeasuredVariant]:
    """Measure every contestant; by name: load time, peak memory and, with a `mode`, latency by batch size.

    Without a mode only memory is measured, for targets that are not at hand. Large models are measured in groups,
    because all that are interleaved are loaded at once. Raises MeasurementError.
    """
    groups = groups_of(contestants, TOGETHER_BYTES)
    if len(groups) > 1:
        names = "; ".join(", ".join(one.name for one in group) for group in groups)
        log(f"measuring in {len(groups)} groups, which together would take too much memory: {names}")
    rows: dict[str, MeasuredVariant] = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.npz"
        save_arrays(feeds, inputs)
        for group in groups:
            rows |= _measured_together(group, inputs, mode, batch_sizes, threads, log)
    return rows


def groups_of(contestants: Sequence[Contestant], most_bytes: int) -> list[list[Contestant]]:
    """Contestants in their order, as many together as take no more bytes on disk, or one that takes more."""
    groups: list[list[Contestant]] = []
    taken = 0
    for contestant in contestants:
        size = _bytes_of(Path(contestant.loadable.path))
        if not groups or taken + size > most_bytes:
            groups.append([])
            taken = 0
        groups[-1].append(contestant)
        taken += size
    return groups


def _bytes_of(path: Path) -> int:
    """Of a file, or of all files of a folder; 0 where there is none, which its worker says."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _measured_together(
    contestants: Sequence[Contestant],
    inputs: Path,
    mode: Mode | None,
    batch_sizes: Sequence[int],
    threads: int,
    log: Callable[[str], None],
) -> dict[str, MeasuredVariant]:
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for contestant in contestants:
            worker = WorkerProcess(contestant, inputs, errors=inputs.with_name(f"{contestant.name}.log"))
            workers[contestant.name] = stack.enter_context(worker)
        longest = MEMORY_QUERIES if mode is None else LONGEST_WARM_UP
        rows = {name: _loaded(worker, threads, longest) for name, worker in workers.items()}
        if mode is None:
            return rows
        latencies: dict[str, dict[str, Latency]] = {name: {} for name in workers}
        for batch in batch_sizes:
            log(f"timing {len(workers)} variants at batch {batch}, interleaved, mode {mode.name}")
            found = interleave(workers, batch, mode, first=batch == batch_sizes[0])
            for name, latency in found.items():
                latencies[name][str(batch)] = latency
        return {name: replace(row, latency_ms=latencies[name]) for name, row in rows.items()}


def _loaded(worker: WorkerProcess, threads: int, longest: int) -> MeasuredVariant:
    """The model loaded and warm, and its peak memory at batch 1, before larger batches raise it."""
    answer = worker.ask("load", threads=threads, **asdict(worker.contestant.loadable))
    answer["warm_up"] = worker.ask("warm_up", batch=1, longest=longest)
    answer |= worker.ask("memory")
    return read(MeasuredVariant, {"sha256": worker.contestant.sha256} | answer)


def interleave(workers: Mapping[str, Worker], batch: int, mode: Mode, first: bool) -> dict[str, Latency]:
    """Latency of each worker at one batch size: `ROUNDS` turns in rotation, then more until the count is reached.

    The first batch size gets the mode's whole duration and count. The others get a twelfth of the time, a quarter of
    the queries, and a short warm-up: the process is warm, only its buffers for the new shape are not.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    seconds, queries = mode.seconds, mode.queries
    if not first:
        seconds *= SWEEP_SHARE
        queries = max(least_queries(50), round(queries * SWEEP_QUERIES))
        for worker in workers.values():
            worker.ask("warm_up", batch=batch, longest=SWEEP_WARM_UP)
    waiting = list(workers)
    rounds = 0
    while waiting:
        for name in waiting:
            times[name] += _times(workers[name], batch, seconds / ROUNDS)
        rounds += 1
        waiting = [name for name in waiting if rounds < ROUNDS or len(times[name]) < queries]
    return {name: summarize(found, batch, distribution=first) for name, found in times.items()}


def _times(worker: Worker, batch: int, seconds: float) -> tuple[float, ...]:
    """Latencies in ms of as many queries as fit into that time."""
    return read(Timed, worker.ask("time", batch=batch, queries=10**6, seconds=seconds)).ms
