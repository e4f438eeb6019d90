"""The user's project: its pyproject.toml, paths that are relative to it, and what its defs folder declares."""

import ast
import importlib.util
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edge_assets.errors import InvalidSpec, printable, with_nearest

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec

COMPONENT = ("edge_assets.EdgeModel", "edge_assets.defs.component.EdgeModel")  # one class by its two names
SETTINGS = ("models", "targets", "devices")
DEFS_FOLDER = "dagster.DefsFolderComponent"  # whose folder is looked into further
DEFS_FILES = ("defs.yaml", "defs.yml", "component.yaml")  # the first that a folder has counts, as for Dagster


@dataclass(frozen=True)
class Declaration:
    """A model in a YAML file of the project's defs folder. `origin` says where, for people.

    `attributes` are as they stand there; `problem` says why they cannot be read.
    """

    origin: str
    attributes: object = None
    problem: str = ""


@cache
def project_file() -> Path | None:
    """The nearest pyproject.toml with a [tool.edge_assets] table, from the working directory upwards."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file() and "edge_assets" in _toml(path).get("tool", {}):
            return path
    return None


def _toml(path: Path) -> dict[str, Any]:
    """Raises InvalidSpec naming the file and the line that is no TOML."""
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSpec(str(path), f"is no TOML: {error}") from None


@cache
def project_settings() -> dict[str, list[str]]:
    """The [tool.edge_assets] table: `models`, `targets` and `devices`. Empty where there is none.

    Raises InvalidSpec for another key, and for what is no list of texts.
    """
    path = project_file()
    if path is None:
        return {}
    settings: dict[str, list[str]] = {}
    for name, given in _toml(path)["tool"]["edge_assets"].items():
        value = [given] if name == "devices" and isinstance(given, str) else given
        where = f"{path}, [tool.edge_assets] {printable(name)}"
        if name not in SETTINGS:
            raise InvalidSpec(where, with_nearest(f"is no setting: there are {', '.join(SETTINGS)}", name, SETTINGS))
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise InvalidSpec(where, 'must be a list of texts, such as ["package.module:NAME"]')
        settings[name] = value
    return settings


def project_path(path: str) -> Path:
    """A path of the project's: relative ones are relative to its pyproject.toml."""
    file = project_file()
    if file is None:
        return Path.cwd() / path
    return file.parent / path


def checkpoint_folder(spec: "ModelSpec") -> str:
    """The spec's checkpoint location; a relative folder is relative to the project file."""
    if "://" in spec.checkpoints or Path(spec.checkpoints).is_absolute():
        return spec.checkpoints
    return str(project_path(spec.checkpoints))


def root_module() -> str | None:
    """The package of a `dg` project. None if this is none."""
    module = _dg_project().get("root_module")
    return module if isinstance(module, str) else None


def defs_folder() -> Path | None:
    """Where a `dg` project keeps its components: the `defs` of its root module, or what it says instead.

    None if this is no `dg` project, or it has no such folder.
    """
    project = _dg_project()
    if not project:
        return None
    module = project.get("defs_module") or f"{project.get('root_module')}.defs"
    root, *parts = module.split(".")
    found = importlib.util.find_spec(root)
    places = found.submodule_search_locations if found else None
    for place in places or []:
        folder = Path(place).joinpath(*parts)
        if folder.is_dir():
            return folder
    return None


def _dg_project() -> dict[str, str]:
    """The table of a `dg` project: [tool.dg.project], or [project] of a dg.toml."""
    file = project_file()
    if file is None:
        return {}
    separate = file.with_name("dg.toml")
    if separate.is_file():
        table: dict[str, str] = tomllib.loads(separate.read_text()).get("project", {})
    else:
        table = tomllib.loads(file.read_text()).get("tool", {}).get("dg", {}).get("project", {})
    return table


def declarations() -> Iterator[Declaration]:
    """Every model that the defs folder declares, in the order of its paths."""
    folder = defs_folder()
    if folder is None:
        return
    for path in _defs_files(folder):
        origin = declared_at(path, folder, 0)
        try:
            documents = list(yaml.safe_load_all(path.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            yield Declaration(origin, problem=f"cannot be read: {' '.join(str(error).split())}")
            continue
        for number, document in enumerate(documents):
            if isinstance(document, dict) and document.get("type") in COMPONENT:
                yield Declaration(declared_at(path, folder, number), document.get("attributes"))


def has_definitions(folder: Path) -> bool:
    """Whether there is anything in the defs folder for Dagster to load, besides docstrings."""
    for path in folder.rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        if path.name != "__init__.py":
            return True
        statements = ast.parse(path.read_text()).body
        if not all(isinstance(statement, ast.Expr) for statement in statements):
            return True
    return False


def declared_at(path: Path, folder: Path, number: int) -> str:
    """How a document of a file below the defs folder is called, such as `defs/seg/defs.yaml`."""
    place = f"{folder.name}/{path.relative_to(folder).as_posix()}"
    return f"{place}, document {number + 1}" if number else place


def defs_file(folder: Path) -> Path | None:
    """The file that says what component a folder is."""
    for name in DEFS_FILES:
        if (folder / name).is_file():
            return folder / name
    return None


def _defs_files(folder: Path) -> Iterator[Path]:
    file = defs_file(folder)
    if file is not None:
        yield file
        if DEFS_FOLDER not in file.read_text(errors="replace"):
            return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and child.name != "__pycache__" and not child.name.startswith("."):
            yield from _defs_files(child)
