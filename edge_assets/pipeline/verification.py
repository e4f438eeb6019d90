"""Parity and accuracy of what was built, in its runtime or in what stands in for it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from edge_assets.core.evidence import Facts, Verified
from edge_assets.core.progress import followed
from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.session import Loadable, session_options
from edge_assets.core.shapes import record
from edge_assets.core.tools import installed
from edge_assets.core.types import Recipe, Result
from edge_assets.core.variant import Variant
from edge_assets.core.verify import first_outputs
from edge_assets.core.verify.evaluate import VerificationRequest, evaluate, part_of
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import NOT_THE_VARIANTS, Identity, failure
from edge_assets.pipeline.recipes import Recipes
from edge_assets.pipeline.reference import Reference
from edge_assets.targets import this_machine, usable_cores

VERSION = "3"  # of what is computed of an artifact

SAMPLES_IN_TIME = 2000  # how many samples a variant's child process must have evaluated within the variant's seconds


@dataclass(frozen=True)
class Verification:
    """How a cell's artifacts are opened, and what comes of it."""

    cell: Identity
    data: Datasets
    recipes: Recipes
    reference: Reference

    def runtime_of(self, variant: Variant, facts: Facts) -> str:
        """The variant's runtime, in the browser that the target names; or what stands in where it cannot run."""
        runs_here = self.cell.is_local and not facts.needs_device
        if not runs_here and variant.stand_in is not None:
            return variant.stand_in
        browser = str(self.cell.target.options.get("browser"))
        return RUNTIMES[variant.runtime].by_browser.get(browser, variant.runtime)

    def request(
        self,
        loadable: Loadable,
        samples: int | None = None,
        is_static: bool = False,
    ) -> VerificationRequest:
        """What is asked of a model in a file, on the first `samples` evaluation samples or on all.

        One that `is_static` is not asked for other sizes than the data's.
        """
        reference = self.reference.outputs()
        assert reference.artifact is not None
        return VerificationRequest(
            loadable=loadable,
            threads=usable_cores(),  # of a build beside others: more threads would wait for each other
            data=self.data.saved_feeds(self.data.evaluation),
            reference=self.cell.store.checkout(reference.artifact),
            evaluation=self.cell.spec.evaluation,
            sizes=None if is_static else self.reference.network.sizes(),
            samples=samples,
        )

    def evidence(self, variant: Variant, name: str, built: Result) -> Result:
        """The verification, or how it failed."""
        try:
            return self._verify(variant, name, built)
        except NOT_THE_VARIANTS:
            raise
        except (Exception, SystemExit) as error:  # a runtime can raise anything
            recipe = Recipe("verification", VERSION, {"artifact": built.sha256})
            return failure(self.cell, variant, recipe, error, "verification")

    def _verify(self, variant: Variant, name: str, built: Result) -> Result:
        opened = built.sha256
        if name == variant.stand_in:  # what it opens may be the same in several artifacts: it is verified once
            opened = built.said(Facts).stand_in_sha256 or opened
        inputs = {"artifact": opened} | self.reference.inputs()
        runtime = RUNTIMES[name]
        session = build_session(name, built)
        if runtime.is_the_targets:  # another engine here computes the same whatever the target's options say
            session = self.session(name) | session
        parameters = self.recipes.evaluation_parameters()
        parameters["runtime"] = runtime.evidence_of or name
        parameters["session"] = session
        parameters["system"] = sys.platform  # what cannot run on Linux may run on a Mac that shares the store
        samples = self.cell.target.options.get("evaluation_samples")
        if samples:
            parameters["samples"] = samples
        tools = installed(runtime.distributions, runtime.extra) | self.recipes.preprocessing_tools()
        recipe = Recipe("verification", VERSION, inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            every = count(self.data.evaluation)
            self.cell.log(f"verifying {variant.name} on {min(every, samples or every)} samples")
            loadable = self.loadable(name, built)
            is_static = "fixed_axes" in built.facts or "image" in loadable.options
            request = replace(
                self.request(loadable, samples, is_static),
                first_outputs=folder / first_outputs.FILE,
            )
            found = self._evaluated(variant, request)
            return record(replace(found, machine=this_machine().published()))

        return self.cell.store.remember(recipe, build)

    def _evaluated(self, variant: Variant, request: VerificationRequest) -> Verified:
        """The evaluation: where the runtime has one thread, parts of the set at once, a process per core."""
        cores = usable_cores()
        times = max(1.0, request.every / SAMPLES_IN_TIME)
        patient = replace(variant, seconds=variant.seconds * times)
        if variant.process is None:
            return evaluate(request, None, self.cell.log)
        with followed(self.cell.log) as report:
            request = replace(request, report=report)
            if cores == 1 or not RUNTIMES[request.loadable.runtime].is_single_threaded:
                return patient.call(evaluate, request, None)
            edges = request.data.kept.cuts(request.every, cores)
            calls = [(request, start, stop) for start, stop in pairwise(edges)]
            parts = patient.call_each(part_of, calls)
            return patient.call(evaluate, request, parts)

    def session(self, runtime: str) -> dict[str, object]:
        """What of the target's options a runtime's sessions are opened with."""
        return {name: self.cell.target.options[name] for name in RUNTIMES[runtime].target_options}

    def loadable(self, runtime: str, built: Result) -> Loadable:
        """How to open a built artifact, in this process or another."""
        assert built.artifact is not None
        options = session_options(self.cell.spec, runtime, self.cell.target)
        options |= build_session(runtime, built)
        path = self.cell.store.checkout(built.artifact)
        return Loadable(runtime, str(path), options)
