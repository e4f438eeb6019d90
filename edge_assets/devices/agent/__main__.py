"""The agent: answers one request after the other on its standard streams, and ends when its input does.

    hello        what this machine is, what is installed, how it is now
    lease        this machine's turn to measure, kept until the process ends
    have, put    a file by its content; artifact: files under the names that a runtime wants
    load         open a model; inputs: what queries cycle through
    run          outputs of a batch
    warm_up, time, memory   as the product measures here; telemetry: temperature, clock, throttling, load
    build        the engine of a TensorRT kit, for the GPU of this machine; get: its bytes, by their hash
    bound        remove what was not used for longest

Nothing that a device sends or is sent runs as code but the runtime's own, and a TensorRT kit's script, which came with
the model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import runpy
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Union

from edge_assets.core.benchmark.load import Load
from edge_assets.core.benchmark.queries import Queries, peak_memory_bytes
from edge_assets.core.benchmark.turns import opened_lock
from edge_assets.devices.agent.files import Files
from edge_assets.devices.agent.models import library_of, open_model, versions
from edge_assets.devices.agent.telemetry import Sensors, Watch
from edge_assets.devices.agent.wire import BrokenWire, Message, packed, receive, send, unpacked
from edge_assets.errors import Refused, told
from edge_assets.targets.machine import this_machine
from edge_assets.toolchains.tensorrt import kit

PROTOCOL = 1
SILENCE = 900  # seconds without a request after which nobody is taken to be there: a cut cable has no end of input
Answer = Union[Message, tuple[Message, bytes]]  # noqa: UP007  # of Python 3.9
HOLDER = "holder.json"  # who has this machine's turn, beside the files


class Agent:
    """The machine: what it is, whose turn it is, and its files."""

    def __init__(self, settings: Message) -> None:
        home = settings.get("home") or os.environ.get("EDGE_ASSETS_AGENT_HOME") or "~/.cache/edge-assets-agent"
        self.files = Files(Path(home).expanduser())
        self.sensors = Sensors(Path(settings.get("root") or "/"), settings.get("power"))
        self.version = settings.get("version")
        self.lock: int | None = None

    def hello(self, _request: Message, _payload: bytes) -> Message:
        """The fingerprint of this machine, the versions of its runtimes, and its condition."""
        disk = os.statvfs(self.files.root)
        return {
            "protocol": PROTOCOL,
            "version": self.version,
            "machine": asdict(this_machine()),
            "versions": versions(),
            "clock": time.time(),
            "free_disk_bytes": disk.f_bavail * disk.f_frsize,
            "telemetry": self.sensors.now(),
            "power_w": self.sensors.watts() if self.sensors.power else None,
        }

    def lease(self, request: Message, _payload: bytes) -> Message:
        """This machine's turn to measure, if nobody has it; else who does, as far as this account may know."""
        if self.lock is None:
            descriptor = opened_lock()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return {"held": False, "by": self._holder()}
            self.lock = descriptor
            holder = {"by": request["by"], "since": time.time(), "process": os.getpid()}
            (self.files.root / HOLDER).write_text(json.dumps(holder))
        return {"held": True}

    def _holder(self) -> Message | None:
        try:
            holder: Message = json.loads((self.files.root / HOLDER).read_text())
            os.kill(holder["process"], 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # another account's, or a measurement of this machine's own
        return holder

    def have(self, request: Message, _payload: bytes) -> Message:
        """Of each file: how many bytes came so far; null where it is whole."""
        return {"have": {sha256: self.files.have(sha256) for sha256 in request["files"]}}

    def put(self, request: Message, payload: bytes) -> Message:
        """The next bytes of a file, which is checked with the last of them."""
        self.files.append(request["sha256"], request["offset"], payload)
        if request["last"]:
            self.files.finish(request["sha256"])
        return {}

    def artifact(self, request: Message, _payload: bytes) -> Message:
        """Where the artifact lies whose files came."""
        return {"path": str(self.files.artifact(request["sha256"], request["files"]))}

    def telemetry(self, _request: Message, _payload: bytes) -> Message:
        """How the device is now."""
        return self.sensors.now()

    def bound(self, _request: Message, _payload: bytes) -> Message:
        """Remove what was not used for longest."""
        return {"removed_bytes": self.files.bound()}


class Model:
    """The model that an agent has open, and what is asked of it."""

    def __init__(self, files: Files, sensors: Sensors) -> None:
        self.files = files
        self.sensors = sensors
        self.session: Any = None
        self.queries: Queries | None = None

    def build(self, request: Message, _payload: bytes) -> Message:
        """Where the kit lies with an engine that runs here: the one that came with it, else one that its script builds.

        `engine` is what the kit says that it is for; `get` gives its bytes. Raises Refused in the script's words.
        """
        place = hashlib.sha256(json.dumps([this_machine().gpus, versions()], sort_keys=True).encode()).hexdigest()
        ready = self.files.engines / f"{request['sha256'][:16]}-{place[:16]}"
        if not ready.exists():
            with tempfile.TemporaryDirectory(dir=self.files.engines) as scratch:
                own = Path(scratch) / "kit"  # the files of an artifact are links, and another kit may have the same
                shutil.copytree(request["path"], own)
                _complete(own)
                own.rename(ready)
        engine = _engine_of(ready)
        assert engine is not None
        sha256 = engine.pop("sha256")
        size = self.files.keep(ready / kit.ENGINE, sha256)
        return {"path": str(ready), "engine": engine, "sha256": sha256, "size": size}

    def get(self, request: Message, _payload: bytes) -> tuple[Message, bytes]:
        """The next bytes of an engine that was built here."""
        return {}, self.files.part(request["sha256"], request["offset"])

    def load(self, request: Message, _payload: bytes) -> Message:
        """Open the model. `baseline_bytes` is the peak before it: interpreter, runtime library and inputs."""
        import_module(library_of(request["runtime"]))
        baseline = peak_memory_bytes()
        started = time.perf_counter()
        session = open_model(request["runtime"], Path(request["path"]), request["threads"], request["options"])
        elapsed = 1000 * (time.perf_counter() - started)
        self.session = session
        self.queries = Queries(session, self.queries.feeds if self.queries else {})
        return {
            "load_ms": getattr(session, "load_ms", elapsed),
            "baseline_bytes": getattr(session, "baseline_bytes", baseline),
        }

    def inputs(self, request: Message, _payload: bytes) -> Message:
        """What queries cycle through: a file of arrays that came before."""
        feeds = unpacked(self.files.path(request["sha256"]).read_bytes())
        self.queries = Queries(self.session, feeds)
        return {"samples": len(next(iter(feeds.values())))}

    def run(self, request: Message, payload: bytes) -> tuple[Message, bytes]:
        """Outputs for the inputs that came; with `one`, of a program's own single sample."""
        call = self.session.run_one if request.get("one") else self.session.run
        outputs = call(unpacked(payload))
        return {}, packed(dict(outputs))

    def warm_up(self, request: Message, _payload: bytes) -> Message:
        """Run until steady, or `longest` queries."""
        return self._timing().warm_up(request["batch"], request["longest"])

    def time(self, request: Message, _payload: bytes) -> Message:
        """Latencies in ms, and how the device was meanwhile."""
        before = self.sensors.now()
        watch, load = Watch(self.sensors), Load.now()
        times = self._timing().timed(request["batch"], request["queries"], request["seconds"])
        conditions = load.since()
        joules, after = watch.joules(), self.sensors.now()
        return {"ms": times, "conditions": conditions, "joules": joules, "before": before, "after": after}

    def memory(self, _request: Message, _payload: bytes) -> Message:
        """Peak resident memory so far, or the GPU's where the model is there."""
        return {"peak_bytes": self._timing().peak_bytes()}

    def _timing(self) -> Queries:
        assert self.queries is not None, "load and inputs come first"
        return self.queries


def _complete(folder: Path) -> None:
    """Give a kit an engine that runs here, where it has none. Raises Refused where its script cannot build one."""
    script = folder / kit.SCRIPT
    if _engine_of(folder) is not None and _refusal(script, "--check") is None:
        return
    refusal = _refusal(script)
    if refusal is None and _engine_of(folder) is None:
        refusal = f"{kit.SCRIPT} ended without an engine"
    if refusal is not None:
        raise Refused(refusal)


def _engine_of(folder: Path) -> Message | None:
    """What a kit says of its engine; None where it has none."""
    found: Message | None = json.loads((folder / kit.KIT).read_text())["engine"]
    return found


def _refusal(script: Path, *arguments: str) -> str | None:
    """Why a kit's own script could not do what it was asked, in its words; None: it did.

    It runs in this process, so that it ends however this one does.
    """
    before = sys.argv
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return str(ended.code) if ended.code else None
    finally:
        sys.argv = before
    return None


def serve(agent: Agent, model: Model, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the input ends. A request that fails is answered with its error."""
    commands: dict[str, Callable[[Message, bytes], Answer]] = {
        "hello": agent.hello,
        "lease": agent.lease,
        "have": agent.have,
        "put": agent.put,
        "artifact": agent.artifact,
        "load": model.load,
        "inputs": model.inputs,
        "run": model.run,
        "warm_up": model.warm_up,
        "time": model.time,
        "memory": model.memory,
        "telemetry": agent.telemetry,
        "build": model.build,
        "get": model.get,
        "bound": agent.bound,
    }
    for message, payload in _awaited(requests):
        answer: Answer
        try:
            answer = commands[message["command"]](message, payload)
        except Exception as error:  # a runtime can raise anything; who asked is told
            traceback.print_exc()
            answer = {"error": told(error), "refused": isinstance(error, Refused)}
        given, data = answer if isinstance(answer, tuple) else (answer, b"")
        send(answers, given, data)


def _awaited(requests: IO[bytes]) -> Iterator[tuple[Message, bytes]]:
    """Requests as they come, read in a thread of its own: the end of the input ends even a model that runs."""
    waiting: queue.Queue[tuple[Message, bytes]] = queue.Queue()

    def read() -> None:
        try:
            while True:
                came = receive(requests)
                if came is None:
                    break
                waiting.put(came)
        except (BrokenWire, OSError) as error:
            print(f"the agent ends: {error}", file=sys.stderr)
        os._exit(0)  # nobody is there to be answered: a query that runs, or waits for a lock, ends too

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            yield waiting.get(timeout=SILENCE)
        except queue.Empty:
            print(f"the agent ends: no request for {SILENCE} s", file=sys.stderr)
            return


def main() -> None:
    """Serve on the standard streams. The only argument is a JSON object of settings."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    agent = Agent(settings)
    serve(agent, Model(agent.files, agent.sensors), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
