"""Versions of everything that shapes a result: Python distributions, npm packages, the browser.

A name is a distribution's unless it says otherwise: `npm:onnxruntime-web`, `browser:chromium`.
"""

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path

from edge_assets.errors import MissingTool
from edge_assets.targets.machine import BROWSERS, browser

WEBKIT_VERSION = """
import ctypes
library = ctypes.CDLL("libwebkit2gtk-4.1.so.0")
parts = (library.webkit_get_major_version, library.webkit_get_minor_version, library.webkit_get_micro_version)
print(".".join(str(part()) for part in parts))
"""
NODE_MODULES = Path(__file__).parent.parent / "toolchains" / "web" / "static" / "node_modules"


def version(name: str, extra: str | None = None) -> str:
    """The installed version. Raises MissingTool naming the extra or the command that installs it."""
    kind, _, rest = name.rpartition(":")
    if kind == "npm":
        return _npm(rest)
    if kind == "browser":
        return _browser(rest)
    try:
        return distribution_version(name)
    except PackageNotFoundError:
        raise MissingTool(name, extra) from None


def installed(distributions: tuple[str, ...], extra: str | None) -> dict[str, str]:
    """Versions of distributions, npm packages and browsers by name. Raises MissingTool saying what installs them."""
    return {name: version(name, extra) for name in distributions}


def _npm(name: str) -> str:
    package = NODE_MODULES / name / "package.json"
    if not package.exists():
        raise MissingTool(name, "browser", f"npm ci --ignore-scripts --prefix {NODE_MODULES.parent}")
    return str(json.loads(package.read_text())["version"])


@cache
def _browser(name: str) -> str:
    command = browser(name)
    if command is None:
        raise MissingTool(name, "browser", f"apt-get install {BROWSERS[name].packages}")
    asking = [command, "--version"]
    if name == "webkit":
        asking = [sys.executable, "-c", WEBKIT_VERSION]  # its driver does not say, and MiniBrowser needs a display
    printed = subprocess.run(asking, capture_output=True, text=True, check=True, timeout=60).stdout
    return next(word for word in printed.split() if word[0].isdigit()).removesuffix("esr")
