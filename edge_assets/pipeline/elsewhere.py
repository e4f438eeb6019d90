"""Parity and accuracy of a cell's artifacts on devices and on emulated instruction sets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edge_assets.core import failures
from edge_assets.core.evidence import Footprint, Observed
from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.session import Loadable, session_options
from edge_assets.core.shapes import record, written
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify.evaluate import evaluate
from edge_assets.devices.agent.models import SESSIONS
from edge_assets.devices.connection import AgentError
from edge_assets.devices.microcontrollers import RUNTIME, FirmwareError, MicrocontrollerLoadable
from edge_assets.devices.needs import why_not
from edge_assets.devices.session import DeviceLoadable
from edge_assets.errors import DeviceError, Refused, shortened
from edge_assets.pipeline import browser_records
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.observers import Observer, Observers, observers
from edge_assets.pipeline.recipes import Recipes
from edge_assets.pipeline.reference import Reference
from edge_assets.pipeline.verification import Verification

VERSION = "1"  # of what is observed


@dataclass(frozen=True)
class Elsewhere:
    """What is asked of others than this machine."""

    cell: Identity
    data: Datasets
    recipes: Recipes
    reference: Reference
    verification: Verification

    @cached_property
    def observers(self) -> Observers:
        """Who can be asked; devices are asked once."""
        return observers(self.cell)

    def observed(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        """The variants, each with what its target's devices and emulated instruction sets say of it.

        A device that went away says nothing, and is asked again by the next build. Raises NotBuilt when planning.
        """
        found = dict(builts)
        for name, built in builts.items():
            of_browsers = tuple(browser_records.observations(self.cell, built))
            if of_browsers:
                found[name] = replace(built, elsewhere=of_browsers)
        for name, built in found.items():
            also = self._in_other_arithmetic(name, built)
            if also is not None:
                found[name] = replace(built, elsewhere=(*(built.elsewhere or ()), also))
        for observer in self.observers.found:
            for name, built in found.items():
                if not self._is_asked(observer, name, built):
                    continue
                try:
                    result = self._observation(observer, name, built)
                except DeviceError as error:
                    self.cell.log(f"{error}: what it has not verified yet waits for it")
                    break
                if result is not None:
                    found[name] = replace(built, elsewhere=(*(built.elsewhere or ()), result))
        return found

    def _in_other_arithmetic(self, name: str, built: Built) -> Result | None:
        """What the variant gives on another processor that users run it on, shown here; None where it names none."""
        if built.verified is None or not self._is_offered(name, built):
            return None
        variant = self.cell.family.variant(name)
        if variant.also_in is None:
            return None
        result = self.verification.evidence(variant, variant.also_in, built.build)
        if result.refused is not None:
            return result
        runtime = RUNTIMES[variant.also_in]
        origin = {"tier": runtime.tier, "device": variant.also_in, "by": runtime.verified_with}
        return replace(result, facts={**result.facts, **origin, "versions": dict(result.recipe.tools)})

    def takes(self, observer: Observer, name: str, built: Built) -> bool:
        """Whether a device runs a variant: it has the variant's own runtime, in a release that opens it."""
        return self.is_agents(name, built) and self.lack(observer, name, built) is None

    def lack(self, observer: Observer, name: str, built: Built) -> str | None:
        """What a device lacks to open a variant, and the command that helps; None: nothing."""
        return why_not(observer.device, observer.versions, self.runtime_of(name), built.build)

    def is_agents(self, name: str, built: Built) -> bool:
        """Whether agents have the variant's own runtime."""
        return self._is_offered(name, built) and self.runtime_of(name) in SESSIONS

    def _is_asked(self, observer: Observer, name: str, built: Built) -> bool:
        """Whether an observer is asked about a variant: a microcontroller runs its own runtime's, as C."""
        if observer.microcontroller:
            return self._is_offered(name, built) and self.runtime_of(name) == RUNTIME
        if observer.tier == "emulated":  # of what it lacks nothing is expected
            return self.takes(observer, name, built)
        return self.is_agents(name, built)

    def _is_offered(self, name: str, built: Built) -> bool:
        if built.artifact is None or built.failed or name == CHECKPOINT:
            return False
        return name not in self.cell.family.intermediates

    def runtime_of(self, name: str) -> str:
        """The variant's own runtime, never what stands in for it here."""
        return self.cell.family.variant(name).runtime

    def loadable(self, observer: Observer, name: str, built: Built) -> DeviceLoadable:
        """How to open the variant there."""
        assert built.artifact is not None
        runtime = self.runtime_of(name)
        options = session_options(self.cell.spec, runtime, self.cell.target)
        return DeviceLoadable(
            runtime=runtime,
            path=str(self.cell.store.checkout(built.artifact)),
            options=options | build_session(runtime, built.build),
            artifact=built.artifact,
            device=observer.device,
        )

    def _as_c(self, built: Built, emulator: str, footprints: list[Footprint]) -> MicrocontrollerLoadable:
        """How to open the variant on an emulated microcontroller; what its runs take goes into `footprints`."""
        assert built.artifact is not None
        options = session_options(self.cell.spec, RUNTIME, self.cell.target)
        return MicrocontrollerLoadable(
            runtime=RUNTIME,
            path=str(self.cell.store.checkout(built.artifact)),
            options=options | build_session(RUNTIME, built.build),
            emulator=emulator,
            footprints=footprints,
        )

    def _observation(self, observer: Observer, name: str, built: Built) -> Result | None:
        """One variant, observed once; None where it was not, and the observer is not here. Raises DeviceError."""
        recipe = self._recipe(observer, name, built)
        lack = None if observer.microcontroller else self.lack(observer, name, built)
        if lack is not None:
            return Result(recipe, None, {"unavailable": True}, refused=lack)
        if not observer.is_here:
            return self.cell.store.recall(recipe)

        def build(_folder: Path) -> Mapping[str, object]:
            self.cell.log(f"verifying {name} on {observer.by}, {self._samples(observer)} samples")
            try:
                return record(self._evaluated(observer, name, built))
            except Refused as error:
                raise Refused(f"{observer.by} cannot run it: {error}") from None

        try:
            return self.cell.store.remember(recipe, build)
        except (AgentError, FirmwareError) as error:
            where = self.cell.store.cache / failures.FOLDER
            log = failures.keep(error, where, f"{self.cell.path} {name} {observer.device.name}")
            reason = f"{observer.by} cannot run it: {shortened(str(error))}"
            return Result(recipe, None, {"failed": True, "log": log}, refused=reason)

    def _samples(self, observer: Observer) -> int:
        every = count(self.data.evaluation)
        return min(every, observer.samples or every)

    def _recipe(self, observer: Observer, name: str, built: Built) -> Recipe:
        parameters = self.recipes.evaluation_parameters()
        parameters["runtime"] = self.runtime_of(name)
        parameters["session"] = written(build_session(self.runtime_of(name), built.build))
        parameters["samples"] = self._samples(observer)
        parameters |= observer.parameters()
        return Recipe(
            step="observation",
            code_version=VERSION,
            inputs={"artifact": built.build.sha256} | self.reference.inputs(),
            parameters=parameters,
            tools=self.recipes.preprocessing_tools(),
        )

    def _evaluated(self, observer: Observer, name: str, built: Built) -> Observed:
        footprints: list[Footprint] = []
        loadable: Loadable
        if observer.microcontroller:
            loadable = self._as_c(built, observer.microcontroller, footprints)
        else:
            loadable = self.loadable(observer, name, built)
        is_static = "fixed_axes" in built.build.facts or "image" in loadable.options
        request = self.verification.request(loadable, self._samples(observer), is_static)
        request = replace(request, threads=min(self.cell.target.threads, observer.machine.cores))
        verified = evaluate(request, None, self.cell.log)
        versions = dict(observer.versions)
        return Observed(
            parity=verified.parity,
            accuracy=verified.accuracy,
            agreement=verified.agreement,
            metrics=verified.metrics,
            machine=observer.machine.published(),
            tier=observer.tier,
            device=observer.device.name,
            by=observer.by,
            versions=versions,
            footprint=next(iter(footprints), None),
        )
