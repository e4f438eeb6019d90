"""A real HTTP server between a client and another: it passes requests on, answers by itself or not at all."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG = 0  # a rule's answer: take the request and never answer
PASS = None
Answer = tuple[int, bytes] | int | None  # status and body, status alone, or to pass the request on
Rule = Callable[[str, str, bytes], Answer]  # of method, path and body


def always(answer: Answer, but: str | None = None) -> Rule:
    """The rule that gives each request this answer; with `but`, those whose path holds it pass."""

    def rule(_method: str, path: str, _body: bytes) -> Answer:
        if but is not None and but in path:
            return PASS
        return answer

    return rule


@dataclass
class Proxy:
    """Where it listens, what it was asked, and the rule that may be changed while it runs."""

    port: int
    rule: Rule = lambda _method, _path, _body: PASS
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    authorizations: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def proxy(upstream_port: int) -> Iterator[Proxy]:
    """A proxy in front of the server on that port of this machine."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            running.requests.append((self.command, self.path))
            running.authorizations.add(self.headers.get("Authorization", ""))
            decided = running.rule(self.command, self.path, body)
            if decided == HANG:
                ended.wait(60)
                self.close_connection = True
                return
            status, content, kind = _pass_on(upstream_port, self, body) if decided is PASS else _own(decided)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = Proxy(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def _own(decided: "tuple[int, bytes] | int") -> tuple[int, bytes, str]:
    status, content = decided if isinstance(decided, tuple) else (decided, b"<html>an error page</html>")
    return status, content, "application/json" if content.startswith(b"{") else "text/html"


def _pass_on(port: int, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        connection.request(request.command, request.path, body, headers | {"Host": f"127.0.0.1:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Content-Type", "")


@contextmanager
def black_hole() -> Iterator[tuple[int, list[float]]]:
    """A port that accepts connections and never answers, and when each connection came."""
    connections: list[socket.socket] = []
    times: list[float] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connections.append(listening.accept()[0])
            except OSError:
                return
            times.append(time.monotonic())

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1], times
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in connections:
            connection.close()
