"""The child process that holds one variant and answers timing requests: one JSON line in, one out.

It imports the variant's runtime and nothing else, so that its peak memory is the runtime's and the model's.
Timings exclude preprocessing and the copy of inputs into the process.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_assets.core.benchmark.load import Load
from edge_assets.core.benchmark.queries import Queries, peak_memory_bytes
from edge_assets.core.session import Loadable
from edge_assets.errors import told

Request = dict[str, Any]


class Worker:
    """Serves `load`, `warm_up`, `time` and `memory`."""

    def __init__(self, inputs: str) -> None:
        with np.load(inputs, allow_pickle=False) as data:
            self.feeds = {name: data[name] for name in data.files}
        self.queries: Queries | None = None

    def load(self, request: Request) -> Request:
        """Open the model. `baseline_bytes` is the peak before it: interpreter, runtime library and inputs.

        A session whose model runs in another process says both of that process.
        """
        loadable = Loadable(request["runtime"], request["path"], request["options"])
        loadable.import_runtime()
        baseline = peak_memory_bytes()
        started = time.perf_counter()
        session = loadable.open(request["threads"])
        elapsed = 1000 * (time.perf_counter() - started)
        self.queries = Queries(session, self.feeds)
        return {
            "load_ms": getattr(session, "load_ms", elapsed),
            "baseline_bytes": getattr(session, "baseline_bytes", baseline),
        }

    def warm_up(self, request: Request) -> Request:
        """Run until steady, or `longest` queries."""
        return self._queries().warm_up(request["batch"], request["longest"])

    def time(self, request: Request) -> Request:
        """Latencies in ms of at most `queries` queries or `seconds` seconds, whichever comes first."""
        load = Load.now()
        times = self._queries().timed(request["batch"], request["queries"], request["seconds"])
        return {"ms": times, "conditions": load.since()}

    def memory(self, _request: Request) -> Request:
        """Peak resident memory so far, of this process or of the one in which the session says its model runs."""
        return {"peak_bytes": self._queries().peak_bytes()}

    def _queries(self) -> Queries:
        assert self.queries is not None, "load comes first"
        return self.queries


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
    session = worker.queries.session if worker.queries else None
    if close := getattr(session, "close", None):
        close()
    answers.close()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to be done, and to take down a runtime's libraries takes up to half a second


if __name__ == "__main__":
    main()
