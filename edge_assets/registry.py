"""Finds the registered models. One that cannot be loaded is reported, and breaks no other."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName, printable, told, with_nearest
from edge_assets.families.families import FAMILIES, family_targets
from edge_assets.spec.attributes import model_spec, named_spec, parsed
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.project import Declaration, declarations, project_file, project_settings
from edge_assets.targets.project import target

log = logging.getLogger(__name__)
VARIABLE = "EDGE_ASSETS_MODELS"  # comma-separated references, besides those of pyproject.toml


@dataclass(frozen=True)
class Registry:
    """Models that loaded, by name, and why the others did not, by where they are registered.

    `origins` says where each of `models` is registered: a reference `package.module:NAME`, or a YAML file of the defs
    folder. `named` are those with a reference.
    """

    models: Mapping[str, ModelSpec]
    broken: Mapping[str, str]
    origins: Mapping[str, str]
    named: tuple[ModelSpec, ...]

    def model(self, name: str) -> ModelSpec:
        """The model of that name. Raises UnknownName with the nearest names and the models that did not load."""
        if name in self.models:
            return self.models[name]
        error = UnknownName("model", name, self.models)
        raise EdgeAssetsError(f"{error} {self._not_loaded()}") if self.broken else error

    def chosen(self, name: str | None) -> ModelSpec:
        """The model of that name; without a name, the only one there is. Raises EdgeAssetsError if it is not clear."""
        if name is not None:
            spec = self.model(name)
            self.log_broken()
            return spec
        if len(self.models) == 1 and not self.broken:
            return next(iter(self.models.values()))
        if self.broken and not self.models:
            raise EdgeAssetsError(f"no model could be loaded. {self._not_loaded()}")
        if self.broken:
            raise EdgeAssetsError(f"say which model with --model. {self._not_loaded()}")
        if not self.models:
            raise EdgeAssetsError(why_none_is_registered())
        raise EdgeAssetsError(f"say which model with --model: {', '.join(sorted(self.models))}")

    def log_broken(self) -> None:
        """Say which models did not load, where no error says it."""
        for origin, reason in self.broken.items():
            log.error("model '%s' is not registered: %s", origin, reason)

    def _not_loaded(self) -> str:
        reasons = "; ".join(f"{origin}: {reason}" for origin, reason in self.broken.items())
        return f"Did not load: {reasons}"


def why_none_is_registered() -> str:
    """What to say where there is no model: whether there is a project at all, and what to do."""
    file = project_file()
    if file is None:
        return (
            f"no model is registered: there is no pyproject.toml with [tool.edge_assets] in {Path.cwd()} or above it. "
            f"Go into your project's folder, or make a project: edge-assets init NAME"
        )
    return f"no model is registered: name one in {file}, [tool.edge_assets] models"


@cache
def registry() -> Registry:
    """Loads every model that pyproject.toml, the environment, or a YAML file of the project's defs folder registers."""
    references = list(project_settings().get("models", []))
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            references.append(name.strip())
    path = project_file()
    if path and str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # console scripts do not have the working directory on the path
    loaders: dict[str, Callable[[], ModelSpec]] = {}
    for reference in references:
        loaders[reference] = partial(named_spec, reference)
    for declaration in declarations():
        loaders[declaration.origin] = partial(declared_spec, declaration)
    models: dict[str, ModelSpec] = {}
    broken: dict[str, str] = {}
    origins: dict[str, str] = {}
    for origin, load in loaders.items():
        try:
            spec = load()
            check_targets(spec)
            check_variants(spec)
            check_alone(spec, origin, origins)
            models[spec.name] = spec
            origins[spec.name] = origin
        except Exception as error:  # a user's module can raise anything; the others must still load
            broken[origin] = str(error) if isinstance(error, EdgeAssetsError) else told(error)
    named = [spec for name, spec in models.items() if origins[name] in references]
    return Registry(models, broken, origins, tuple(named))


def check_alone(spec: ModelSpec, origin: str, origins: Mapping[str, str]) -> None:
    """Raises InvalidSpec if a model of that name is registered elsewhere than at `origin`."""
    first = origins.get(spec.name, origin)
    if first != origin:
        raise InvalidSpec("name", f"'{spec.name}' is already registered, by {first}: remove one of the two")


def declared_spec(declaration: Declaration) -> ModelSpec:
    """The model that a YAML file declares. Raises InvalidSpec."""
    if declaration.problem:
        raise InvalidSpec("attributes", declaration.problem)
    return model_spec(parsed(declaration.attributes))


def check_targets(spec: ModelSpec) -> None:
    """Raises InvalidSpec if a target is not in the catalog, or of no known family."""
    for name in spec.targets:
        try:
            target(name)
        except UnknownName as error:
            raise InvalidSpec("targets", str(error)) from None
        family = target(name).family
        if family not in FAMILIES:
            reason = f"'{printable(family)}' is not one of {', '.join(FAMILIES)}"
            raise InvalidSpec(f"target {name}.family", with_nearest(reason, family, FAMILIES))


def check_variants(spec: ModelSpec) -> None:
    """Raises InvalidSpec if the model names a variant that its families have not, or leaves a family without one."""
    if not spec.variants:
        return
    families = [family for family, _targets in family_targets(spec)]
    known = {variant.name for family in families for variant in FAMILIES[family.name].variants}
    offered = {variant.name for family in families for variant in family.variants}
    whose = " and ".join(family.name for family in families)
    for name in spec.variants:
        if name not in known:
            raise InvalidSpec("variants", with_nearest(f"'{printable(name)}' is no variant of {whose}", name, known))
        if name not in offered:
            raise InvalidSpec("variants", f"{name} is for models that have `finetuning` or `search`, as it needs")
    for family in families:
        if not any(variant.is_candidate for variant in family.variants if variant.name in spec.variants):
            raise InvalidSpec("variants", f"names nothing that can be released for {family.name}, which `targets` has")
