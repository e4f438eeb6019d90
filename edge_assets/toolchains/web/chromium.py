"""Headless Chromium, and the local web server beside which browsers verify and measure artifacts.

The server sends the headers of a cross-origin isolated page, so that the page has threads and a clock of 5 us.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from socketserver import BaseServer
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edge_assets.errors import EdgeAssetsError
from edge_assets.toolchains.web.engine import ScriptError, executable, peak

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

WEB = Path(__file__).parent / "static"  # the page, what bundles are made of, and node_modules
RUNTIME = WEB / "node_modules" / "onnxruntime-web" / "dist"
FLAGS = (
    "--headless",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# WebGPU in software: right results, at a speed that says nothing of a GPU's
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
NO_GPU = ("--disable-gpu",)
TYPES = {
    ".html": "text/html",
    ".json": "application/json",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


ISOLATION = {  # what makes a page cross-origin isolated
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def may_be_sandboxed() -> bool:
    """Whether Chromium can run in its own sandbox: for everyone but root, as whom it refuses to start in it."""
    return not (hasattr(os, "geteuid") and os.geteuid() == 0)


class Serving:
    """A web server that answers in a thread until it is closed."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server = server
        self.thread = Thread(target=server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Server(Serving):
    """Serves files and folders by URL prefix on a free port of the loopback interface; counts the bytes it sends."""

    def __init__(self, routes: Mapping[str, Path]) -> None:
        self.routes = routes
        self.sent: list[tuple[str, int]] = []  # path and body bytes of each answer, in order
        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, routes, self.sent)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def __init__(
        self,
        routes: Mapping[str, Path],
        sent: list[tuple[str, int]],
        request: socket,
        client: tuple[str, int],
        server: BaseServer,
    ) -> None:
        self.routes = routes
        self.sent = sent
        super().__init__(request, client, server)

    def do_GET(self) -> None:
        """Answer with a routed file."""
        path = self.path.partition("?")[0]
        file = routed(self.routes, path)
        if file is None:
            self._answer(path, 404, "text/plain", b"not found")
        else:
            kind = TYPES.get(file.suffix, "application/octet-stream")
            self._answer(path, 200, kind, file.read_bytes())

    def _answer(self, path: str, status: int, kind: str, body: bytes) -> None:
        self.sent.append((path, len(body)))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the page was closed meanwhile

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not news."""


def routed(routes: Mapping[str, Path], path: str) -> Path | None:
    """The file below the longest matching prefix, never outside it."""
    for prefix in sorted(routes, key=len, reverse=True):
        root = routes[prefix]
        if path == prefix and root.is_file():
            return root
        if prefix.endswith("/") and path.startswith(prefix):
            file = (root / (path[len(prefix) :] or "index.html")).resolve()
            inside = file.is_relative_to(root.resolve())
            return file if inside and file.is_file() else None
    return None


class _Driver:
    """Playwright's driver: a process can have one at a time, so its browsers share it. The last one ends it."""

    def __init__(self) -> None:
        self.users = 0
        self.playwright: Playwright | None = None

    def start(self) -> "Playwright":
        from playwright.sync_api import sync_playwright

        if self.playwright is None or not self.users:
            self.playwright = sync_playwright().start()
        self.users += 1
        return self.playwright

    def stop(self) -> None:
        self.users -= 1
        if not self.users and self.playwright is not None:
            self.playwright.stop()


_driver = _Driver()


class Chromium:
    """One browser. Playwright's synchronous interface: not for threads that run an event loop."""

    def __init__(self, webgpu: bool = False) -> None:
        command = executable("chromium")
        self.page: Page | None = None  # the one that `open` opens
        self.includes_gpu_process = webgpu
        playwright = _driver.start()
        try:
            graphics = SOFTWARE_WEBGPU if webgpu else NO_GPU
            # a new profile each time, so nothing of an earlier visit is cached
            self.browser = playwright.chromium.launch(
                executable_path=command,
                args=[*FLAGS, *graphics],
                chromium_sandbox=may_be_sandboxed(),
            )
        except BaseException:
            _driver.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and its driver."""
        self.browser.close()
        _driver.stop()

    @property
    def version(self) -> str:
        return f"Chromium {self.browser.version}"

    @contextmanager
    def visitor(self) -> Iterator[None]:
        """Pages that are opened meanwhile are those of somebody who was never here: nothing is cached for them."""
        context = self.browser.new_context()
        before, self.page = self.page, context.new_page()
        try:
            yield
        finally:
            context.close()
            self.page = before

    def open(self, url: str) -> None:
        self.page = self.page or self.browser.new_page()
        self.page.goto(url)

    def evaluate(self, function: str, arguments: Sequence[object] = ()) -> Any:
        from playwright.sync_api import Error

        assert self.page is not None, "open comes first"
        try:
            return self.page.evaluate(f"arguments_ => ({function})(...arguments_)", list(arguments))
        except Error as error:
            if self.page.is_closed() or "crashed" in str(error):
                raise EdgeAssetsError(f"the browser ended: {error}") from error
            raise ScriptError(_reason(error)) from error

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the one open page's process; with WebGPU, also of the process that holds its buffers.

        Chromium keeps a spare renderer ready; the page's is the one with the larger peak. Raises EdgeAssetsError
        where the system keeps no such peak.
        """
        session = self.browser.new_browser_cdp_session()
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        kinds = ("renderer", "GPU") if self.includes_gpu_process else ("renderer",)
        total = 0
        for kind in kinds:
            total += max(peak(process["id"]) for process in processes if process["type"] == kind)
        return total


def _reason(error: Exception) -> str:
    """The page's message without Playwright's prefix and the page's stack."""
    first, _, _ = str(error).strip().partition("\n")
    return first.removeprefix("Page.evaluate: ").removeprefix("Error: ")
