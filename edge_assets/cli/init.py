"""`edge-assets init`: a project that builds at once, to be changed file by file into one's own.

The files are the templates in `project/`, beside this module; the checkpoint is what the project's own `train.py`
writes.
"""

import importlib.util
import keyword
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from edge_assets.errors import EdgeAssetsError, log_end, printable
from edge_assets.spec.model import NAME
from edge_assets.targets import load_catalog, local_target

TEMPLATES = "project"
SUFFIX = ".tmpl"
# how parts of a template's path are called in a project
PACKAGE, HIDDEN = "package", {"gitignore": ".gitignore"}
OTHER_TARGET = "raspberry-pi-5"  # a second target, which needs no toolchain besides the base installation
TRAINING_SECONDS = 300


def create(name: str, parent: Path) -> Path:
    """Make the project `name` below `parent`, with a trained checkpoint, and return its folder.

    Raises EdgeAssetsError, and leaves nothing behind, if the name cannot be a package's, the folder is in use or cannot
    be written, or training failed.
    """
    check_name(name)
    folder = parent / name
    if folder.is_symlink() or (folder.exists() and not _is_empty(folder)):
        raise EdgeAssetsError(f"{folder} exists already: choose another name, or remove it")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name[:20]}-", dir=parent) as scratch:
            made = Path(scratch) / name
            write(name, made)
            train(name, made)
            os.replace(made, folder)
    except OSError as error:
        raise EdgeAssetsError(f"cannot write {error.filename or folder}: {error.strerror or error}") from None
    return folder


def check_name(name: str) -> None:
    """Raises EdgeAssetsError unless `name` may be a model, and a package that hides no other."""
    if not NAME.fullmatch(name) or not name.isidentifier() or keyword.iskeyword(name):
        raise EdgeAssetsError(
            f"'{printable(name)}' cannot name a package: give lower-case letters, digits and _, beginning with a letter"
        )
    if name in sys.stdlib_module_names or _is_installed(name):
        raise EdgeAssetsError(f"'{name}' is the name of an installed package, which it would hide: choose another")


def write(name: str, folder: Path) -> None:
    """All files but the checkpoint."""
    values = {
        "name": name,
        "project": name.strip("_").replace("_", "-"),
        "targets": _written(default_targets()),
    }
    for path, template in _templates(files("edge_assets.cli") / TEMPLATES, Path()):
        parts = [name if part == PACKAGE else HIDDEN.get(part, part) for part in path.parts]
        file = folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(template.read_text()).substitute(values))


def default_targets() -> list[str]:
    """What is worth building first: this machine, where it is a target and can measure, and one that it is not."""
    own = local_target(load_catalog().targets.values(), "cpu")
    names = [own.name] if own else []
    if OTHER_TARGET not in names:
        names.append(OTHER_TARGET)
    return names


def train(name: str, folder: Path) -> None:
    """Run the project's training script, which writes its first checkpoint."""
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", f"{name}.train"]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TRAINING_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise EdgeAssetsError(f"training the first checkpoint took more than {TRAINING_SECONDS} s") from None
    if ended.returncode:
        raise EdgeAssetsError(f"training the first checkpoint failed. {log_end(ended.stderr)}")


def _templates(folder: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    """Every template by the path that its file has in a project."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, path / entry.name)
        elif entry.name.endswith(SUFFIX):
            yield path / entry.name.removesuffix(SUFFIX), entry


def _written(names: list[str]) -> str:
    """A tuple of texts as Python code."""
    quoted = [f'"{name}"' for name in names]
    return f"({quoted[0]},)" if len(quoted) == 1 else f"({', '.join(quoted)})"


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_installed(name: str) -> bool:
    """Whether a module of that name can be imported. A folder without code in it is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None
