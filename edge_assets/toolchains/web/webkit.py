"""WebKitGTK, driven by its WebDriver: W3C's commands over HTTP. MiniBrowser has no headless mode, so it gets a display.

Each call has a time limit, because some commands, such as a screenshot, never answer.
"""

import http.client
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_assets.errors import EdgeAssetsError, MissingTool
from edge_assets.targets.machine import BROWSERS
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

FOLDERS = ("/usr/lib", "/usr/libexec")  # below which distributions keep MiniBrowser
SOFTWARE = {"WEBKIT_DISABLE_COMPOSITING_MODE": "1", "LIBGL_ALWAYS_SOFTWARE": "1"}  # a display without a GPU
# a bus that starts no service by itself: the desktop's portals would mount a file system
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
# the answer comes as JSON text, because WebDriver turns numbers and undefined into others
CALL = """
const done = arguments[arguments.length - 1];
const call = async (text) => ({ value: (await (%s)(...JSON.parse(text))) ?? null });
call(arguments[0])
  .catch((error) => ({ error: String(error?.message ?? error) }))
  .then((answer) => done(JSON.stringify(answer)));
"""


class WebKit:
    """One MiniBrowser with one page."""

    def __init__(self) -> None:
        command = executable("webkit")
        self.home = tempfile.TemporaryDirectory(prefix="edge-assets-webkit-", ignore_cleanup_errors=True)
        folder = Path(self.home.name)
        self.log = folder / "log.txt"
        self.port = _free_port()
        self.session: str | None = None
        environment = {**os.environ, **SOFTWARE, "HOME": str(folder), "TMPDIR": str(folder)}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            environment[name] = str(folder / name.lower())
        bus = folder / "bus.conf"
        bus.write_text(BUS)
        display = ["xvfb-run", "--auto-servernum", "dbus-run-session", f"--config-file={bus}", "--"]
        self.process = start_group([*display, command, f"--port={self.port}"], self.log, environment)
        try:
            wait_until(self._is_ready, self.process, "WebKitWebDriver", self.log)
            self._start()
        except BaseException:
            self.close()
            raise

    def _is_ready(self) -> bool:
        try:
            self._send("GET", "/status")
        except EdgeAssetsError:
            return False
        return True

    def _start(self) -> None:
        options = {"binary": str(_mini_browser()), "args": ["--automation"]}
        wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
        started = self._send("POST", "/session", wanted)
        self.session = f"/session/{started['sessionId']}"
        self.version = f"WebKitGTK {started['capabilities']['browserVersion']}"
        limits = {"script": 1000 * CALLING, "pageLoad": 1000 * STARTING}
        self._send("POST", f"{self.session}/timeouts", limits)

    def open(self, url: str) -> None:
        self._send("POST", f"{self.session}/url", {"url": url})

    def evaluate(self, function: str, arguments: Sequence[object] = ()) -> Any:
        request = {"script": CALL % function, "args": [json.dumps(list(arguments))]}
        answer = json.loads(self._send("POST", f"{self.session}/execute/async", request, CALLING))
        if "error" in answer:
            raise ScriptError(answer["error"])
        return answer["value"]

    def _send(self, method: str, path: str, body: object = None, seconds: float = STARTING) -> Any:
        """The value of one command. Raises EdgeAssetsError where it is refused, not answered, or nobody is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        except TimeoutError:
            raise EdgeAssetsError(f"WebKit did not answer '{path}' within {seconds:.0f} s") from None
        except (http.client.HTTPException, OSError) as error:
            raise EdgeAssetsError(f"the browser ended during '{path}': {error}") from error
        finally:
            connection.close()
        value = answer["value"]
        if isinstance(value, dict) and "error" in value:
            raise EdgeAssetsError(f"WebKit refused '{path}': {value['error']}: {value.get('message', '')}")
        return value

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the page's web process."""
        return largest_peak(self.process.pid, _is_page)

    def close(self) -> None:
        if self.session is not None:
            try:
                self._send("DELETE", self.session, seconds=10)
            except EdgeAssetsError:
                pass  # it is gone already, or ended with its group
        end_group(self.process)
        self.home.cleanup()


def _is_page(command: Sequence[str]) -> bool:
    return Path(command[0]).name == "WebKitWebProcess"


def _mini_browser() -> Path:
    """The newest MiniBrowser. Raises MissingTool where there is none."""
    found: list[Path] = []
    for folder in FOLDERS:
        found += Path(folder).glob("**/webkit2gtk-4*/MiniBrowser")
    if not found:
        raise MissingTool("MiniBrowser", None, f"apt-get install {BROWSERS['webkit'].packages}")
    return max(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
