"""Headless Chromium beside a local web server: where browser artifacts are verified and measured.

The server sends the headers of a cross-origin isolated page, so that the page has threads and a clock of 5 us.
"""

import os
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from socketserver import BaseServer
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edge_assets.errors import EdgeAssetsError, MissingTool
from edge_assets.targets.machine import browser

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

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


def may_be_sandboxed() -> bool:
    """Whether Chromium can run in its own sandbox: for everyone but root, as whom it refuses to start in it."""
    return not (hasattr(os, "geteuid") and os.geteuid() == 0)


class Server:
    """Serves files and folders by URL prefix on a free port of the loopback interface; counts the bytes it sends."""

    def __init__(self, routes: Mapping[str, Path]) -> None:
        self.sent: list[tuple[str, int]] = []  # path and body bytes of each answer, in order
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, routes, self.sent))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


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
        file = self._file(path)
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
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not news."""

    def _file(self, path: str) -> Path | None:
        """The file below the longest matching prefix, never outside it."""
        for prefix in sorted(self.routes, key=len, reverse=True):
            root = self.routes[prefix]
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
        executable = browser("chromium")
        if executable is None:
            raise MissingTool("chromium", None, "apt-get install chromium")
        self.includes_gpu_process = webgpu
        playwright = _driver.start()
        try:
            graphics = SOFTWARE_WEBGPU if webgpu else NO_GPU
            # a new profile each time, so nothing of an earlier visit is cached
            self.browser = playwright.chromium.launch(
                executable_path=executable,
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
            total += max(_peak(process["id"]) for process in processes if process["type"] == kind)
        return total


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise EdgeAssetsError("a browser's peak memory can only be read on Linux, from /proc") from None
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
