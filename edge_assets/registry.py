"""Finds the registered models. One that cannot be loaded is reported, and breaks no other."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName
from edge_assets.families.families import FAMILIES
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import project_file, project_settings
from edge_assets.spec.source import load
from edge_assets.targets.project import target

log = logging.getLogger(__name__)
VARIABLE = "EDGE_ASSETS_MODELS"  # comma-separated references, besides those of pyproject.toml


@dataclass(frozen=True)
class Registry:
    """Models that loaded, by name, and why the others did not, by reference."""

    models: Mapping[str, ModelSpec]
    broken: Mapping[str, str]

    def model(self, name: str) -> ModelSpec:
        """The model of that name. Raises UnknownName with the nearest names and the models that did not load."""
        if name in self.models:
            return self.models[name]
        error = UnknownName("model", name, self.models)
        if self.broken:
            reasons = "; ".join(f"{reference}: {reason}" for reference, reason in self.broken.items())
            raise EdgeAssetsError(f"{error} Did not load: {reasons}")
        raise error


@cache
def registry() -> Registry:
    """Loads every model that pyproject.toml or the environment names."""
    references = list(project_settings().get("models", []))
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            references.append(name.strip())
    path = project_file()
    if path and str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # console scripts do not have the working directory on the path
    models: dict[str, ModelSpec] = {}
    broken: dict[str, str] = {}
    for reference in dict.fromkeys(references):
        try:
            spec = _load(reference)
            if spec.name in models:
                raise InvalidSpec("name", f"'{spec.name}' is already registered")
            models[spec.name] = spec
        except Exception as error:  # a user's module can raise anything; the others must still load
            broken[reference] = str(error)
            if not isinstance(error, EdgeAssetsError):
                broken[reference] = f"{type(error).__name__}: {error}"
            log.error("model '%s' is not registered: %s", reference, broken[reference])
    return Registry(models, broken)


def _load(reference: str) -> ModelSpec:
    if ":" not in reference:
        raise InvalidSpec("models", f"'{reference}' is not of the form 'package.module:spec'")
    spec = load(reference)
    if not isinstance(spec, ModelSpec):
        raise InvalidSpec("models", f"'{reference}' is a {type(spec).__name__}, not a ModelSpec")
    for name in spec.targets:
        try:
            target(name)
        except UnknownName as error:
            raise InvalidSpec("targets", str(error)) from None
        family = target(name).family
        if family not in FAMILIES:
            raise InvalidSpec(f"target {name}.family", f"'{family}' is not one of {', '.join(FAMILIES)}")
    return spec
