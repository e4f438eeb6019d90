"""One checkpoint's way through one target, as memoized steps.

Each step states its recipe and calls the store, which returns what the same recipe made before or builds it.
The same functions on a read-only store are the plan: the first step that would have to work raises NotBuilt.
Nothing here knows Dagster or MLflow.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.assets.family import Family
from edge_assets.core import data, failures, remarks
from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES, Mode
from edge_assets.core.errors import (
    CheckpointError,
    EdgeAssetsError,
    MeasurementError,
    MissingTool,
    StoreError,
    shortened,
    told,
)
from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.select import NOT_MEASURED, Limits
from edge_assets.core.source import source_digest
from edge_assets.core.trials import Trials
from edge_assets.core.types import Built, Recipe, Result, digest
from edge_assets.core.variant import (
    CHECKPOINT,
    BuildRequest,
    Feeds,
    Loadable,
    SavedFeeds,
    Variant,
    installed,
    session_options,
)
from edge_assets.core.verify import accuracy, parity
from edge_assets.model import PARITY_SAMPLES, Dataset, ModelSpec
from edge_assets.registry import catalog, checkpoint_folder
from edge_assets.settings import project_path
from edge_assets.targets import Target, local_target, this_machine
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, NotBuilt, sha256_of

if TYPE_CHECKING:
    from edge_assets.core.verify.evaluate import Question

NOT_THE_VARIANTS = (StoreError, NotBuilt)  # what a step raises that says nothing of the variant
MEASUREMENT_SAMPLES = 256  # evaluation samples that queries cycle through


@dataclass(frozen=True)
class Cell:
    """One (model, family, target, checkpoint): what one run works on."""

    spec: ModelSpec
    family: Family
    target: Target
    checkpoint: Checkpoint
    store: ArtifactStore
    log: Callable[[str], None] = print

    @property
    def is_local(self) -> bool:
        """Whether this machine is the target, so that latency can be measured."""
        local = local_target(catalog().values(), self.family.name)
        return local is not None and local.name == self.target.name

    @property
    def not_measured(self) -> str:
        """Why there is no latency where there is none."""
        return str(self.target.options.get("not_measured", NOT_MEASURED))

    @property
    def path(self) -> str:
        return f"{self.spec.name}/{self.family.name}/{self.checkpoint.key}/{self.target.name}"

    @property
    def limits(self) -> Limits:
        """The tighter of the model's gates and the target's budgets."""
        gates, target = self.spec.gates, self.target
        return Limits(
            accuracy_drop_points=gates.max_accuracy_drop_points,
            size_bytes=min(gates.max_size_bytes or target.size_bytes, target.size_bytes),
            memory_bytes=min(gates.max_memory_bytes or target.memory_bytes, target.memory_bytes),
            cosine=gates.min_cosine,
        )

    def planning(self) -> "Cell":
        """The same cell on a store that refuses to build."""
        return replace(self, store=self.store.planning(), log=lambda _message: None)

    # --- data --------------------------------------------------------------------------------------------

    @cached_property
    def calibration(self) -> Result:
        """The calibration data as an artifact."""
        return self._dataset(self.spec.calibration.data, "calibration")

    @cached_property
    def evaluation(self) -> Result:
        """The evaluation data as an artifact."""
        return self._dataset(self.spec.evaluation.data, "evaluation")

    @cached_property
    def training(self) -> Result:
        """The fine-tuning data as an artifact."""
        assert self.spec.finetuning is not None
        return self._dataset(self.spec.finetuning.data, "training")

    def _dataset(self, dataset: Dataset, what: str) -> Result:
        files = {path: sha256_of(project_path(path)) for path in dataset.files}
        inputs = {"loader": source_digest(dataset.load), **files}
        recipe = Recipe(f"{what}_data", "1", inputs, {"load": dataset.load, "version": dataset.version})

        def build(folder: Path) -> Mapping[str, Any]:
            self.log(f"loading {what} data")
            arrays = data.load_arrays(dataset.load, what)
            data.save_arrays(arrays, folder / f"{what}.npz")
            return {"samples": len(next(iter(arrays.values())))}

        return self.store.remember(recipe, build)

    def arrays(self, result: Result) -> data.Arrays:
        """The arrays of a data artifact."""
        assert result.artifact is not None
        return data.read_arrays(self.store.checkout(result.artifact))

    def saved_feeds(self, result: Result) -> SavedFeeds:
        """A data artifact as the model's inputs, read when called."""
        assert result.artifact is not None
        return SavedFeeds(self.store.checkout(result.artifact), self.spec.preprocess)

    def feeds(self, result: Result) -> Feeds:
        """A data artifact, preprocessed: the model's inputs."""
        return self.saved_feeds(result)()

    def check_data(self) -> Result:
        """Refuse data that cannot give a trustworthy result, before any slow work. Raises DataError."""
        spec, calibration, evaluation = self.spec, self.calibration, self.evaluation
        parameters = {
            "preprocessing": spec.preprocess.to_dict(),
            "minimum": [spec.calibration.minimum, spec.evaluation.minimum],
            "inputs": [[t.name, t.dtype, list(t.shape)] for t in spec.inputs],
            "labels": [spec.evaluation.labels, spec.evaluation.metric, list(spec.outputs[0].shape)],
        }
        inputs = {"calibration": calibration.sha256, "evaluation": evaluation.sha256}
        recipe = spec.finetuning
        if recipe:
            inputs["training"] = self.training.sha256
            parameters["training"] = [recipe.labels, spec.trains_classifier, recipe.batch_size]

        def build(_folder: Path) -> Mapping[str, Any]:
            cal, test = self.arrays(calibration), self.arrays(evaluation)
            data.check_samples(cal, spec.preprocess, spec.inputs, spec.calibration.minimum, "calibration")
            data.check_samples(test, spec.preprocess, spec.inputs, spec.evaluation.minimum, "evaluation")
            data.check_labels(test, spec.evaluation.labels, spec.outputs, spec.evaluation.metric)
            data.check_disjoint(cal, test, spec.preprocess)
            facts = {
                "calibration_samples": calibration.facts["samples"],
                "evaluation_samples": evaluation.facts["samples"],
            }
            if recipe is None:
                return facts
            train = self.arrays(self.training)
            data.check_samples(train, spec.preprocess, spec.inputs, 2 * recipe.batch_size, "training")
            data.check_training_labels(train, recipe.labels, spec.outputs, spec.trains_classifier)
            data.check_disjoint(train, test, spec.preprocess, "training")
            return facts | {"training_samples": self.training.facts["samples"]}

        return self.store.remember(Recipe("data_check", "1", inputs, parameters, self._preprocessing_tools()), build)

    # --- the checkpoint and its reference outputs --------------------------------------------------------

    def build_checkpoint(self) -> Built:
        """Validate the checkpoint and record what PyTorch eager in fp32 gives for the whole evaluation set."""
        self.check_data()
        reference = self._reference()
        recipe = self._recipe("checkpoint", "1", {"file": self.checkpoint.file.sha256})
        built = self.store.remember(recipe, self._validate_checkpoint)
        return Built(CHECKPOINT, "pytorch", "fp32", "pytorch", built, reference)

    def _validate_checkpoint(self, folder: Path) -> Mapping[str, Any]:
        import shutil

        from edge_assets.core.checkpoint import load_model
        from edge_assets.core.formats import pytorch

        path = checkpoints.fetch(self.store, self.checkpoint, checkpoint_folder(self.spec))
        model = load_model(self.spec.architecture, path)
        one = {name: array[:1] for name, array in self.feeds(self.evaluation).items()}
        shutil.copyfile(path, folder / path.name)
        return pytorch.describe(model, one, [tensor.name for tensor in self.spec.inputs])

    def _reference(self) -> Result:
        inputs = {"checkpoint": self.checkpoint.file.sha256, "evaluation": self.evaluation.sha256}
        parameters = self._evaluation_parameters()
        scores_name = accuracy.scores_name(parameters["outputs"])
        if scores_name != "scores":
            parameters["scores"] = scores_name
        inputs |= self._metric_inputs()
        recipe = self._recipe("reference", "1", inputs, parameters, self._preprocessing_tools())

        def build(folder: Path) -> Mapping[str, Any]:
            from edge_assets.core.formats import pytorch

            self.log("evaluating PyTorch eager in fp32, the reference")
            path = checkpoints.fetch(self.store, self.checkpoint, checkpoint_folder(self.spec))
            options = session_options(self.spec, "pytorch", self.target)
            session = Loadable("pytorch", str(path), options).open(this_machine().cores)
            feeds, raw = self.feeds(self.evaluation), self.arrays(self.evaluation)
            outputs = accuracy.run_all(session, feeds)
            pytorch.check_outputs(outputs, self.spec.outputs, len(raw[self.spec.evaluation.labels]))
            if broken := [name for name, array in outputs.items() if not np.isfinite(array).all()]:
                raise CheckpointError(f"checkpoint {path} gives NaN or infinite values in {', '.join(broken)}")
            scores = accuracy.score(self.spec.evaluation.metric, outputs, raw[self.spec.evaluation.labels])
            data.save_arrays(outputs | {scores_name: scores}, folder / "reference.npz")
            return {
                "accuracy": accuracy.compare(scores, scores, self.spec.evaluation.higher_is_better),
                "parity": parity.measure(session, feeds, {n: outputs[n][:PARITY_SAMPLES] for n in outputs}),
            }

        return self.store.remember(recipe, build)

    # --- variants ----------------------------------------------------------------------------------------

    def build_variant(self, variant: Variant, source: Built, others: Mapping[str, Built] | None = None) -> Built:
        """Build one variant from its source and verify it.

        A refusal is a result, with its reason. So are a missing toolchain and a failure, of the conversion or of the
        verification, which the next build tries again. Raises StoreError, and NotBuilt when planning.
        """
        if source.artifact is None:
            return self._without_source(variant, source)
        try:
            recipe = self.variant_recipe(variant, source, others or {})
            runtime = RUNTIMES[self._runtime(variant, {})]
            installed(runtime.distributions, runtime.extra)
            built = self._run(variant, recipe, source, others or {})
        except MissingTool as missing:
            return self._not_built(variant, source, str(missing), {"unavailable": True})
        except NOT_THE_VARIANTS:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # a converter can raise anything, and takes none of the other variants with it
            built = self._failure(variant, recipe, error, "conversion")
        name = self._runtime(variant, built.facts)
        evidence = self._evidence(variant, name, built) if built.artifact and variant.is_model else None
        precision = built.facts.get("precision", variant.precision)  # of what a search chose
        return Built(variant.name, variant.format, precision, name, built, evidence)

    def build_all(self) -> dict[str, Built]:
        """The checkpoint and every variant of the family, in the order of the graph."""
        builts = {CHECKPOINT: self.build_checkpoint()}
        for variant in self.family.variants:
            others = {name: builts[name] for name in variant.others}
            builts[variant.name] = self.build_variant(variant, builts[variant.source], others)
        return builts

    def _runtime(self, variant: Variant, facts: Mapping[str, Any]) -> str:
        """The variant's runtime, or what stands in for it where it cannot run."""
        runs_here = self.is_local and not facts.get("needs_device")
        return variant.runtime if runs_here or variant.stand_in is None else variant.stand_in

    def _without_source(self, variant: Variant, source: Built) -> Built:
        """A variant whose source was refused, is unavailable or failed shares that outcome."""
        if source.failed:
            reason = f"{source.variant}, which it is made from, failed"
            return self._not_built(variant, source, reason, {"failed": True, "log": source.failure_log})
        reason = f"there is no {source.variant} to make it from"
        return self._not_built(variant, source, reason, {"unavailable": source.unavailable})

    def _failure(self, variant: Variant, recipe: Recipe, error: BaseException, doing: str) -> Result:
        """What is known of a conversion or a verification that failed. It is not kept: the next build tries again."""
        log = failures.keep(error, self.store.cache / failures.FOLDER, f"{self.path} {variant.name} {doing}")
        reason = told(error) if isinstance(error, EdgeAssetsError) else f"{doing} failed: {told(error)}"
        return Result(recipe, None, {"failed": True, "log": log}, refused=reason)

    def _not_built(self, variant: Variant, source: Built, reason: str, facts: Mapping[str, Any]) -> Built:
        recipe = Recipe(variant.name, variant.code_version, {"source": source.build.sha256}, {"reason": reason})
        result = Result(recipe, None, facts, refused=reason)
        return Built(variant.name, variant.format, variant.precision, variant.runtime, result, None)

    def variant_recipe(self, variant: Variant, source: Built, others: Mapping[str, Built]) -> Recipe:
        """Everything that decides the variant's bytes: shared by every target with the same parameters."""
        inputs = {"source": source.build.sha256} | {name: other.build.sha256 for name, other in others.items()}
        if variant.calibrated:
            inputs["calibration"] = self.calibration.sha256
        parameters, tools = variant.parameters(self.spec, self.target), variant.tool_versions()
        if variant.searches:
            inputs |= self._evaluation_inputs()
        if variant.trained:
            inputs |= {"training": self.training.sha256} | self._loss_inputs()
        if variant.searches:
            parameters |= self._evaluation_parameters() | {"limits": self._gates()} | self._timing()
        if variant.calibrated or variant.trained:
            parameters["preprocessing"] = self.spec.preprocess.to_dict()
            tools = tools | self._preprocessing_tools()
        if source.variant == CHECKPOINT or variant.takes_architecture:
            return self._recipe(variant.name, variant.code_version, inputs, parameters, tools)
        return Recipe(variant.name, variant.code_version, inputs, parameters, tools)

    def _run(self, variant: Variant, recipe: Recipe, source: Built, others: Mapping[str, Built]) -> Result:
        def build(folder: Path) -> Mapping[str, Any]:
            assert source.artifact is not None
            self.log(f"building {variant.name} from {source.variant}")
            remarks.silence()
            with self.store.kept(recipe) as kept:
                request = BuildRequest(
                    spec=self.spec,
                    parameters=variant.parameters(self.spec, self.target),
                    source=self.store.checkout(source.artifact),
                    calibration=self.saved_feeds(self.calibration) if variant.calibrated else _no_calibration,
                    output=folder,
                    log=print if variant.process else self.log,
                    others={n: self.store.checkout(other.artifact) for n, other in others.items() if other.artifact},
                    trials=self._trials(variant, recipe) if variant.searches else None,
                    training=self.saved_feeds(self.training) if variant.trained else None,
                    kept=kept,
                )
                return variant.call(variant.build, request)

        return self.store.remember(recipe, build)

    def _trials(self, variant: Variant, recipe: Recipe) -> Trials:
        """Trials of a search, kept by what decides their outcome: neither the gates nor the budget do."""
        own = {name: recipe.inputs[name] for name in ("source", "calibration") if name in recipe.inputs}
        inputs = own | self._evaluation_inputs()
        tools = dict(recipe.tools) | installed(RUNTIMES[variant.runtime].distributions, None)

        def remember(parameters: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Result:
            every = self._evaluation_parameters() | {"runtime": variant.runtime, **parameters}
            return self.store.remember(Recipe("trial", "1", inputs, every, tools), build)

        def question(path: Path) -> "Question":
            options = session_options(self.spec, variant.runtime, self.target)
            return self.question(Loadable(variant.runtime, str(path), options), None)

        def time(files: Mapping[str, Path]) -> dict[str, float]:
            options = session_options(self.spec, variant.runtime, self.target)
            contestants = [
                Contestant(name, sha256_of(path), Loadable(variant.runtime, str(path), options))
                for name, path in files.items()
            ]
            rows = self.interleaved(contestants, MODES["rapid"], (1,))
            return {name: row["latency_ms"]["1"]["p50"] for name, row in rows.items()}

        samples = self.evaluation.facts["samples"]
        output = self.spec.outputs[0].name
        return Trials(remember, question, self.limits, samples, output, time if self.is_local else None)

    def question(self, loadable: Loadable, samples: int | None = None) -> "Question":
        """What is asked of a model in a file, on the first `samples` evaluation samples or on all."""
        from edge_assets.core.verify.evaluate import Question

        reference = self._reference()
        assert self.evaluation.artifact is not None and reference.artifact is not None
        return Question(
            loadable=loadable,
            threads=this_machine().cores,
            evaluation=self.store.checkout(self.evaluation.artifact),
            feeds=self.saved_feeds(self.evaluation),
            reference=self.store.checkout(reference.artifact),
            metric=self.spec.evaluation.metric,
            labels=self.spec.evaluation.labels,
            higher_is_better=self.spec.evaluation.higher_is_better,
            samples=samples,
        )

    def _evidence(self, variant: Variant, name: str, built: Result) -> Result:
        """The verification, or how it failed."""
        try:
            return self._verify(variant, name, built)
        except NOT_THE_VARIANTS:
            raise
        except (Exception, SystemExit) as error:  # a runtime can raise anything
            inputs = {"artifact": built.sha256}
            return self._failure(variant, Recipe("verification", "2", inputs), error, "verification")

    def _verify(self, variant: Variant, name: str, built: Result) -> Result:
        # what a stand-in opens may be the same in several artifacts: it is verified once
        opened = built.facts.get("stand_in_sha256") if name == variant.stand_in else None
        inputs = {"artifact": opened or built.sha256} | self._evaluation_inputs()
        runtime = RUNTIMES[name]
        # the target's options are for its own engine: another one here computes the same whatever they say
        session = (self.session(name) if runtime.is_the_targets else {}) | build_session(name, built)
        parameters = self._evaluation_parameters() | {"runtime": runtime.evidence_of or name, "session": session}
        parameters["system"] = sys.platform  # what cannot run on Linux may run on a Mac that shares the store
        samples = self.target.options.get("evaluation_samples")
        if samples:
            parameters |= {"samples": samples}
        tools = installed(runtime.distributions, runtime.extra) | self._preprocessing_tools()
        recipe = Recipe("verification", "2", inputs, parameters, tools)

        def build(_folder: Path) -> Mapping[str, Any]:
            from edge_assets.core.verify.evaluate import evaluate

            count = min(self.evaluation.facts["samples"], samples or self.evaluation.facts["samples"])
            self.log(f"verifying {variant.name} on {count} samples")
            return variant.call(evaluate, self.question(self.loadable(name, built), samples))

        return self.store.remember(recipe, build)

    def session(self, runtime: str) -> dict[str, Any]:
        """What of the target's options a runtime's sessions are opened with."""
        return {name: self.target.options[name] for name in RUNTIMES[runtime].target_options}

    def loadable(self, runtime: str, built: Result) -> Loadable:
        """How to open a built artifact, in this process or another."""
        assert built.artifact is not None
        options = session_options(self.spec, runtime, self.target) | build_session(runtime, built)
        return Loadable(runtime, str(self.store.checkout(built.artifact)), options)

    # --- measurement -------------------------------------------------------------------------------------

    def measure(self, builts: Mapping[str, Built], mode: str) -> Result:
        """Peak memory of every built variant and, if this machine is the target, its latency.

        A measurement in a longer mode than asked for is reused. All variants are measured together, so a new
        variant measures all of them again: timings of different sessions are not comparable. One whose process dies,
        hangs or raises is named in the fact `failed`, with its reason, and the others are measured without it.
        """
        measured, failed = dict(builts), {}
        while True:
            try:
                result = self._measured(measured, mode)
            except MeasurementError as error:
                failures.keep(error, self.store.cache / failures.FOLDER, f"{self.path} {error.variant} measurement")
                self.log(f"{error.variant} failed: {error.message}")
                failed[error.variant] = shortened(error.message)
                measured.pop(error.variant)
            else:
                return replace(result, facts={**result.facts, "failed": failed}) if failed else result

    def _measured(self, builts: Mapping[str, Built], mode: str) -> Result:
        longer = list(MODES)[list(MODES).index(mode) :]
        recipes = [self._measurement_recipe(builts, name) for name in longer] if self.is_local else []
        for recipe in recipes[1:]:
            if (result := self.store.recall(recipe)) is not None:
                return result
        recipe = recipes[0] if recipes else self._measurement_recipe(builts, None)
        return self.store.remember(
            recipe, lambda folder: self._measure(builts, mode if self.is_local else None, folder)
        )

    def _measurement_recipe(self, builts: Mapping[str, Built], mode: str | None) -> Recipe:
        contestants = self._contestants(builts)
        inputs = {name: built.build.sha256 for name, built in contestants.items()}
        parameters = {
            "mode": mode,
            "batch_sizes": list(self.target.batch_sizes) if mode else [1],
            "threads": self._threads(),
            "runtimes": {name: [built.runtime, self.session(built.runtime)] for name, built in contestants.items()},
            "machine": _machine_digest(),
        }
        return Recipe(
            "measurement", "1", inputs | {"evaluation": self.evaluation.sha256}, parameters, _versions(contestants)
        )

    def _measure(self, builts: Mapping[str, Built], mode: str | None, folder: Path) -> Mapping[str, Any]:
        import json
        import platform
        import time

        contestants = [
            Contestant(name, built.build.sha256, self._timed(name, built))
            for name, built in self._contestants(builts).items()
        ]
        rows = self.interleaved(contestants, MODES[mode] if mode else None, self.target.batch_sizes)
        facts = {
            "mode": mode,
            "threads": self._threads(),
            "machine": this_machine().to_dict(),
            "versions": _versions(self._contestants(builts)) | {"python": platform.python_version()},
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        (folder / "measurement.json").write_text(json.dumps(facts | {"rows": rows}, indent=1))
        return facts

    def interleaved(
        self, contestants: Sequence[Contestant], mode: Mode | None, batch_sizes: Sequence[int]
    ) -> dict[str, Any]:
        """The harness's rows of contestants on evaluation samples; one such measurement at a time on a machine."""
        from filelock import FileLock, Timeout

        samples = max(MEASUREMENT_SAMPLES, *batch_sizes)
        feeds = {n: array.take(range(samples), axis=0, mode="wrap") for n, array in self.feeds(self.evaluation).items()}
        lock = FileLock(self.store.cache / "measuring.lock")  # two measurements at once would disturb each other
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self.log("waiting for another measurement on this machine")
            lock.acquire()
        try:
            return measure(contestants, feeds, mode, batch_sizes, self._threads(), self.log)
        finally:
            lock.release()

    def _contestants(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        """Those whose runtime here is the one on the target: a measurement of any other would say nothing."""
        return {
            name: built
            for name, built in builts.items()
            if built.artifact
            and not built.unverified  # what cannot be opened cannot be measured
            and name not in self.family.intermediates
            and RUNTIMES[built.runtime].is_the_targets
            and (name != CHECKPOINT or self._has_baseline())
        }

    def _has_baseline(self) -> bool:
        """Whether PyTorch eager can run on the target's own device here; off the target its memory is the host's."""
        if not self.is_local or self.family.baseline_device == "cpu":
            return True
        import torch

        return torch.cuda.is_available()

    def _timed(self, name: str, built: Built) -> Loadable:
        """How a contestant is opened for measurement: the baseline on the target's own device."""
        loadable = self.loadable(built.runtime, built.build)
        if name != CHECKPOINT or not self.is_local:
            return loadable
        return replace(loadable, options={**loadable.options, "device": self.family.baseline_device})

    def _threads(self) -> int:
        return min(self.target.threads, this_machine().cores)

    # --- shared recipe parts -----------------------------------------------------------------------------

    def _recipe(
        self,
        step: str,
        code_version: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, Any] | None = None,
        tools: Mapping[str, str] | None = None,
    ) -> Recipe:
        """A recipe of a step that runs the user's architecture in PyTorch."""
        architecture = {"architecture": source_digest(self.spec.architecture)}
        named = {"architecture": self.spec.architecture, "inputs": [t.name for t in self.spec.inputs]}
        return Recipe(
            step,
            code_version,
            {**inputs, **architecture},
            {**named, **(parameters or {})},
            {"torch": version("torch"), **(tools or {})},
        )

    def _timing(self) -> dict[str, str]:
        """The machine, where a search chooses by the latency that is measured on it."""
        chooses = self.is_local and self.spec.search and self.spec.search.objective == "latency"
        return {"machine": _machine_digest()} if chooses else {}

    def _gates(self) -> list[float | None]:
        return [self.limits.accuracy_drop_points, self.limits.cosine]

    def _evaluation_inputs(self) -> dict[str, str]:
        inputs = {"reference": self._reference().sha256, "evaluation": self.evaluation.sha256}
        return inputs | self._metric_inputs()

    def _preprocessing_tools(self) -> dict[str, str]:
        """Versions of what the preprocessing imports. Raises MissingTool naming the extra."""
        return installed(self.spec.preprocess.tools, "text")

    def _metric_inputs(self) -> dict[str, str]:
        name = self.spec.evaluation.metric
        return {"metric": source_digest(name)} if ":" in name else {}

    def _loss_inputs(self) -> dict[str, str]:
        assert self.spec.finetuning is not None
        name = self.spec.finetuning.loss
        return {"loss": source_digest(name)} if ":" in name else {}

    def _evaluation_parameters(self) -> dict[str, Any]:
        evaluation = self.spec.evaluation
        return {
            "preprocessing": self.spec.preprocess.to_dict(),
            "metric": evaluation.metric,
            "labels": evaluation.labels,
            "higher_is_better": evaluation.higher_is_better,
            "outputs": [tensor.name for tensor in self.spec.outputs],
        }


def _machine_digest() -> str:
    machine = this_machine()
    return digest([machine.cpu, machine.cores, machine.instruction_sets, machine.memory_bytes, *machine.gpus])


def _no_calibration() -> Feeds:
    raise AssertionError("only variants with calibrated=True get calibration data")


def _versions(builts: Mapping[str, Built]) -> dict[str, str]:
    runtimes = (RUNTIMES[built.runtime] for built in builts.values())
    names = {"numpy", *(name for runtime in runtimes for name in runtime.distributions)}
    return installed(tuple(sorted(names)), None)
