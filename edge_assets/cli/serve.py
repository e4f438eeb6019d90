"""`edge-assets serve`: Dagster (web server, daemon, code server) and MLflow on 127.0.0.1, started and stopped together.

Web server and daemon share one code server, which listens on a socket in a folder of this account alone. It is the one
that may die without the others (user code runs in it): it is started again, and runs that died with it are closed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import click
import dagster as dg
import yaml

from edge_assets.defs.instance import missing_settings, open_instance
from edge_assets.defs.running import ACTIVE, Worker, close_dead_runs, is_here
from edge_assets.errors import EdgeAssetsError
from edge_assets.settings import Home, allowed_hosts, home, token
from resources.mlflow_views import VIEW, VIEW_TAG, view_path

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS = 90, 15
EXPERIMENTS = "#/experiments?workflowType=machine_learning"  # the page of MLflow: it opens on that of GenAI else
SEARCH = "/ajax-api/2.0/mlflow/experiments/search?max_results=100"
LOOK_SECONDS, PATIENCE = 5, 3  # how often the code server is asked, and how many times in vain
LOCATION = "edge_assets"  # the code location's name, as in workspace.yaml and pyproject.toml
CODE, DAEMON, WEB, MLFLOW = "code-server", "dagster-daemon", "dagster-webserver", "mlflow"
LOG_LINES = 5
# Becomes the server, which the kernel asks to end when `serve` is killed: it would keep the port otherwise. Linux only.
TETHERED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass
class Servers:
    """The processes by name, and where they write."""

    logs: Path
    sockets: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ended: list[subprocess.Popen[bytes]] = field(default_factory=list)  # whose groups may hold processes of theirs yet

    @property
    def code_socket(self) -> Path:
        return self.sockets / "code.sock"

    @property
    def workspace(self) -> Path:
        return self.sockets / "workspace.yaml"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def start(self, name: str, command: Sequence[str], **environment: str) -> None:
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", TETHERED, *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def has_ended(self, name: str) -> bool:
        return self.running[name].poll() is not None


def serve(dagster_port: int, mlflow_port: int) -> None:
    """Run until Ctrl-C or SIGTERM. Raises EdgeAssetsError if a port is taken or a server does not come up."""
    if dagster_port == mlflow_port:
        raise EdgeAssetsError(f"Dagster and MLflow cannot both have port {dagster_port}: choose another --mlflow-port")
    for name, port in (("Dagster", dagster_port), ("MLflow", mlflow_port)):
        if _answers(port):
            raise EdgeAssetsError(f"port {port} is taken: stop what listens there, or choose --{name.lower()}-port")
    secret = token()
    os.environ.pop("EDGE_ASSETS_TOKEN", None)  # the web servers alone have to know it
    settings = home()
    _set_addresses(settings, dagster_port, mlflow_port)
    logs = settings.root / "logs"
    with open_instance(settings, _warn) as instance, _sockets() as sockets:
        logs.mkdir(exist_ok=True)
        for lack in missing_settings(settings):
            _warn(lack)
        _recover(instance)
        servers = Servers(logs, sockets)
        with _stoppable(servers):
            _start_all(servers, dagster_port, mlflow_port, secret)
            suffix = f"/?token={quote(secret, safe='')}" if secret else "/"
            click.echo(f"Dagster  http://{HOST}:{dagster_port}{suffix}")
            click.echo(f"MLflow   http://{HOST}:{mlflow_port}{suffix}{EXPERIMENTS}")
            for name, path in _views(mlflow_port, secret):
                click.echo(f"  {name}: http://{HOST}:{mlflow_port}{suffix}{path}")
            click.echo(f"state in {settings.root}, logs in {logs}. Ctrl-C stops both.")
            _watch(servers, instance)


def _set_addresses(settings: Home, dagster_port: int, mlflow_port: int) -> None:
    os.environ.setdefault("EDGE_ASSETS_DAGSTER_URL", f"http://{HOST}:{dagster_port}")
    if not settings.tracking_uri.startswith("http"):  # a tracking server has an address of its own
        os.environ.setdefault("EDGE_ASSETS_MLFLOW_URL", f"http://{HOST}:{mlflow_port}")
    names = sorted(allowed_hosts())
    if names:  # MLflow looks at them too, behind the guard
        own = [f"{HOST}:{mlflow_port}", f"localhost:{mlflow_port}", f"[::1]:{mlflow_port}"]
        origins = []
        for name in names:
            origins += [f"http://{name}", f"https://{name}"]
        os.environ.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", ",".join(own + names))
        os.environ.setdefault("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ",".join(origins))


@contextmanager
def _sockets() -> Iterator[Path]:
    """A folder that no other account can enter, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="edge-assets-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _stoppable(servers: Servers) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block quietly; whatever ends it, the servers are stopped."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a background start leaves SIGINT ignored
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("stopping")
    finally:
        _stop([*servers.ended, *servers.running.values()])


