"""Building one variant from its source, and what becomes of one that cannot be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core import log_filters
from edge_assets.core.axes import frozen
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.statistics import MODES
from edge_assets.core.evidence import Facts, MeasuredVariant
from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.session import Loadable, session_options
from edge_assets.core.tools import installed
from edge_assets.core.trials import Trials
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.core.verify.evaluate import VerificationRequest
from edge_assets.errors import ExportError, MissingTool
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import NOT_THE_VARIANTS, Identity, failure
from edge_assets.pipeline.measurement import Measurement
from edge_assets.pipeline.recipes import Recipes
from edge_assets.pipeline.reference import Reference
from edge_assets.pipeline.verification import Verification
from resources.store import Build

if TYPE_CHECKING:
    from edge_assets.pipeline.elsewhere import Elsewhere


@dataclass(frozen=True)
class Variants:
    """The variants of a cell."""

    cell: Identity
    data: Datasets
    recipes: Recipes
    reference: Reference
    verification: Verification
    measurement: Measurement
    elsewhere: Elsewhere

    def build(
        self,
        variant: Variant,
        source: Built,
        others: Mapping[str, Built] | None = None,
    ) -> Built:
        """Build one variant from its source and verify it.

        A refusal is a result, with its reason. So are a missing toolchain and a failure, of the conversion or of the
        verification, which the next build tries again. Raises StoreError, and NotBuilt when planning.
        """
        if source.artifact is None:
            return self._without_source(variant, source)
        try:
            recipe = self.recipe(variant, source, others or {})
            runtime = RUNTIMES[self.verification.runtime_of(variant, Facts())]
            installed(runtime.distributions, runtime.extra)
        except MissingTool as missing:
            return self._not_built(variant, source, str(missing), {"unavailable": True})
        try:
            built = self._run(variant, recipe, source, others or {})
        except MissingTool as missing:
            return self._not_built(variant, source, str(missing), {"unavailable": True})
        except NOT_THE_VARIANTS:
            raise
        except (Exception, SystemExit) as error:  # a converter can raise anything, and takes no other variant with it
            built = failure(self.cell, variant, recipe, error, "conversion")
        facts = built.said(Facts)
        name = self.verification.runtime_of(variant, facts)
        evidence = None
        if built.artifact and variant.is_model:
            evidence = self.verification.evidence(variant, name, built)
        precision = facts.precision or variant.precision
        return Built(
            variant=variant.name,
            format=variant.format,
            precision=precision,
            runtime=name,
            build=built,
            evidence=evidence,
        )

    def _without_source(self, variant: Variant, source: Built) -> Built:
        """A variant whose source was refused, is unavailable or failed shares that outcome."""
        if source.failed:
            reason = f"{source.variant}, which it is made from, failed"
            return self._not_built(variant, source, reason, {"failed": True, "log": source.failure_log})
        why, _, _ = (source.build.refused or "").partition("\n")
        reason = f"there is no {source.variant} to make it from: {why}"
        return self._not_built(variant, source, reason, {"unavailable": source.facts.unavailable})

    def _not_built(
        self,
        variant: Variant,
        source: Built,
        reason: str,
        facts: Mapping[str, object],
    ) -> Built:
        recipe = Recipe(
            step=variant.name,
            code_version=variant.code_version,
            inputs={"source": source.build.sha256},
            parameters={"reason": reason},
        )
        return Built(
            variant=variant.name,
            format=variant.format,
            precision=variant.precision,
            runtime=variant.runtime,
            build=Result(recipe, None, facts, refused=reason),
            evidence=None,
        )

    def recipe(self, variant: Variant, source: Built, others: Mapping[str, Built]) -> Recipe:
        """Everything that decides the variant's bytes: shared by every target with the same parameters."""
        inputs = {"source": source.build.sha256}
        for name, other in others.items():
            inputs[name] = other.build.sha256
        parameters = variant.parameters(self.cell.spec, self.cell.target)
        tools = variant.tool_versions()
        if "calibration" in variant.needs:
            inputs["calibration"] = self.reference.network.calibration().sha256
        if "training" in variant.needs:
            inputs["training"] = self.data.training.sha256
            inputs |= self.recipes.loss_inputs()
        if "search" in variant.needs:
            inputs |= self.reference.inputs()
            parameters |= self.recipes.evaluation_parameters() | self.recipes.timing()
            parameters["limits"] = self.recipes.gates()
        if variant.needs & {"calibration", "training"}:
            parameters["preprocessing"] = self.cell.spec.preprocess.to_dict()
            tools = tools | self.recipes.preprocessing_tools()
        if source.variant == CHECKPOINT or "architecture" in variant.needs:
            return self.recipes.of_architecture(
                variant.name,
                variant.code_version,
                inputs,
                parameters,
                tools,
            )
        return Recipe(
            step=variant.name,
            code_version=variant.code_version,
            inputs=inputs,
            parameters=parameters,
            tools=tools,
        )

    def _run(
        self,
        variant: Variant,
        recipe: Recipe,
        source: Built,
        others: Mapping[str, Built],
    ) -> Result:
        def build(folder: Path) -> Mapping[str, object]:
            self.cell.log(f"building {variant.name} from {source.variant}")
            log_filters.silence()
            with self.cell.store.kept(recipe) as kept:
                request = self._request(variant, source, others, folder)
                if "search" in variant.needs:
                    request = replace(request, trials=self._trials(variant, recipe))
                facts = variant.call(variant.build, replace(request, kept=kept))
            self._check_axes(facts)
            return facts

        def check(result: Result) -> None:
            build_session(self.verification.runtime_of(variant, result.said(Facts)), result)

        result = self.cell.store.remember(recipe, build, check)
        if variant.format != "tensorrt":
            return result
        from edge_assets.pipeline.engines import Engines  # what builds no kits needs no devices

        return Engines(self.cell, self.elsewhere).completed(result)

    def _check_axes(self, facts: Mapping[str, object]) -> None:
        """Raises ExportError where what the build read back of its file's inputs has lost a dynamic axis."""
        axes = facts.get("inputs")
        if not isinstance(axes, Mapping):
            return
        listed = {name: found for name, found in axes.items() if isinstance(found, list)}
        lost = frozen(self.cell.spec.inputs, listed)
        if lost is not None:
            raise ExportError(f"{lost}: the file takes no other size than the one that it was converted with")

    def _request(
        self,
        variant: Variant,
        source: Built,
        others: Mapping[str, Built],
        folder: Path,
    ) -> BuildRequest:
        """What the variant is built from, into `folder`."""
        assert source.artifact is not None
        store = self.cell.store
        built = {}
        for name, other in others.items():
            if other.artifact is not None:
                built[name] = store.checkout(other.artifact)
        request = BuildRequest(
            spec=self.cell.spec,
            parameters=variant.parameters(self.cell.spec, self.cell.target),
            source=store.checkout(source.artifact),
            output=folder,
            log=print if variant.process else self.cell.log,
            others=built,
        )
        if "calibration" in variant.needs:
            request = replace(request, calibration=self.reference.network.calibration_feeds())
        if "training" in variant.needs:
            request = replace(request, training=self.data.saved_feeds(self.data.training))
        return request

    def _trials(self, variant: Variant, recipe: Recipe) -> Trials:
        """Trials of a search, kept by what decides their outcome: neither the gates nor the budget do."""
        cell = self.cell
        runtime = variant.runtime
        inputs = self.reference.inputs()
        for name in ("source", "calibration"):
            if name in recipe.inputs:
                inputs[name] = recipe.inputs[name]
        tools = dict(recipe.tools) | installed(RUNTIMES[runtime].distributions, None)

        def remember(parameters: Mapping[str, object], build: Build) -> Result:
            every = self.recipes.evaluation_parameters()
            every["runtime"] = runtime
            every |= parameters
            trial = Recipe("trial", "1", inputs, every, tools)
            return cell.store.remember(trial, build)

        def loadable(path: Path) -> Loadable:
            options = session_options(cell.spec, runtime, cell.target)
            return Loadable(runtime, str(path), options)

        def request(path: Path) -> VerificationRequest:
            return self.verification.request(loadable(path))

        def time(files: Mapping[str, Path]) -> dict[str, float]:
            contestants = []
            for name, path in files.items():
                contestants.append(Contestant(name, sha256_of(path), loadable(path)))
            rows = self.measurement.interleaved(contestants, MODES["rapid"], (1,))
            return {name: _median(row) for name, row in rows.items()}

        return Trials(
            remember=remember,
            request=request,
            limits=cell.limits,
            samples=count(self.data.evaluation),
            output=cell.spec.outputs[0].name,
            time=time if cell.is_local else None,
        )


def _median(row: MeasuredVariant) -> float:
    """P50 in ms at batch 1, of which a rapid measurement has queries enough."""
    assert row.latency_ms is not None
    median = row.latency_ms["1"].p50
    assert median is not None
    return median
