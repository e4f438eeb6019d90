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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edge_assets.core.benchmark.load import STOLEN, WAITED
from edge_assets.core.benchmark.statistics import Mode, least_queries, summarize
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.evidence import Latency, MeasuredVariant, Surroundings
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.shapes import read
from edge_assets.errors import MeasurementError, log_end

ROUNDS = 12  # interleaved turns of each variant
REPEATS = 4  # of disturbed turns, of each variant at each batch size
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


@dataclass(frozen=True, kw_only=True)
class Meanwhile:
    """What else a machine did in a turn, as shares of its time (`core/benchmark/load`)."""

    seconds: float
    waited: float | None
    stolen: float | None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How a device was at a moment. What it does not say is None."""

    temperature_c: float | None = None
    throttled: bool | None = None
    throttle_events: int | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A worker's answer to `time`."""

    ms: tuple[float, ...]
    conditions: Meanwhile
    joules: float | None = None  # of the whole device, in the turn
    before: Condition = Condition()
    after: Condition = Condition()

    @property
    def throttled(self) -> bool | None:
        """Whether the device held itself back in this turn; None where it does not say."""
        if None not in (self.before.throttle_events, self.after.throttle_events):
            return self.before.throttle_events != self.after.throttle_events
        said = [moment.throttled for moment in (self.before, self.after) if moment.throttled is not None]
        return any(said) if said else None

    @property
    def is_disturbed(self) -> bool:
        """Whether others took part, or the device held itself back."""
        waited, stolen = self.conditions.waited or 0, self.conditions.stolen or 0
        return waited > WAITED or stolen > STOLEN or bool(self.throttled)


class Asked(Protocol):
    """What answers requests about one model that it has loaded."""

    def ask(self, command: str, seconds: float = 0, **request: object) -> dict[str, object]:
        """The answer to a request that asks for so many seconds of work. Raises MeasurementError."""
        ...


class Worker(Asked, Protocol):
    """A process with one model, here or on a device."""

    contestant: Contestant

    def load(self, threads: int) -> dict[str, object]:
        """Load time and the memory before. Raises MeasurementError."""
        ...


Start = Callable[[Contestant, Path], AbstractContextManager[Worker]]  # with the file of inputs


