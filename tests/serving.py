"""`edge-assets serve` as a user starts it, and requests to it as its pages send them."""

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from edge_assets.defs.instance import DAGSTER_YAML
from tests.conftest import Project

CHROMIUM = [
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Served:
    """A running `edge-assets serve`."""

    project: Project
    process: subprocess.Popen[str]
    dagster: str
    mlflow: str
    printed: list[str] = field(default_factory=list)
    token: str | None = None

    def request(self, method: str, url: str, body: str | None = None, **headers: str) -> Answer:
        """One request with exactly these headers, underscores for hyphens; `url` may be a path of Dagster's."""
        address = urlsplit(url if "://" in url else self.dagster + url)
        connection = http.client.HTTPConnection("127.0.0.1", address.port or 80, timeout=60)
        target = address.path + (f"?{address.query}" if address.query else "")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target or "/", body, named)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
        connection.close()
        return answer

    def graphql(self, query: str, **variables: Any) -> Any:
        """What Dagster answers to a query or a mutation of its own page."""
        body = json.dumps({"query": query, "variables": variables})
        signed = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = self.request("POST", "/graphql", body, Content_Type="application/json", **signed)
        assert answer.status == 200, f"{answer.status}: {answer.text}"
        assert "errors" not in answer.json, answer.text
        return answer.json["data"]

    def processes(self) -> dict[str, int]:
        """Process ids by command line of all that `serve` started, and of what these started."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found[f"{child.pid} {' '.join(child.cmdline())}"] = child.pid
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                pass  # it has just ended
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(project: Project, token: str | None = None) -> Served:
    """`edge-assets serve` that has just come up."""
    ports = [free_port(), free_port()]
    command = ("serve", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1]))
    if token:
        project.environment["EDGE_ASSETS_TOKEN"] = token
    process = project.start_cold(*command, stderr=subprocess.STDOUT)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    served = Served(project, process, urls[0], urls[1], token=token)
    assert process.stdout is not None
    for line in process.stdout:
        served.printed.append(line)
        if "Ctrl-C stops both" in line:
            break
    else:
        raise AssertionError("".join(served.printed))
    # go on reading, so that the pipe never fills
    threading.Thread(target=lambda: served.printed.extend(process.stdout or []), daemon=True).start()
    return served


@contextmanager
def serving(project: Project, token: str | None = None) -> Iterator[Served]:
    """`edge-assets serve` while the block runs; stopped by Ctrl-C, leaving no process behind."""
    served = start(project, token)
    children = served.processes()
    try:
        yield served
    finally:
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=120) in (0, 130)
    left = [name for name, pid in children.items() if is_alive(pid)]
    assert not left, f"outlived serve: {left}"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


def tokens_in(text: str) -> list[str]:
    """Tokens in the addresses that `serve` printed."""
    return re.findall(r"\?token=([^\s#]+)", text)


def brisk_instance(home: Path) -> None:
    """A state folder whose Dagster looks at its queue every second."""
    (home / "dagster").mkdir(parents=True)
    brisk = DAGSTER_YAML.replace("run_queue:\n", "run_queue:\n  dequeue_interval_seconds: 1\n")
    (home / "dagster" / "dagster.yaml").write_text(brisk)
