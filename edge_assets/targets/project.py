"""The targets that a project has: the built-in ones and those of its own files."""

from collections.abc import Mapping

from edge_assets.spec.project import project_path, project_settings
from edge_assets.targets import Catalog, Target, load_catalog


def project_catalog() -> Catalog:
    """The built-in targets and those of the project, and why some of the project's could not be read."""
    files = [project_path(name) for name in project_settings().get("targets", [])]
    return load_catalog(*files)


def catalog() -> Mapping[str, Target]:
    """The built-in targets and those of the project."""
    return project_catalog().targets


def target(name: str) -> Target:
    """The target of that name. Raises InvalidSpec if its entry is wrong, UnknownName with the nearest names."""
    return project_catalog().target(name)
