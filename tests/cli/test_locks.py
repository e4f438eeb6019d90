"""What is installed: what code imports is declared, what is declared is locked, by the hash of each file."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

OWN = {"edge_assets", "resources", "examples", "tests"}
PLACES = ("edge_assets", "resources", "examples", "tests", "requirements")
LOCKS = ("build", "run", "examples", "test")
# by version alone; what a GPU machine itself installs; what cannot be installed beside LiteRT's converter; what brings
# torchvision, whose build has to be the one of the PyTorch that is installed
ELSEWHERE = {"torch", "tensorrt", "torch-tensorrt", "dagster-dg-cli", "timm"}
PARTS = {"tensorrt-rtx-cu13": "tensorrt-rtx"}  # distributions that another, declared one consists of


def declared() -> set[str]:
    """Names of the distributions that pyproject.toml declares, in any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], "setuptools"]
    for extra in project["optional-dependencies"].values():
        lines += extra
    names: set[str] = {canonicalize_name(Requirement(line).name) for line in lines}
    return names - {"edge-assets"}


def locked(lock: str) -> dict[str, list[str]]:
    """The hashes of each package of a lock, by name."""
    packages: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines():
        if found := re.fullmatch(r"([a-z0-9-]+)==\S+ \\", line):
            packages[found[1]] = []
        elif found := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line):
            packages[list(packages)[-1]].append(found[1])
        else:
            assert line.startswith("#"), f"{lock}.lock: neither a package nor a hash: {line}"
    return packages


def imported() -> Iterator[tuple[str, str]]:
    """Top-level modules that our code imports, and where."""
    for place in PLACES:
        for path in (ROOT / place).rglob("*.py"):
            if "node_modules" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((alias.name.partition(".")[0], str(path)) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.partition(".")[0], str(path)


def test_every_locked_package_has_hashes_and_is_in_one_lock() -> None:
    names: list[str] = []
    for lock in (*LOCKS, "tools"):
        packages = locked(lock)
        assert packages
        assert all(packages.values()), f"{lock}.lock"
        names += packages if lock in LOCKS else []
    assert len(names) == len(set(names))


def test_every_declared_distribution_is_locked() -> None:
    every = {name for lock in LOCKS for name in locked(lock)}
    assert declared() - ELSEWHERE <= every


def test_what_code_imports_is_declared() -> None:
    distributions, known = packages_distributions(), declared()
    beside = {path.stem for path in (ROOT / "edge_assets" / "core" / "release").rglob("*.py")}  # in a released folder
    for module, path in imported():
        if module in sys.stdlib_module_names or module in OWN | beside:
            continue
        names = [canonicalize_name(name) for name in distributions.get(module, [module])]
        assert {PARTS.get(name, name) for name in names} & known, f"{path} imports {module}, which is not declared"
