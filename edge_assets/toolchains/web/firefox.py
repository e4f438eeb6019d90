"""Headless Firefox, driven by WebDriver BiDi over the port that it opens itself: no driver of its own is needed.

The protocol is W3C's (WebDriver BiDi): JSON messages over a WebSocket, a number in each that its answer repeats.
"""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.errors import EdgeAssetsError
from edge_assets.toolchains.web.engine import (
    CALLING,
    STARTING,
    ScriptError,
    end_group,
    executable,
    largest_peak,
    start_group,
    wait_until,
)

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

LISTENING = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
# nothing is fetched that the page did not ask for
PREFERENCES = {
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


class Firefox:
    """One Firefox with one page, in a profile that is removed with it."""

    def __init__(self) -> None:
        command = executable("firefox")
        self.profile = tempfile.TemporaryDirectory(prefix="edge-assets-firefox-", ignore_cleanup_errors=True)
        folder = Path(self.profile.name)
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (folder / "user.js").write_text("\n".join(lines) + "\n")
        self.log = folder / "log.txt"
        arguments = ["--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port=0"]
        self.process = start_group([command, *arguments], self.log, {**os.environ, "HOME": str(folder)})
        self.number = 0
        self.socket: ClientConnection | None = None
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        from websockets.sync.client import connect

        wait_until(self._address, self.process, "Firefox", self.log)
        self.socket = connect(
            f"{self._address()}/session",
            origin=None,  # which Firefox refuses
            compression=None,
            max_size=None,
            open_timeout=STARTING,
            ping_interval=None,  # a page that computes for minutes answers none
            proxy=None,
        )
        session = self._send("session.new", {"capabilities": {}})
        self.version = f"Firefox {session['capabilities']['browserVersion']}"
        self.page = self._send("browsingContext.getTree", {})["contexts"][0]["context"]

    def _address(self) -> str | None:
        found = LISTENING.search(self.log.read_text(errors="replace"))
        return found[1] if found else None

    def open(self, url: str) -> None:
        self._send("browsingContext.navigate", {"context": self.page, "url": url, "wait": "complete"})

    def evaluate(self, function: str, arguments: Sequence[object] = ()) -> Any:
        wrapped = f"async (text) => JSON.stringify((await ({function})(...JSON.parse(text))) ?? null)"
        request = {
            "functionDeclaration": wrapped,
            "arguments": [{"type": "string", "value": json.dumps(list(arguments))}],
            "awaitPromise": True,
            "target": {"context": self.page},
        }
        answer = self._send("script.callFunction", request, CALLING)
        if answer["type"] == "exception":
            raise ScriptError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    def _send(self, method: str, parameters: dict[str, object], seconds: float = STARTING) -> Any:
        """The result of one command. Raises EdgeAssetsError where it is refused, or Firefox ended."""
        from websockets.exceptions import ConnectionClosed

        assert self.socket is not None
        self.number += 1
        try:
            self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
            while True:
                answer = json.loads(self.socket.recv(timeout=seconds))
                if answer.get("id") == self.number:
                    break
        except ConnectionClosed as error:
            raise EdgeAssetsError(f"the browser ended during '{method}': {error}") from error
        except TimeoutError:
            raise EdgeAssetsError(f"Firefox did not answer '{method}' within {seconds:.0f} s") from None
        if answer["type"] == "error":
            raise EdgeAssetsError(f"Firefox refused '{method}': {answer['message']}")
        return answer["result"]

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the page's content process."""
        return largest_peak(self.process.pid, _is_page)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        end_group(self.process)
        self.profile.cleanup()


def _is_page(command: Sequence[str]) -> bool:
    """A content process ends its command line, which is one word where it was forked, by its kind."""
    words = " ".join(command).split()
    return "-contentproc" in words and words[-1] == "tab"
