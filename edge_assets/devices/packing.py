"""The agent as one file that Python runs on any device: a zip of its modules and of those that they share with us."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
MAIN = "edge_assets/devices/agent/__main__.py"
SHARED = (
    "addresses.py",
    "errors.py",
    "later.py",
    "core/arranged.py",
    "core/benchmark/load.py",
    "core/benchmark/queries.py",
    "core/benchmark/turns.py",
    "core/layout.py",
    "core/one_sample.py",
    "targets/machine.py",
    "toolchains/litert/session.py",
    "toolchains/onnx/session.py",
    "toolchains/pytorch/session.py",
    "toolchains/pytorch/torchscript.py",
    "toolchains/tensorrt/kit.py",
    "toolchains/tensorrt/session.py",
)  # below edge_assets: the standard library, NumPy, a runtime and one another are all that they import
OLDEST_PYTHON = (3, 9)
MOMENT = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal modules give equal bytes
START = "from edge_assets.devices.agent.__main__ import main\n\nmain()\n"


@dataclass(frozen=True)
class Packed:
    """The file, and the hash that names it on devices."""

    content: bytes
    sha256: str


def modules() -> dict[str, Path]:
    """What is packed, by its path in the file."""
    found = {f"edge_assets/{name}": PACKAGE / name for name in SHARED}
    for path in sorted((PACKAGE / "devices" / "agent").glob("*.py")):
        found[f"edge_assets/devices/agent/{path.name}"] = path
    return found


@cache
def packed() -> Packed:
    """The agent of this version."""
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules().items()}
    folders = {str(folder) for name in sources for folder in Path(name).parents if str(folder) != "."}
    for folder in folders:  # those of the product import what devices have not
        sources.setdefault(f"{folder}/__init__.py", "")
    sources["__main__.py"] = START
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name, MOMENT), sources[name])
    content = buffer.getvalue()
    return Packed(content, hashlib.sha256(content).hexdigest())
