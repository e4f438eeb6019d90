"""The user's project: its pyproject.toml, and paths that are relative to it."""

import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec


@cache
def project_file() -> Path | None:
    """The nearest pyproject.toml with a [tool.edge_assets] table, from the working directory upwards."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file() and "edge_assets" in tomllib.loads(path.read_text()).get("tool", {}):
            return path
    return None


@cache
def project_settings() -> dict[str, list[str]]:
    """The [tool.edge_assets] table: `models` and `targets`. Empty where there is none."""
    path = project_file()
    if path is None:
        return {}
    settings: dict[str, list[str]] = tomllib.loads(path.read_text())["tool"]["edge_assets"]
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
