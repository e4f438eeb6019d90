"""Commands in new processes that need not import the heavy libraries again: forks of one that has imported them.

A fork is a process of its own, with its own environment, folder, output and exit code, and imports all of the product
anew. What it shares are third-party modules as they were after import. Each line on standard input is a request; the
answer on standard output is the exit code, or of one that is only started the process id.

Why not multiprocessing's forkserver with `set_forkserver_preload`: it takes as long (0.27 s of CPU time a command), but
a process has one, with one list of modules, where the tests of each runtime have their own; it passes over a module
that cannot be imported; and a command would be a child of pytest by multiprocessing's account, with pytest's
`sys.path`, resource tracker and, started by the script `pytest`, that script imported as its main module. Folder,
environment, output and the end of the process would be made by the same lines as here.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parent.parent
SECONDS = 300
COMMAND = (  # what the command line imports; not mlflow.pytorch, which takes warnings from the root logger
    *("dagster", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.pyfunc", "mlflow.onnx"),
    *("torch", "torch.export", "torch.onnx.ops", "torch._dynamo", "torch.ao.quantization.quantize_fx"),
    *("onnx", "onnxscript", "onnxscript.function_libs.torch_lib.ops", "onnxruntime.quantization"),
    *("matplotlib.pyplot", "pandas", "bokeh.models", "bokeh.plotting", "bokeh.embed"),
    *("sklearn.datasets", "s3fs", "rich.console", "pebble"),
)

_servers: dict[tuple[str, ...], subprocess.Popen[str]] = {}  # by what they have imported


@dataclass
class Started:
    """A command that runs, as far as tests use `subprocess.Popen`."""

    pid: int
    stdout: IO[str]
    stderr: IO[str]
    _status: IO[str]
    _scratch: tempfile.TemporaryDirectory[str]
    _ended: list[int] = field(default_factory=list)

    @property
    def returncode(self) -> int | None:
        """As subprocess gives it; None until `wait`."""
        return self._ended[0] if self._ended else None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, minus a signal's number where that ended it, as SIGALRM does after SECONDS."""
        if not self._ended:
            self._ended.append(int(self._status.readline()))
            self._scratch.cleanup()
        return self._ended[0]

    def communicate(self) -> tuple[str, str]:
        """What it prints to its end on standard output and standard error, besides what was read before."""
        with ThreadPoolExecutor(1) as pool:
            errors = pool.submit(self.stderr.read)
            output = self.stdout.read()
        self.wait()
        return output, errors.result()


def start(
    module: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str], in_background: bool = False
) -> Started:
    """As `run`, and goes on while it runs. `in_background`: as a script's `&` does, with Ctrl-C ignored."""
    scratch = tempfile.TemporaryDirectory()
    status, *output = [Path(scratch.name) / name for name in ("status", "stdout", "stderr")]
    for path in (status, *output):
        os.mkfifo(path)
    stdout, stderr = (_reader(path) for path in output)
    server = _server(COMMAND)
    assert server.stdin is not None
    assert server.stdout is not None
    request = {
        "module": module,
        "arguments": list(arguments),
        "folder": str(folder),
        "env": dict(env),
        "output": [str(path) for path in output],
        "status": str(status),
        "in_background": in_background,
    }
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    assert server.stdout.readline(), "the process to fork from has died"
    said = status.open()  # waits for who writes there
    return Started(int(said.readline()), stdout, stderr, said, scratch)


def _reader(pipe: Path) -> IO[str]:
    """Opened to read before there is anybody who writes."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor)


def run(
    module: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str], imported: tuple[str, ...] = COMMAND
) -> subprocess.CompletedProcess[str]:
    """As `python -m module arguments` in `folder` with exactly that environment, and with modules `imported` before.

    It is killed after SECONDS.
    """
    server = _server(imported)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / name for name in ("stdout", "stderr")]
        request = {"module": module, "arguments": list(arguments), "folder": str(folder), "env": dict(env)}
        server.stdin.write(json.dumps(request | {"output": [str(path) for path in paths]}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process to fork from has died"
        stdout, stderr = (path.read_text() for path in paths)
    return subprocess.CompletedProcess([module, *arguments], json.loads(answer), stdout, stderr)


def close() -> None:
    """End the processes to fork from."""
    for server in _servers.values():
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
    _servers.clear()


def _server(imported: tuple[str, ...]) -> subprocess.Popen[str]:
    if imported not in _servers:
        command = [sys.executable, "-m", "tests.warm", *imported]
        _servers[imported] = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    return _servers[imported]


def serve() -> None:
    """Fork for every request, until there are no more."""
    gc.disable()  # what is imported stays
    for name in sys.argv[1:]:
        import_module(name)
    if "mlflow" in sys.argv:  # which packages its modules are of: each process would look at what is installed
        import_module("mlflow.utils.requirements_utils")._init_modules_to_packages_map()
    gc.enable()
    gc.freeze()  # a collection in a fork would copy all that these hold
    for line in sys.stdin:
        request = json.loads(line)
        status = request.pop("status", None)
        pid = os.fork()
        if pid == 0 and status:
            attend(status, request)
        if pid == 0:
            become(**request)
        if status:
            print("begun", flush=True)
            continue  # which leaves a small zombie until the end
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


def attend(status: str, request: dict[str, Any]) -> NoReturn:
    """Fork once more, and write that one's process id, then its exit code to `status`."""
    for path in request["output"]:
        os.open(path, os.O_WRONLY)  # or its reader would find an end before the beginning
    pid = os.fork()
    if pid == 0:
        become(**request)
    with Path(status).open("w") as file:
        print(pid, file=file, flush=True)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), file=file, flush=True)
    os._exit(0)


def become(
    module: str,
    arguments: list[str],
    folder: str,
    env: dict[str, str],
    output: list[str],
    in_background: bool = False,
) -> NoReturn:
    """Turn this fork into what was asked for, to its end."""
    signal.alarm(SECONDS)
    if in_background:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate([os.devnull, *output]):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.path[0] = folder
    sys.path[1:1] = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.argv[1:] = arguments
    code: str | int | None = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        code = traceback.format_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    # as multiprocessing ends its forks: taking down every shared module would take longer than most commands
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve()
