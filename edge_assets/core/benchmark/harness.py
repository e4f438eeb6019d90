"""Times variants against each other: one child process each, interleaved A/B/A/B, so that whatever the machine
does meanwhile (frequency, neighbours, temperature) hits all of them alike.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_assets.core.benchmark.statistics import Mode, histogram, summarize
from edge_assets.core.data import save_arrays
from edge_assets.core.errors import EdgeAssetsError
from edge_assets.core.variant import Feeds, Loadable

ROUNDS = 12  # interleaved turns of each variant
SWEEP_SHARE = 1 / 12  # of a mode's duration, for each batch size besides the first
TIMEOUT = 900  # seconds for one answer


@dataclass(frozen=True)
class Contestant:
    """One variant to measure, and the sha256 of exactly the artifact that is loaded."""

    name: str
    sha256: str
    loadable: Loadable


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
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, command: str, **request: Any) -> dict[str, Any]:
        """Send one request. Raises EdgeAssetsError, with the child's log, if it failed or died."""
        assert self.process.stdin and self.process.stdout
        line = ""
        try:
            self.process.stdin.write(json.dumps({"command": command, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass  # the child is gone: said below, with its log
        if not line:
            tail = self.errors.read_text(errors="replace")[-2000:]
            raise EdgeAssetsError(
                f"{self.contestant.name}: its process ended (exit {self.process.wait()}) during '{command}'. "
                f"Its log:\n{tail}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgeAssetsError(f"{self.contestant.name}: '{command}' failed: {answer['error']}")
        return answer


def measure(
    contestants: Sequence[Contestant],
    feeds: Feeds,
    mode: Mode | None,
    batch_sizes: Sequence[int],
    threads: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Measure every contestant; by name: load time, peak memory and, with a `mode`, latency by batch size.

    Without a mode only memory is measured, for targets that are not at hand. Times are in ms, memory in bytes.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_arrays(feeds, scratch / "inputs.npz")
        workers = {
            c.name: stack.enter_context(WorkerProcess(c, scratch / "inputs.npz", scratch / f"{c.name}.log"))
            for c in contestants
        }
        results: dict[str, Any] = {}
        for name, worker in workers.items():
            loaded = worker.ask("load", threads=threads, **asdict(worker.contestant.loadable))
            warm_up = worker.ask("warm_up", batch=1)
            results[name] = {"sha256": worker.contestant.sha256, **loaded, "warm_up": warm_up}
            results[name] |= worker.ask("memory")  # at batch 1, before larger batches raise the peak
        if mode:
            for batch in batch_sizes:
                log(f"timing {len(workers)} variants at batch {batch}, interleaved, mode {mode.name}")
                for name, latency in _interleave(workers, batch, mode, first=batch == batch_sizes[0]).items():
                    results[name].setdefault("latency_ms", {})[str(batch)] = latency
        return results


def _interleave(workers: Mapping[str, WorkerProcess], batch: int, mode: Mode, first: bool) -> dict[str, dict[str, Any]]:
    """Latency of each worker at one batch size: `ROUNDS` turns in rotation, then more until the count is reached.

    The first batch size gets the mode's whole duration, the others a twelfth and the same least count.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    seconds = mode.seconds * (1 if first else SWEEP_SHARE)
    if not first:
        for worker in workers.values():
            worker.ask("warm_up", batch=batch)
    turn = seconds / ROUNDS
    waiting = list(workers)
    rounds = 0
    while waiting:
        for name in waiting:
            times[name] += workers[name].ask("time", batch=batch, queries=10**6, seconds=turn)["ms"]
        rounds += 1
        waiting = [name for name in waiting if rounds < ROUNDS or len(times[name]) < mode.queries]
    summaries = {name: summarize(milliseconds, batch) for name, milliseconds in times.items()}
    if first:
        for name, milliseconds in times.items():
            summaries[name]["histogram"] = histogram(milliseconds)
    return summaries
