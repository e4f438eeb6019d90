"""Commands in new processes that need not import the heavy libraries again: forks of one that has imported them.

A fork is a process of its own, with its own environment, folder, output and exit code, and imports all of the product
anew. What it shares are third-party modules as they were after import. Each line on standard input is a request; the
answer on standard output is the exit code.

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
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
SECONDS = 300
COMMAND = (  # what the command line imports; not mlflow.pytorch, which takes warnings from the root logger
    *("dagster", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.pyfunc", "mlflow.onnx"),
    *("torch", "torch.export", "torch.onnx.ops", "torch._dynamo", "torch.ao.quantization.quantize_fx"),
    *("onnx", "onnxscript", "matplotlib.pyplot", "pandas"),
    *("sklearn.datasets", "s3fs", "rich.console", "pebble"),
)

_servers: dict[tuple[str, ...], subprocess.Popen[str]] = {}  # by what they have imported


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
    for name in sys.argv[1:]:
        import_module(name)
    gc.freeze()  # a collection in a fork would copy all that these hold
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(**json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(module: str, arguments: list[str], folder: str, env: dict[str, str], output: list[str]) -> NoReturn:
    """Turn this fork into what was asked for, to its end."""
    signal.alarm(SECONDS)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate([os.devnull, *output]):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
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
