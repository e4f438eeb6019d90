"""The child process that holds one variant and answers timing requests: one JSON line in, one out.

It imports the variant's runtime and nothing else, so that its peak memory is the runtime's and the model's.
Timings exclude preprocessing and the copy of inputs into the process.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_assets.core.session import Loadable, Session
from edge_assets.errors import told

Request = dict[str, Any]
WINDOW, TOLERANCE = 16, 0.05  # queries, relative
WARM_UP_SECONDS = 180  # after which a slow model's warm-up ends


class Worker:
    """Serves `load`, `warm_up`, `time` and `memory`."""

    def __init__(self, inputs: str) -> None:
        with np.load(inputs, allow_pickle=False) as data:
            self.feeds = {name: data[name] for name in data.files}
        self.session: Session | None = None
        self.next_sample = 0

    def load(self, request: Request) -> Request:
        """Open the model. `baseline_bytes` is the peak before it: interpreter, runtime library and inputs.

        A session whose model runs in another process says both of that process.
        """
        loadable = Loadable(request["runtime"], request["path"], request["options"])
        loadable.import_runtime()
        baseline = peak_memory_bytes()
        started = time.perf_counter()
        self.session = loadable.open(request["threads"])
        elapsed = 1000 * (time.perf_counter() - started)
        return {
            "load_ms": getattr(self.session, "load_ms", elapsed),
            "baseline_bytes": getattr(self.session, "baseline_bytes", baseline),
        }

    def warm_up(self, request: Request) -> Request:
        """Run until steady: the median of the last 16 queries within 5 % of the 16 before.

        At most `longest` queries or 180 s.
        """
        times: list[float] = []
        steady = False
        deadline = time.perf_counter() + WARM_UP_SECONDS
        longest = request["longest"]
        while not steady and len(times) < longest and time.perf_counter() < deadline:
            times += self._queries(request["batch"], min(WINDOW, longest), 60.0)
            steady = is_steady(times)
        return {"queries": len(times), "steady": steady}

    def time(self, request: Request) -> Request:
        """Latencies in ms of at most `queries` queries or `seconds` seconds, whichever comes first."""
        return {"ms": self._queries(request["batch"], request["queries"], request["seconds"])}

    def memory(self, _request: Request) -> Request:
        """Peak resident memory so far, of this process or of the one in which the session says its model runs."""
        measure = getattr(self.session, "peak_memory_bytes", peak_memory_bytes)
        return {"peak_bytes": measure()}

    def _queries(self, batch: int, count: int, seconds: float) -> list[float]:
        assert self.session is not None, "load comes first"
        time_one = getattr(self.session, "time", self._time)
        times: list[float] = []
        deadline = time.perf_counter() + seconds
        for _ in range(count):
            times.append(time_one(self._sample(batch)))
            if time.perf_counter() > deadline:
                break
        return times

    def _time(self, feeds: dict[str, np.ndarray]) -> float:
        assert self.session is not None
        started = time.perf_counter()
        self.session.run(feeds)
        return 1000 * (time.perf_counter() - started)

    def _sample(self, batch: int) -> dict[str, np.ndarray]:
        count = len(next(iter(self.feeds.values())))
        start = self.next_sample if self.next_sample + batch <= count else 0
        self.next_sample = start + batch
        return {name: array[start : start + batch] for name, array in self.feeds.items()}


def is_steady(times: Sequence[float]) -> bool:
    """Whether the median of the last 16 queries is within 5 % of that of the 16 before."""
    if len(times) < 2 * WINDOW:
        return False
    before, last = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(last - before) <= TOLERANCE * before)


def peak_memory_bytes() -> int:
    """This process's peak resident set, in bytes."""
    if sys.platform == "linux":
        # not ru_maxrss: across fork and exec it keeps the parent's peak
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Serve requests from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    worker = Worker(sys.argv[1])
    commands: dict[str, Callable[[Request], Request]] = {
        "load": worker.load,
        "warm_up": worker.warm_up,
        "time": worker.time,
        "memory": worker.memory,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = commands[request["command"]](request)
        except Exception as error:  # reported to the parent, which fails the variant with it
            traceback.print_exc()
            answer = {"error": told(error)}
        print(json.dumps(answer), file=answers, flush=True)
    if close := getattr(worker.session, "close", None):
        close()


if __name__ == "__main__":
    main()