def _recover(instance: dg.DagsterInstance) -> None:
    """Close what died, and name what may have."""
    for run in close_dead_runs(instance):
        click.echo(f"closed run {run.run_id} of {run.job_name}: its process is gone")
    for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE)):
        worker = Worker.of(run)
        if worker is None or not is_here(worker):
            place = f"on {worker.host}" if worker else "somewhere"
            _warn(
                f"run {run.run_id} of {run.job_name} is executed {place}, as far as can be seen from here, and the "
                f"queue waits for it: terminate it in Dagster's UI if you know that it is gone"
            )


def _start_all(servers: Servers, dagster_port: int, mlflow_port: int, secret: str | None) -> None:
    code_server = {"socket": str(servers.code_socket), "location_name": LOCATION}
    workspace_file = {"load_from": [{"grpc_server": code_server}]}
    servers.workspace.write_text(yaml.safe_dump(workspace_file))
    known = {"EDGE_ASSETS_TOKEN": secret} if secret else {}
    web = [sys.executable, "-m", "edge_assets.cli.webservers"]
    _start_code_server(servers)
    servers.start(MLFLOW, [*web, "mlflow", "--port", str(mlflow_port)], **known)
    _wait(servers, CODE, lambda: _has_code(servers))
    workspace = ["--workspace", str(servers.workspace)]
    servers.start(WEB, [*web, "dagster", "--port", str(dagster_port), *workspace], **known)
    # MLflow before the daemon: it creates its database, which a run could otherwise try to create at the same time
    _wait(servers, MLFLOW, lambda: _answers(mlflow_port))
    servers.start(DAEMON, [_script("dagster-daemon"), "run", *workspace])
    _wait(servers, WEB, lambda: _answers(dagster_port))


def _start_code_server(servers: Servers) -> None:
    servers.code_socket.unlink(missing_ok=True)
    location = ["--module-name", "edge_assets.definitions", "--location-name", LOCATION]
    servers.start(CODE, [_script("dagster"), "code-server", "start", "--socket", str(servers.code_socket), *location])


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)  # the environment's own, whatever the PATH says


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _views(mlflow_port: int, secret: str | None) -> list[tuple[str, str]]:
    """The tables of variants by model: from its list of experiments, MLflow leads to a page of GenAI."""
    request = urllib.request.Request(f"http://{HOST}:{mlflow_port}{SEARCH}")
    if secret:
        request.add_header("Authorization", f"Bearer {secret}")
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            found = json.load(answer).get("experiments", [])
    except (OSError, ValueError):
        return []  # the page itself says what is wrong with it
    views = []
    for experiment in found:
        if any(tag["key"] == f"{VIEW_TAG}{VIEW}" for tag in experiment.get("tags", [])):
            views.append((experiment["name"], view_path(experiment["experiment_id"])))
    return sorted(views)


def _has_code(servers: Servers) -> bool:
    """Whether the code server answers, be it that the code cannot be loaded."""
    from dagster._core.errors import DagsterUserCodeProcessError, DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    if not servers.code_socket.exists():
        return False
    try:
        DagsterGrpcClient(socket=str(servers.code_socket)).list_repositories()
    except DagsterUserCodeProcessError:
        return True
    except DagsterUserCodeUnreachableError:
        return False
    return True


def _wait(servers: Servers, name: str, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_up():
        if servers.has_ended(name) or time.monotonic() > deadline:
            raise EdgeAssetsError(f"{name} did not come up; {_last_words(servers, name)}")
        time.sleep(0.2)


def _watch(servers: Servers, instance: dg.DagsterInstance) -> None:
    """Until one of the servers ends by itself; the code server is started again."""
    in_vain, asked = 0, time.monotonic()
    while True:
        time.sleep(0.5)
        for name in (MLFLOW, DAEMON, WEB):
            if servers.has_ended(name):
                raise EdgeAssetsError(
                    f"{name} ended by itself, and the others were stopped; {_last_words(servers, name)}"
                )
        if time.monotonic() > asked + LOOK_SECONDS:
            asked = time.monotonic()
            in_vain = 0 if _has_code(servers) else in_vain + 1
        if servers.has_ended(CODE) or in_vain >= PATIENCE:
            in_vain = 0
            _warn(f"the code server died and is started again; {_last_words(servers, CODE)}")
            _restart_code_server(servers)
            for run in close_dead_runs(instance):
                _warn(f"closed run {run.run_id} of {run.job_name}, which died with it")


def _restart_code_server(servers: Servers) -> None:
    """Start it again, and leave alone the processes of its that execute runs: they do not need it."""
    process = servers.running[CODE]
    process.kill()
    process.wait()
    servers.ended.append(process)
    _start_code_server(servers)
    _wait(servers, CODE, lambda: _has_code(servers))


def _last_words(servers: Servers, name: str) -> str:
    log = servers.log(name)
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return "\n  ".join([f"its log is {log}, which ends", *lines]) if lines else f"its log, {log}, is empty"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every server's process group to end, then kill what is left of it."""
    for process in reversed(processes):
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass  # the whole group has ended


def _warn(message: str) -> None:
    click.secho(message, fg="yellow", err=True)
