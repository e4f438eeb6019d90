"""Writes the locks beside this file: the versions of two environments, with the hashes of every file of each version.

    .venv/bin/python requirements/lock.py .tools

| lock | what is in it |
|---|---|
| build | uv, which installs, and what builds the packages that the index has as sources only, and the product itself |
| run | what the product needs, for every family |
| examples | what the examples need besides |
| test | what tests and developers need besides |
| tools | pip-audit: an environment of its own |

torch is in none of them but in torch.txt, without a hash: which of its builds is wanted (for a CPU, for a GPU) differs
from machine to machine, so its file does, and so do the libraries that only its GPU builds bring.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
PROJECT = "edge-assets"
LOCKS = {
    "run": ("android", "apple", "browser", "images", "microcontroller", "nvidia", "tables", "text"),
    "examples": ("examples", "faces", "minilm"),
    "test": ("test", "dev"),
}
BUILD = ("setuptools", "uv")
NOT_LOCKED = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|edge-assets")
HEADER = "# Written by `make lock`, not by hand. Complete but for torch: install it with --no-deps --require-hashes.\n"


def requirements_of(name: str) -> Iterable[str]:
    """What a distribution states that it needs; the project's own as they stand in pyproject.toml now."""
    if name != PROJECT:
        return distribution(name).requires or ()
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra, optional in project["optional-dependencies"].items():
        lines += [f"{line} ; extra == '{extra}'" for line in optional]
    return lines


def needed(extras: Iterable[str]) -> set[str]:
    """Names of the installed distributions that the project needs with these extras, and of all that they need."""
    found: set[tuple[str, str]] = set()
    waiting = [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in requirements_of(name):
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            child = canonicalize_name(requirement.name)
            waiting.extend((child, wanted) for wanted in ("", *requirement.extras))
    return {name for name, _extra in found}


def lock(uv: str, what: str, versions: dict[str, str]) -> None:
    """Write one lock."""
    path = FOLDER / f"{what}.lock"
    command = [uv, "pip", "compile", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--python", sys.executable, "-"]
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    hashed = subprocess.run(command, check=False, input=pins, capture_output=True, text=True)
    if hashed.returncode:
        sys.exit(hashed.stderr)
    path.write_text(HEADER + hashed.stdout)
    print(f"{path.name}: {len(versions)} packages, {hashed.stdout.count('--hash=')} files")


def versions_in(environment: Path, uv: str) -> dict[str, str]:
    """Version by distribution of a virtual environment."""
    command = [uv, "pip", "list", "--format", "json", "--quiet", "--python", str(environment)]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = {canonicalize_name(entry["name"]): entry["version"] for entry in listed}
    return {name: version for name, version in found.items() if not NOT_LOCKED.fullmatch(name)}


def main(tools: Path) -> None:
    """Write every lock from what the two environments have; `tools` is the folder of the other one."""
    uv = str(Path(sys.prefix) / "bin" / "uv")
    used = versions_in(tools, uv)
    used.pop("setuptools", None)  # came with the environment
    lock(uv, "tools", used)
    torch = distribution("torch").version.partition("+")[0]
    (FOLDER / "torch.txt").write_text(f"# Without a hash: requirements/lock.py says why.\ntorch=={torch}\n")
    left = versions_in(Path(sys.prefix), uv)
    lock(uv, "build", {name: left.pop(name) for name in BUILD})
    extras: list[str] = []
    for what, more in LOCKS.items():
        extras += more
        names = needed(extras)
        lock(uv, what, {name: left.pop(name) for name in sorted(names & left.keys())})
    if left:
        sys.exit(f"installed, but nothing in pyproject.toml needs it: {', '.join(sorted(left))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
