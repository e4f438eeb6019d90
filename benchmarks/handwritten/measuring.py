"""Load time, peak memory and latency, each model in a child process of its own.

The same file is the child, so heavy libraries are imported where they are used: a child has only its model's runtime
in memory. A toolchain's module has `import_runtime(path)` and `open_model(path, threads, *options)`. What the latter
returns runs a batch; if the model runs in yet another process, it also has `time`, `load_ms` and `peak_bytes`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.handwritten.common import Run, Work

ROUNDS = 12
MODES = {"rapid": (64, 6.0), "quick": (128, 10.0), "release": (1024, 60.0)}  # least queries and seconds at batch 1
SWEEP_SHARE, SWEEP_LEAST = 1 / 12, 1 / 4  # of the mode's seconds and queries, for larger batches
WINDOW, TOLERANCE = 16, 0.05  # queries, relative
TIMED_WARM_UP, UNTIMED_WARM_UP, SWEEP_WARM_UP = 400, 16, 4  # queries at most


@dataclass(frozen=True)
class Contestant:
    """One model to measure: the script that opens it, its file, and what else opening takes."""

    script: str
    path: Path
    options: tuple[str, ...] = ()


class Child:
    """A process that holds one model; one JSON line in, one out."""

    def __init__(self, contestant: Contestant, inputs: Path) -> None:
        module, arguments = "benchmarks.handwritten.measuring", (contestant.script, str(contestant.path), str(inputs))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *contestant.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *request: Any) -> Any:
        """Send one request and wait for its answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(
    contestants: Mapping[str, Contestant], work: Work, threads: int, sweep: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Load time and peak memory of each and, with a `sweep` of batch sizes, latencies by batch size, interleaved."""
    children = {name: Child(contestant, work.inputs) for name, contestant in contestants.items()}
    longest = TIMED_WARM_UP if sweep else UNTIMED_WARM_UP
    results = {name: child.ask("load", threads, longest) for name, child in children.items()}
    for batch in sweep or ():
        for name, milliseconds in interleave(children, batch, *MODES[work.mode]).items():
            results[name][f"batch_{batch}"] = summarize(milliseconds)
    for child in children.values():
        child.close()
    return results


def interleave(children: Mapping[str, Child], batch: int, least: int, seconds: float) -> dict[str, list[float]]:
    """Latencies in ms: twelve turns in rotation, then more of those that have too few."""
    if batch > 1:
        seconds *= SWEEP_SHARE
        least = max(11, round(least * SWEEP_LEAST))
        for child in children.values():
            child.ask("warm_up", batch, SWEEP_WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in children}
    rounds, waiting = 0, list(children)
    while waiting:
        for name in waiting:
            times[name] += children[name].ask("time", batch, seconds / ROUNDS)
        rounds += 1
        waiting = [name for name in waiting if rounds < ROUNDS or len(times[name]) < least]
    return times


def summarize(milliseconds: list[float]) -> dict[str, float]:
    """Mean, spread and percentiles."""
    percentiles = {f"p{p}": float(np.percentile(milliseconds, p)) for p in (50, 90, 95, 99)}
    spread = {"mean": float(np.mean(milliseconds)), "std": float(np.std(milliseconds, ddof=1))}
    return {"queries": len(milliseconds), **spread, **percentiles}


# --- the child -----------------------------------------------------------------------------------------


def child_main(script: str, path: Path, inputs: Path, *options: str) -> None:
    """Serve `load`, `warm_up` and `time` until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    images = np.load(inputs)
    toolchain = import_module(f"benchmarks.handwritten.{script}")
    toolchain.import_runtime(path)
    run: Any = None
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer: Any = None
        if command == "load":
            started = time.perf_counter()
            run = toolchain.open_model(path, arguments[0], *options)
            loaded = 1000 * (time.perf_counter() - started)
            warm_up(run, images, 1, arguments[1])
            peak = getattr(run, "peak_bytes", peak_bytes)()
            answer = {"load_ms": getattr(run, "load_ms", loaded), "peak_bytes": peak}
        elif command == "warm_up":
            warm_up(run, images, *arguments)
        elif command == "time":
            answer = query(run, images, arguments[0], seconds=arguments[1])
        print(json.dumps(answer), file=answers, flush=True)
    if close := getattr(run, "close", None):
        close()


def warm_up(run: Run, images: np.ndarray, batch: int, longest: int) -> None:
    """Queries until the median of the last 16 is within 5 % of that of the 16 before, `longest` at most."""
    before, last, count = 0.0, 0.0, 0
    while count < longest and (count < 2 * WINDOW or abs(last - before) > TOLERANCE * before):
        before, last = last, float(np.median(query(run, images, batch, count=min(WINDOW, longest))))
        count += WINDOW


def query(run: Run, images: np.ndarray, batch: int, count: int = 10**6, seconds: float = 60.0) -> list[float]:
    """Latencies in ms of `count` queries or `seconds`, whichever ends first."""
    times: list[float] = []
    time_one = getattr(run, "time", None)
    deadline = time.perf_counter() + seconds
    for i in range(count):
        start = i * batch % (len(images) - batch + 1)
        part = images[start : start + batch]
        if time_one:
            times.append(time_one(part))
        else:
            started = time.perf_counter()
            run(part)
            times.append(1000 * (time.perf_counter() - started))
        if time.perf_counter() > deadline:
            break
    return times


def peak_bytes(pid: int | str = "self") -> int:
    """A process's peak resident memory (Linux)."""
    return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    child_main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