class WorkerProcess:
    """A child process with one model loaded."""

    def __init__(self, contestant: Contestant, inputs: Path) -> None:
        self.contestant = contestant
        self.errors = errors = inputs.with_name(f"{contestant.name}.log")
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

    def load(self, threads: int) -> dict[str, object]:
        """Load time and the memory before. Raises MeasurementError."""
        return self.ask("load", threads=threads, **asdict(self.contestant.loadable))

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
    start: Start = WorkerProcess,
    ready: Callable[[], float] = lambda: 0.0,
) -> dict[str, MeasuredVariant]:
    """Measure every contestant; by name: load time, peak memory and, with a `mode`, latency by batch size.

    Without a mode only memory is measured, for targets that are not at hand. Large models are measured in groups,
    because all that are interleaved are loaded at once. `start` begins a worker; `ready` is asked before every turn,
    waits until the machine may be measured, and says for how many seconds. Raises MeasurementError.
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
            together = Together(group, inputs, threads, log, start, ready)
            rows |= together.measured(mode, batch_sizes)
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


@dataclass(frozen=True)
class Together:
    """Contestants that are measured at once, in rotation."""

    contestants: Sequence[Contestant]
    inputs: Path
    threads: int
    log: Callable[[str], None]
    start: Start
    ready: Callable[[], float]

    def measured(self, mode: Mode | None, batch_sizes: Sequence[int]) -> dict[str, MeasuredVariant]:
        """Memory of all and, with a mode, their latencies. Raises MeasurementError."""
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for contestant in self.contestants:
                workers[contestant.name] = stack.enter_context(self.start(contestant, self.inputs))
            longest = MEMORY_QUERIES if mode is None else LONGEST_WARM_UP
            rows = {name: self._loaded(worker, longest) for name, worker in workers.items()}
            if mode is None:
                return rows
            latencies: dict[str, dict[str, Latency]] = {name: {} for name in workers}
            for batch in batch_sizes:
                self.log(f"timing {len(workers)} variants at batch {batch}, interleaved, mode {mode.name}")
                found = interleave(workers, batch, mode, first=batch == batch_sizes[0], ready=self.ready)
                for name, latency in found.items():
                    latencies[name][str(batch)] = latency
            return {name: replace(row, latency_ms=latencies[name]) for name, row in rows.items()}

    def _loaded(self, worker: Worker, longest: int) -> MeasuredVariant:
        """The model loaded and warm, and its peak memory at batch 1, before larger batches raise it."""
        answer = worker.load(self.threads)
        answer["warm_up"] = worker.ask("warm_up", batch=1, longest=longest)
        answer |= worker.ask("memory")
        return read(MeasuredVariant, {"sha256": worker.contestant.sha256} | answer)


def interleave(
    workers: Mapping[str, Asked],
    batch: int,
    mode: Mode,
    first: bool,
    ready: Callable[[], float] = lambda: 0.0,
) -> dict[str, Latency]:
    """Latency of each worker at one batch size: `ROUNDS` turns in rotation, then more until the count is reached.

    The first batch size gets the mode's whole duration and count. The others get a twelfth of the time, a quarter of
    the queries, and a short warm-up: the process is warm, only its buffers for the new shape are not.
    """
    seconds, queries = mode.seconds, mode.queries
    if not first:
        seconds *= SWEEP_SHARE
        queries = max(least_queries(50), round(queries * SWEEP_QUERIES))
        for worker in workers.values():
            worker.ask("warm_up", batch=batch, longest=SWEEP_WARM_UP)
    turns: dict[str, Turns] = {name: Turns(ready) for name in workers}
    waiting = list(workers)
    rounds = 0
    while waiting:
        for name in waiting:
            turns[name].take(workers[name], batch, seconds / ROUNDS)
        rounds += 1
        waiting = [name for name in waiting if rounds < ROUNDS or turns[name].queries < queries]
    return {name: found.latency(batch, first) for name, found in turns.items()}


@dataclass
class Turns:
    """One variant's turns at one batch size. A disturbed one is repeated, a few times in all, then kept and marked."""

    ready: Callable[[], float]
    kept: list[Turn] = field(default_factory=list)
    repeated: int = 0
    cooled_s: float = 0.0

    @property
    def queries(self) -> int:
        """How many there were."""
        return sum(len(turn.ms) for turn in self.kept)

    def take(self, worker: Asked, batch: int, seconds: float) -> None:
        """One more turn, of as many queries as fit into that time."""
        turn = self._turn(worker, batch, seconds)
        while turn.is_disturbed and self.repeated < REPEATS:
            self.repeated += 1
            turn = self._turn(worker, batch, seconds)
        self.kept.append(turn)

    def _turn(self, worker: Asked, batch: int, seconds: float) -> Turn:
        self.cooled_s += self.ready()
        return read(Turn, worker.ask("time", batch=batch, queries=10**6, seconds=seconds))

    def latency(self, batch: int, distribution: bool) -> Latency:
        """What all turns say."""
        times: list[float] = []
        for turn in self.kept:
            times += turn.ms
        found = summarize(times, batch, distribution)
        joules = [turn.joules for turn in self.kept if turn.joules is not None]
        if len(joules) == len(self.kept):
            found = replace(found, joules=sum(joules) / (batch * len(times)))
        return replace(found, surroundings=self._surroundings())

    def _surroundings(self) -> Surroundings:
        disturbed = [turn for turn in self.kept if turn.is_disturbed]
        throttled = [turn.throttled for turn in self.kept if turn.throttled is not None]
        waited = [turn.conditions.waited for turn in self.kept]
        stolen = [turn.conditions.stolen for turn in self.kept]
        temperatures = []
        for turn in self.kept:
            temperatures += [turn.before.temperature_c, turn.after.temperature_c]
        found = Surroundings(
            turns=len(self.kept),
            disturbed=len(disturbed),
            repeated=self.repeated,
            waited=_most(waited),
            stolen=_most(stolen),
            temperature_c=_most(temperatures),
            cooled_s=self.cooled_s,
        )
        if not throttled:
            return found
        return replace(found, throttled=any(throttled))


def _most(numbers: Iterable[float | None]) -> float | None:
    """The largest of those that are known."""
    return max((number for number in numbers if number is not None), default=None)
