"""`edge-assets serve`: Dagster (web server and daemon) and MLflow on 127.0.0.1, started and stopped together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from edge_assets.core.errors import EdgeAssetsError
from edge_assets.instance import open_instance
from edge_assets.settings import Home, home

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS = 90, 15
DEFINITIONS = ["-m", "edge_assets.definitions"]


def serve(dagster_port: int, mlflow_port: int) -> None:
    """Run until Ctrl-C or SIGTERM. Raises EdgeAssetsError if a port is taken or a server does not come up."""
    for name, port in (("Dagster", dagster_port), ("MLflow", mlflow_port)):
        if _answers(port):
            raise EdgeAssetsError(f"port {port} is taken: stop what listens there, or choose --{name.lower()}-port")
    settings = home()
    with open_instance(settings):
        pass  # creates Dagster's databases, which daemon and web server would otherwise both try to create at once
    logs = settings.root / "logs"
    logs.mkdir(exist_ok=True)
    os.environ.setdefault("EDGE_ASSETS_DAGSTER_URL", f"http://{HOST}:{dagster_port}")
    if not settings.tracking_uri.startswith("http"):  # a tracking server has an address of its own
        os.environ.setdefault("EDGE_ASSETS_MLFLOW_URL", f"http://{HOST}:{mlflow_port}")
    processes: list[subprocess.Popen[bytes]] = []

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a background start leaves SIGINT ignored
        signal.signal(number, stop)
    try:
        # MLflow first: it creates its database, which a run could otherwise try to create at the same time
        processes.append(_start("mlflow", _mlflow(settings, mlflow_port), logs))
        _wait("MLflow", mlflow_port, processes[-1], logs / "mlflow.log")
        processes.append(_start("dagster-daemon", ["dagster-daemon", "run", *DEFINITIONS], logs))
        webserver = ["dagster-webserver", "-h", HOST, "-p", str(dagster_port), *DEFINITIONS]
        processes.append(_start("dagster-webserver", webserver, logs))
        _wait("Dagster", dagster_port, processes[-1], logs / "dagster-webserver.log")
        click.echo(f"Dagster  http://{HOST}:{dagster_port}")
        click.echo(f"MLflow   http://{HOST}:{mlflow_port}")
        click.echo(f"state in {settings.root}, logs in {logs}. Ctrl-C stops both.")
        _watch(processes, logs)
    except KeyboardInterrupt:
        click.echo("stopping")
    finally:
        _stop(processes)


def _mlflow(settings: Home, port: int) -> list[str]:
    artifacts = (settings.mlflow / "artifacts").as_uri()
    store = ["--backend-store-uri", f"sqlite:///{settings.mlflow / 'mlflow.db'}", "--artifacts-destination", artifacts]
    return ["mlflow", "server", *store, "--host", HOST, "--port", str(port), "--workers", "1"]


def _start(name: str, command: Sequence[str], logs: Path) -> subprocess.Popen[bytes]:
    scripts = Path(sys.executable).parent  # the environment's own, whatever the PATH says
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven idle processes otherwise
    with (logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [str(scripts / command[0]), *command[1:]],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _wait(name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise EdgeAssetsError(f"{name} did not come up; its log is {log}")
        time.sleep(0.2)


def _watch(processes: Sequence[subprocess.Popen[bytes]], logs: Path) -> None:
    while all(process.poll() is None for process in processes):
        time.sleep(0.5)
    raise EdgeAssetsError(f"one of the servers ended by itself; the logs are in {logs}")


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
