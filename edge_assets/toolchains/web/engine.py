"""What the three browsers have in common: one page, driven from this process, and the processes behind it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from edge_assets.errors import EdgeAssetsError, MissingTool
from edge_assets.targets.machine import BROWSERS, browser

STARTING = 60  # seconds until a browser must answer
ENDING = 5  # seconds until what does not end by itself is killed
CALLING = 1800  # seconds for a function of the page: the converter's or the worker's patience ends before
# the end of input, which comes however this process ends, ends the group; `exec` makes the command its leader
WATCHED = 'exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & exec 3<&-; exec "$@" </dev/null'
STATE, PARENT, GROUP = 0, 1, 2  # of the fields of /proc/<pid>/stat after the name
MODULES = {"chromium": "Chromium", "firefox": "Firefox", "webkit": "WebKit"}  # module of this folder -> its class


class ScriptError(Exception):
    """What a function of the page threw, in its words."""


class Engine(Protocol):
    """A browser with one page, in a new profile."""

    @property
    def version(self) -> str:
        """Its name and version."""
        ...

    def open(self, url: str) -> None:
        """Open an address in the page."""
        ...

    def evaluate(self, function: str, arguments: Sequence[object] = ()) -> Any:
        """What a JavaScript function gives, awaited, for arguments; both as JSON.

        Raises ScriptError for what the function throws, and EdgeAssetsError where the browser ended meanwhile.
        """
        ...

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the page's process. Raises EdgeAssetsError where the system keeps no such peak."""
        ...

    def close(self) -> None:
        """End the browser, and what it started."""
        ...


def open_engine(name: str, webgpu: bool = False) -> Engine:
    """The browser that a target names, started. Raises MissingTool naming the packages that bring it."""
    if webgpu and name != "chromium":
        raise EdgeAssetsError(f"WebGPU is driven in Chromium alone, not in {name}: name chromium, or wasm")
    module = import_module(f"edge_assets.toolchains.web.{name}")
    kind = getattr(module, MODULES[name])
    engine: Engine = kind(webgpu) if name == "chromium" else kind()
    return engine


def executable(name: str) -> str:
    """The browser's command. Raises MissingTool naming the packages that bring it."""
    found = browser(name)
    if found is None:
        raise MissingTool(name, None, f"apt-get install {BROWSERS[name].packages}")
    return found


def start_group(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that leads a group of its own, and dies with all that it started when this process does."""
    with log.open("wb") as file:
        return subprocess.Popen(
            ["/bin/sh", "-c", WATCHED, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes], what: str, log: Path) -> None:
    """Wait for something of a process that starts. Raises EdgeAssetsError where it ends, or takes too long."""
    deadline = time.monotonic() + STARTING
    while not condition():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            why = f"it ended with {process.returncode}" if ended else f"it did not answer within {STARTING} s"
            words = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise EdgeAssetsError(f"{what} could not be started: {why}. {' / '.join(words)}")
        time.sleep(0.05)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and all that it started there."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + ENDING
        while time.monotonic() < deadline and (process.poll() is None or _living(process.pid)):
            time.sleep(0.02)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _living(group: int) -> bool:
    """Whether a process of that group runs; one that ended and was not waited for yet does not."""
    return any(int(fields[GROUP]) == group and fields[STATE] != "Z" for _pid, fields in _processes())


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Every process, and what of its /proc/<pid>/stat follows its name."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile


# --- memory ----------------------------------------------------------------------------------------------


def peak(pid: int) -> int:
    """Peak resident memory of a process in bytes. Raises EdgeAssetsError where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise EdgeAssetsError("a browser's peak memory can only be read on Linux, from /proc") from None
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def largest_peak(root: int, is_page: Callable[[Sequence[str]], bool]) -> int:
    """The largest peak of those processes below `root` whose command line is a page's.

    Browsers keep spare ones ready, so the page's is the one with the largest.
    """
    peaks = [0]
    for pid in _descendants(root):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if is_page(command):
                peaks.append(peak(pid))
        except (OSError, EdgeAssetsError, IndexError):
            continue  # it ended meanwhile, as spare ones do
    if max(peaks) == 0:
        raise EdgeAssetsError("a browser's peak memory can only be read on Linux, from /proc, while its page is open")
    return max(peaks)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process, fields in _processes():
        children.setdefault(int(fields[PARENT]), []).append(process)
    found = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found
