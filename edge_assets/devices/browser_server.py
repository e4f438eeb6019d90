"""The web server behind a browser that is being measured: the page and the bundle, and the page's calls.

All that it serves lies below the token's folder, so who does not have the link gets nothing. The page's calls are
POSTs: `claim`, `work`, `alive` and `answers/<request>/<part>/<parts>`.
"""

import json
import socket
import ssl
import time
from collections.abc import Mapping
from functools import partial
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer

from edge_assets.devices.browser_lease import PART_BYTES, Lease, Refusal
from edge_assets.errors import EdgeAssetsError, Malformed
from edge_assets.toolchains.web.chromium import ISOLATION, TYPES, WEB, Serving, routed

PAGES = {
    "/": "device.html",
    "/device.js": "device.js",
    "/model.js": "model.js",
    "/bundle/adapter.js": "bundle/adapter.js",  # which bundles of earlier versions have not
}
COOKIE = "edge-assets-lease"
POLL = 20  # seconds that a request for work waits for some
CLAIM_BYTES = 16384
WRONG_TOKEN = 0.5  # seconds until who guesses is answered
HEADERS = {
    **ISOLATION,
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ANY_ADDRESS = ("0.0.0.0", "::")


class DeviceServer(Serving):
    """Serves one lease until it is closed. `link` is what a person opens."""

    def __init__(
        self,
        lease: Lease,
        bundle: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        routes = {path: WEB / name for path, name in PAGES.items()} | {"/bundle/": bundle}
        context = _context(certificate) if certificate else None
        kind = _IPv6Server if ":" in host else ThreadingHTTPServer
        try:
            server = kind((host, port), partial(_Handler, lease, routes))
        except OSError as error:
            raise EdgeAssetsError(f"{host}, port {port}, cannot be listened on: {error.strerror or error}") from None
        server.daemon_threads = True
        if context:
            # the handshake is the handler's, in its own thread: who connects and says nothing stops nobody
            server.socket = context.wrap_socket(
                server.socket,
                server_side=True,
                do_handshake_on_connect=False,
            )
        shown = _own_address(host) if host in ANY_ADDRESS else host
        if ":" in shown:
            shown = f"[{shown}]"
        scheme = "https" if context else "http"
        self.link = f"{scheme}://{shown}:{server.server_port}/{lease.token}/"
        super().__init__(server)


class _IPv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = 120  # seconds for a client that stops in the middle

    def __init__(
        self,
        lease: Lease,
        routes: Mapping[str, Path],
        request: socket.socket,
        client: tuple[str, int],
        server: BaseServer,
    ) -> None:
        self.lease = lease
        self.routes = routes
        super().__init__(request, client, server)

    def handle(self) -> None:
        """As ever, but a client that speaks no TLS, or goes away, is no news."""
        try:
            super().handle()
        except (ssl.SSLError, ConnectionError, TimeoutError):
            pass

    def do_GET(self) -> None:
        """A file of the page or of the bundle."""
        try:
            file = routed(self.routes, self._path())
            if file is None:
                raise Refusal(404, "There is nothing here.")
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            self._send(200, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes())

    def do_POST(self) -> None:
        """One of the page's calls."""
        try:
            self._called(self._path())
        except Refusal as refusal:
            self._refuse(refusal)
        except Malformed as error:
            self._refuse(Refusal(400, str(error)))

    def _called(self, path: str) -> None:
        names = path.strip("/").split("/")
        lease = self.headers.get("X-Lease", "")
        match names:
            case ["claim"]:
                self._claim()
            case ["work"]:
                self._work(lease)
            case ["alive"]:
                self.lease.alive(lease)
                self._send(204)
            case ["answers", request, part, parts] if request.isdecimal() and part.isdecimal() and parts.isdecimal():
                body = self._body(PART_BYTES)
                self.lease.answer(lease, int(request), int(part), int(parts), body)
                self._send(204)
            case _:
                raise Refusal(404, "There is nothing here.")

    def _claim(self) -> None:
        try:
            given = json.loads(self._body(CLAIM_BYTES))
        except ValueError:
            raise Refusal(400, "A claim is JSON.") from None
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        lease = self.lease.claim(given, cookie.value if cookie else None)
        kept = f"{COOKIE}={lease}; Path=/{self.lease.token}/; HttpOnly; SameSite=Strict"
        self._send_json({"lease": lease}, {"Set-Cookie": kept})

    def _work(self, lease: str) -> None:
        request = self.lease.work(lease, POLL)
        if request is None:
            self._send(204)
        else:
            asked = {"id": request.number, "function": request.function, "arguments": request.arguments}
            self._send_json(asked)

    def _path(self) -> str:
        """The path below the token's folder. Raises Refusal for any other folder."""
        path = self.path.partition("?")[0]
        token, separator, rest = path.removeprefix("/").partition("/")
        try:
            self.lease.demand_token(token)
        except Refusal:
            time.sleep(WRONG_TOKEN)
            raise
        if not separator:
            raise Refusal(404, "The link ends with a slash.")
        return f"/{rest}"

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > most:
            raise Refusal(413, f"A body has a length of at most {most} bytes.")
        return self.rfile.read(int(length))

    def _refuse(self, refusal: Refusal) -> None:
        self._send(refusal.status, "text/plain; charset=utf-8", str(refusal).encode())

    def _send_json(self, content: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, "application/json", json.dumps(content).encode(), headers)

    def _send(
        self,
        status: int,
        kind: str | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not news, and their addresses hold the token."""


def _context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """TLS with a certificate and its key. Raises EdgeAssetsError for files that are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, key = certificate
    try:
        context.load_cert_chain(chain, key)
    except (OSError, ssl.SSLError) as error:
        raise EdgeAssetsError(f"the certificate {chain} with the key {key} cannot be used: {error}") from None
    return context


def _own_address(host: str) -> str:
    """The address by which a neighbour in the network reaches this machine; nothing is sent to find it."""
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))
        except OSError:
            return "localhost"  # there is no network
        address: str = probe.getsockname()[0]
    return address
