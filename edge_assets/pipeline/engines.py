"""TensorRT kits that a device of their target completes: their engine is built on its GPU, and is part of the artifact.

The engine goes by the kit, the GPU, its driver and TensorRT there: while the device is away, what it built stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_assets.core import failures
from edge_assets.core.types import Recipe, Result
from edge_assets.devices.agent.models import DRIVER
from edge_assets.devices.connection import AgentError
from edge_assets.devices.engines import built_there
from edge_assets.devices.lease import leased
from edge_assets.devices.needs import DISTRIBUTIONS, demand_runtime
from edge_assets.errors import DeviceError, shortened
from edge_assets.pipeline.elsewhere import Elsewhere
from edge_assets.pipeline.identity import ENGINE, Identity
from edge_assets.pipeline.observers import Observer
from edge_assets.toolchains.tensorrt import engine, kit

RUNTIME = "tensorrt"
VERSION = "1"  # of what is made of a kit and an engine


@dataclass(frozen=True)
class Engines:
    """Of one cell."""

    cell: Identity
    elsewhere: Elsewhere

    def completed(self, built: Result) -> Result:
        """A kit with the engine of the target's device; the kit as it is, with the reason, where that has none.

        Raises StoreError, and NotBuilt when planning.
        """
        is_tuned = built.recipe.parameters.get("gpu") is not None
        if built.artifact is None or self.cell.is_local or is_tuned:
            return built
        found = self.elsewhere.observers
        device = found.timed
        if device is None:
            return _without(built, "; ".join(found.absent.values()))
        try:
            result = self._built(device, built)
        except (DeviceError, AgentError) as error:
            self.cell.log(f"{error}: the engine waits for it")
            if isinstance(error, AgentError):
                failures.keep(error, self.cell.store.cache / failures.FOLDER, f"{self.cell.path} engine")
            return _without(built, f"{device.device.name}: {shortened(str(error))}")
        if result.refused is not None:
            return _without(built, f"{device.by}: {shortened(result.refused)}")
        return result

    def _built(self, device: Observer, built: Result) -> Result:
        """The kit with its engine. Raises DeviceError, AgentError."""
        recipe = _recipe(device, built)
        if not device.is_here:
            known = self.cell.store.recall(recipe)
            if known is None:
                raise DeviceError("; ".join(self.elsewhere.observers.absent.values()))
            return known
        demand_runtime(device.device, device.versions, RUNTIME)
        artifact = built.artifact
        assert artifact is not None

        def build(folder: Path) -> Mapping[str, object]:
            path = self.cell.store.checkout(artifact)
            with (
                self.cell.store.kept(recipe) as kept,
                leased(device.device, self.cell.path, self.cell.log) as readiness,
            ):
                readiness.awaited()  # TensorRT chooses kernels by how long they take
                self.cell.log(f"{device.device.name} builds the engine")
                file, place = built_there(readiness.connection, artifact, path, kept)
                shutil.copytree(path, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
                kit.write_engine(folder, kit.read_kit(folder), file.read_bytes(), place)
            return engine.facts_with(
                built.facts,
                place,
                size_bytes=(folder / kit.ENGINE).stat().st_size,
                device=device.device.name,
                driver=device.versions.get(DRIVER),
            )

        return self.cell.store.remember(recipe, build)


def _recipe(device: Observer, built: Result) -> Recipe:
    """Of a kit with the engine of such a device: the kit's, with what an engine depends on besides."""
    machine = device.machine
    parameters = dict(built.recipe.parameters)
    parameters["gpu"] = next(iter(machine.gpus), None)
    parameters["system"] = f"{machine.system.partition(' ')[0]} {machine.architecture}"
    parameters["builders"] = {name: device.versions[name] for name in DISTRIBUTIONS[RUNTIME] if name in device.versions}
    parameters["driver"] = device.versions.get(DRIVER)
    parameters[ENGINE] = VERSION
    return replace(built.recipe, inputs={**built.recipe.inputs, "kit": built.sha256}, parameters=parameters)


def _without(built: Result, reason: str) -> Result:
    """The kit as it was built, which says why no device gave it an engine; `reason` is empty where there is none."""
    if not reason:
        return built
    notes = built.facts.get("notes")
    known = notes if isinstance(notes, list | tuple) else ()
    return replace(built, facts={**built.facts, "notes": [*known, f"no device built its engine: {reason}"]})
