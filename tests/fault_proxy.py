"""A proxy before an HTTP server that fails as networks and servers do."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
ERROR = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>by the proxy</Message></Error>'
CODES = {403: b"AccessDenied", 429: b"TooManyRequests", 500: b"InternalError", 503: b"SlowDown"}
Applies = Callable[[str, str], bool]  # to this method and path


class FaultProxy:
    """Forwards to `upstream`, except for what `fault` says: an HTTP status, or `reset`, `silent`, `cut`, `corrupt`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: int | str | None = None
        self.applies: Applies = lambda _method, _path: True
        self.times: int | None = None  # how often; None: always
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def fail(self, fault: int | str, times: int | None = None, applies: Applies | None = None) -> None:
        """From now on, at each request or at the next `times`."""
        self.fault, self.times = fault, times
        self.applies = applies or (lambda _method, _path: True)

    def heal(self) -> None:
        self.fault = None

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def take(self, method: str, path: str) -> int | str | None:
        """The fault of this request."""
        self.requests.append(f"{method} {path}")
        if self.fault is None or self.times == 0 or not self.applies(method, path):
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy before `upstream`, closed afterwards."""
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.body()
            fault = proxy.take(self.command, self.path)
            if fault == "silent":
                proxy.closing.wait(60)
                self.close_connection = True
            elif fault == "reset":
                self.reset()
            elif isinstance(fault, int):
                self.answer(fault, {"Content-Type": "application/xml"}, ERROR % CODES[fault])
            else:
                status, headers, content = self.forward(body)
                if fault == "corrupt" and content:
                    content = bytes([content[0] ^ 1]) + content[1:]
                self.answer(status, headers, content, cut=fault == "cut")

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            own = ("connection", "transfer-encoding", "content-length", "expect")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
            connection = HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=30)
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        def answer(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
            self.send_response(status)
            length = next((v for k, v in headers.items() if k.lower() == "content-length"), str(len(content)))
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if cut and content:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(content)

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_arguments: Any) -> None:
            pass

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    return Handler
