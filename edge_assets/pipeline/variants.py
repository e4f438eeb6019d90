"""Building one variant from its source, and what becomes of one that cannot be built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_assets.core import log_filters
from edge_assets.core.benchmark.harness import Contestant
from edge_assets.core.benchmark.statistics import MODES
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.session import Feeds, Loadable, session_options
from edge_assets.core.tools import installed
from edge_assets.core.trials import Trials
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.core.verify.evaluate import VerificationRequest
from edge_assets.errors import (
    MissingTool,
)
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import NOT_THE_VARIANTS, Identity, failure
from edge_assets.pipeline.measurement import Measurement
from edge_assets.pipeline.recipes import Recipes
from edge_assets.pipeline.reference import Reference
from edge_assets.pipeline.verification import Verification


@dataclass(frozen=True)
class Variants:
    """The variants of a cell."""

    cell: Identity
    data: Datasets
    recipes: Recipes
    reference: Reference
    verification: Verification
    measurement: Measurement

    def build(self, variant: Variant, source: Built, others: Mapping[str, Built] | None = None) -> Built:
        """Build one variant from its source and verify it.

        A refusal is a result, with its reason. So are a missing toolchain and a failure, of the conversion or of the
        verification, which the next build tries again. Raises StoreError, and NotBuilt when planning.
        """
        if source.artifact is None:
            return self._without_source(variant, source)
        try:
            recipe = self.recipe(variant, source, others or {})
            runtime = RUNTIMES[self.verification.runtime_of(variant, {})]
            installed(runtime.distributions, runtime.extra)
            built = self._run(variant, recipe, source, others or {})
        except MissingTool as missing:
            return self._not_built(variant, source, str(missing), {"unavailable": True})
        except NOT_THE_VARIANTS:
            raise
        except (Exception, SystemExit) as error:  # a converter can raise anything, and takes no other variant with it
            built = failure(self.cell, variant, recipe, error, "conversion")
        name = self.verification.runtime_of(variant, built.facts)
        evidence = self.verification.evidence(variant, name, built) if built.artifact and variant.is_model else None
        precision = built.facts.get("precision", variant.precision)  # of what a search chose
        return Built(variant.name, variant.format, precision, name, built, evidence)

    def _without_source(self, variant: Variant, source: Built) -> Built:
        """A variant whose source was refused, is unavailable or failed shares that outcome."""
        if source.failed:
            reason = f"{source.variant}, which it is made from, failed"
            return self._not_built(variant, source, reason, {"failed": True, "log": source.failure_log})
        why, _, _ = (source.build.refused or "").partition("\n")
        reason = f"there is no {source.variant} to make it from: {why}"
        return self._not_built(variant, source, reason, {"unavailable": source.unavailable})

    def _not_built(self, variant: Variant, source: Built, reason: str, facts: Mapping[str, Any]) -> Built:
        recipe = Recipe(variant.name, variant.code_version, {"source": source.build.sha256}, {"reason": reason})
        result = Result(recipe, None, facts, refused=reason)
        return Built(variant.name, variant.format, variant.precision, variant.runtime, result, None)

    def recipe(self, variant: Variant, source: Built, others: Mapping[str, Built]) -> Recipe:
        """Everything that decides the variant's bytes: shared by every target with the same parameters."""
        inputs = {"source": source.build.sha256} | {name: other.build.sha256 for name, other in others.items()}
        if "calibration" in variant.needs:
            inputs["calibration"] = self.data.calibration.sha256
        parameters, tools = variant.parameters(self.cell.spec, self.cell.target), variant.tool_versions()
        if "search" in variant.needs:
            inputs |= self.reference.inputs()
        if "training" in variant.needs:
            inputs |= {"training": self.data.training.sha256} | self.recipes.loss_inputs()
        if "search" in variant.needs:
            parameters |= (
                self.recipes.evaluation_parameters() | {"limits": self.recipes.gates()} | self.recipes.timing()
            )
        if variant.needs & {"calibration", "training"}:
            parameters["preprocessing"] = self.cell.spec.preprocess.to_dict()
            tools = tools | self.recipes.preprocessing_tools()
        if source.variant == CHECKPOINT or "architecture" in variant.needs:
            return self.recipes.of_architecture(variant.name, variant.code_version, inputs, parameters, tools)
        return Recipe(variant.name, variant.code_version, inputs, parameters, tools)

    def _run(self, variant: Variant, recipe: Recipe, source: Built, others: Mapping[str, Built]) -> Result:
        def build(folder: Path) -> Mapping[str, Any]:
            assert source.artifact is not None
            self.cell.log(f"building {variant.name} from {source.variant}")
            log_filters.silence()
            is_calibrated = "calibration" in variant.needs
            with self.cell.store.kept(recipe) as kept:
                request = BuildRequest(
                    spec=self.cell.spec,
                    parameters=variant.parameters(self.cell.spec, self.cell.target),
                    source=self.cell.store.checkout(source.artifact),
                    calibration=self.data.saved_feeds(self.data.calibration) if is_calibrated else _no_calibration,
                    output=folder,
                    log=print if variant.process else self.cell.log,
                    others={
                        n: self.cell.store.checkout(other.artifact) for n, other in others.items() if other.artifact
                    },
                    trials=self._trials(variant, recipe) if "search" in variant.needs else None,
                    training=self.data.saved_feeds(self.data.training) if "training" in variant.needs else None,
                    kept=kept,
                )
                return variant.call(variant.build, request)

        return self.cell.store.remember(recipe, build)

    def _trials(self, variant: Variant, recipe: Recipe) -> Trials:
        """Trials of a search, kept by what decides their outcome: neither the gates nor the budget do."""
        own = {name: recipe.inputs[name] for name in ("source", "calibration") if name in recipe.inputs}
        inputs = own | self.reference.inputs()
        tools = dict(recipe.tools) | installed(RUNTIMES[variant.runtime].distributions, None)

        def remember(parameters: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Result:
            every = self.recipes.evaluation_parameters() | {"runtime": variant.runtime, **parameters}
            return self.cell.store.remember(Recipe("trial", "1", inputs, every, tools), build)

        def request(path: Path) -> VerificationRequest:
            options = session_options(self.cell.spec, variant.runtime, self.cell.target)
            return self.verification.request(Loadable(variant.runtime, str(path), options), None)

        def time(files: Mapping[str, Path]) -> dict[str, float]:
            options = session_options(self.cell.spec, variant.runtime, self.cell.target)
            contestants = [
                Contestant(name, sha256_of(path), Loadable(variant.runtime, str(path), options))
                for name, path in files.items()
            ]
            rows = self.measurement.interleaved(contestants, MODES["rapid"], (1,))
            return {name: row["latency_ms"]["1"]["p50"] for name, row in rows.items()}

        samples = self.data.evaluation.facts["samples"]
        output = self.cell.spec.outputs[0].name
        return Trials(remember, request, self.cell.limits, samples, output, time if self.cell.is_local else None)


def _no_calibration() -> Feeds:
    raise AssertionError("only variants that need calibration get its data")
