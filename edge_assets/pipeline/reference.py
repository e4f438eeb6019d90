"""The checkpoint, and what PyTorch eager in fp32 gives for the evaluation data: what everything is compared with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.core.checkpoint import shown
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.evidence import Verified
from edge_assets.core.layout import Stream
from edge_assets.core.metrics.registry import measure_of
from edge_assets.core.progress import Progress
from edge_assets.core.runtimes import build_session
from edge_assets.core.session import (
    ArrangedSession,
    Feeds,
    Loadable,
    SavedFeeds,
    Session,
    inputs_by_step,
    layout_of,
    session_options,
)
from edge_assets.core.shapes import read, record
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import accuracy, parity
from edge_assets.core.verify.evaluate import most_output_bytes, run
from edge_assets.core.verify.reference import ReferenceOutputs, ReferenceWriter, statistics_names
from edge_assets.core.verify.scoring import (
    Probes,
    Scoring,
    demand_above_zero,
    demand_says_something,
    metrics_of,
    probes,
)
from edge_assets.core.verify.sizes import ResizedCases, SavedSizes, resized_samples, save
from edge_assets.errors import CheckpointError, printable
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.recipes import Recipes
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import PARITY_SAMPLES
from edge_assets.spec.preprocess import Passthrough
from edge_assets.spec.project import checkpoint_folder
from edge_assets.targets import usable_cores
from resources import checkpoints

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reference:
    """The checkpoint and its outputs."""

    cell: Identity
    data: Datasets
    recipes: Recipes

    def build(self) -> Built:
        """Validate the checkpoint and record what PyTorch eager in fp32 gives for the whole evaluation set."""
        self.data.check()
        self._check_soundness()
        self._sizes()
        reference = self.outputs()
        self._check_signature(reference)
        self._check_values(reference.said(Verified))
        inputs = {"file": self.cell.checkpoint.file.sha256}
        recipe = self.recipes.of_architecture("checkpoint", "1", inputs, self.recipes.weights())
        return Built(
            variant=CHECKPOINT,
            format="pytorch",
            precision="fp32",
            runtime="pytorch",
            build=self.cell.store.remember(recipe, self._validate, partial(build_session, "pytorch")),
            evidence=reference,
        )

    def _check_soundness(self) -> None:
        """The model is a reference at all. Raises CheckpointError or ReferenceFault, before anything slow."""
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        parameters = {"preprocessing": self.cell.spec.preprocess.to_dict()} | self.recipes.weights()
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("soundness", "1", inputs, parameters, tools)

        def build(_folder: Path) -> Mapping[str, object]:
            from edge_assets.toolchains.pytorch import soundness

            model = self._model(self._fetched())
            soundness.check(model, self._eager(model), self._few_samples())
            return {}

        self.cell.store.remember(recipe, build)

    def _eager(self, model: "torch.nn.Module") -> Session:
        """The model in PyTorch eager."""
        from edge_assets.toolchains.pytorch.eager import session_of

        spec = self.cell.spec
        inputs = [tensor.name for tensor in spec.inputs]
        session = session_of(model, inputs, [tensor.name for tensor in spec.outputs])
        layout = layout_of(spec)
        return ArrangedSession(session, layout) if layout else session

    def sizes(self) -> SavedSizes | None:
        """What PyTorch eager gives where a dynamic axis has other sizes than in the data.

        None for a model whose batch alone is dynamic. Raises ReferenceFault for an axis that it takes at one size only.
        """
        result = self._sizes()
        if result is None or result.artifact is None:
            return None
        cases = read(ResizedCases, result.facts).cases
        return SavedSizes(self.cell.store.checkout(result.artifact), cases)

    def _sizes(self) -> Result | None:
        spec = self.cell.spec
        if not spec.dynamic_axes:
            return None
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        ranges = {axis: list(spec.axis_range(axis)) for axis in sorted(spec.dynamic_axes)}
        parameters: dict[str, object] = {
            "preprocessing": spec.preprocess.to_dict(),
            "shapes": [[tensor.name, list(tensor.shape)] for tensor in spec.inputs],
            "outputs": [tensor.name for tensor in spec.outputs],
            "ranges": ranges,
        }
        parameters |= self.recipes.weights()
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("sizes", "1", inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            session = self._eager(self._model(self._fetched()))
            found = resized_samples(session, spec, self._few_samples())
            if found:
                save(found, folder / "sizes.npz")
            return {"cases": [[case.axis, case.size, case.was] for case in found]}

        return self.cell.store.remember(recipe, build)

    def _model(self, path: Path) -> "torch.nn.Module":
        """The architecture with the checkpoint's weights. Raises CheckpointError."""
        from edge_assets.core.checkpoint import load_model

        with self._told_of_the_checkpoint(path):
            return load_model(self.cell.spec.architecture, path, self.cell.spec.weights)

    def _few_samples(self) -> Feeds:
        """The model's inputs for the first evaluation samples."""
        return self.data.first_feeds(self.data.evaluation, PARITY_SAMPLES)

    def _validate(self, folder: Path) -> Mapping[str, object]:
        import shutil

        from edge_assets.core.checkpoint import load, save_plain
        from edge_assets.toolchains.pytorch import eager as pytorch

        spec, path = self.cell.spec, self._fetched()
        with self._told_of_the_checkpoint(path):
            loaded = load(spec.architecture, path, spec.weights)
        one = self.data.first_feeds(self.data.evaluation, 1)
        layout = layout_of(spec)
        if layout:
            one = Stream(layout).next(one)
        if loaded.is_plain:
            shutil.copyfile(path, folder / path.name)
        else:  # what is made from it need not look for the weights again
            save_plain(loaded.weights, folder / f"{path.stem}.safetensors")
        facts: dict[str, object] = {}
        facts |= pytorch.describe(loaded.model, one, [tensor.name for tensor in spec.inputs])
        if loaded.remarks:
            facts["read"] = "; ".join(loaded.remarks)
            self.cell.log(f"checkpoint {self.cell.checkpoint.key}: {facts['read']}")
        return facts

    def _fetched(self) -> Path:
        """The checkpoint's file on this machine."""
        cell = self.cell
        return checkpoints.fetch(cell.store, cell.checkpoint, checkpoint_folder(cell.spec))

    def outputs(self) -> Result:
        """The reference's outputs and scores for the whole evaluation set. Raises CheckpointError."""
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        parameters = self.recipes.evaluation_parameters() | self.recipes.weights()
        scores_name = accuracy.scores_name(tensor.name for tensor in self.cell.spec.outputs)
        if scores_name != "scores":
            parameters["scores"] = scores_name
        inputs |= self.recipes.metric_inputs()
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("reference", "1", inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            return record(self._evaluate(folder / "reference.npz"))

        return self.cell.store.remember(recipe, build)

    def _evaluate(self, file: Path) -> Verified:
        """Outputs and scores for the whole evaluation set, written to `file`, compared with themselves."""
        spec, path = self.cell.spec, self._fetched()
        self.cell.log("evaluating PyTorch eager in fp32, the reference")
        options = session_options(spec, "pytorch", self.cell.target)
        feeds = self.data.saved_feeds(self.data.evaluation)
        writer = ReferenceWriter(file)
        with self._told_of_the_checkpoint(path):
            session = Loadable("pytorch", str(path), options | self.recipes.weights()).open(usable_cores())
            scoring, found = self._run(session, feeds, writer, path)
        metrics = metrics_of(spec.evaluation)
        statistics = scoring.statistics()
        for metric in metrics:
            demand_says_something(metric, statistics[metric.label], found)
        names = self._statistics_names()
        writer.close({names[label]: array for label, array in statistics.items()})
        values = {}
        for metric in metrics:
            same = statistics[metric.label]
            assert metric.higher_is_better is not None
            values[metric.label] = accuracy.against(measure_of(metric), same, same, metric.higher_is_better)
        outputs = ReferenceOutputs(file, tuple(tensor.name for tensor in spec.outputs))
        return Verified(
            accuracy=values.pop(metrics[0].label),
            parity=parity.measure(session, feeds.first(PARITY_SAMPLES), outputs.rows(0, PARITY_SAMPLES)),
            metrics=values or None,
        )

    def _run(
        self,
        session: Session,
        feeds: SavedFeeds,
        writer: ReferenceWriter,
        path: Path,
    ) -> tuple[Scoring, Probes]:
        """Run the whole evaluation set, a chunk at a time. Raises CheckpointError for outputs that are not finite."""
        from edge_assets.toolchains.pytorch import eager as pytorch

        spec, every = self.cell.spec, count(self.data.evaluation)
        scoring = Scoring(metrics_of(spec.evaluation), most_output_bytes(feeds))
        found = probes(every)
        progress = Progress("evaluating the reference", every, self.cell.log)
        for batch, inputs in feeds.batches():
            outputs = run(session, inputs)
            broken = [name for name, array in outputs.items() if not np.isfinite(array).all()]
            if broken:
                names = ", ".join(broken)
                raise CheckpointError(f"checkpoint {shown(path)} gives NaN or infinite values in {names}")
            pytorch.check_outputs(outputs, spec, batch.stop - batch.start)
            scoring.add(outputs, batch.raw)
            found.add(batch.start, outputs, batch.raw)
            writer.add(outputs)
            progress.at(batch.stop)
        return scoring, found

    def calibration(self) -> Result:
        """The calibration data; of a model with states, its inputs in every step, as PyTorch eager comes to them."""
        layout = layout_of(self.cell.spec)
        if layout is None or not layout["states"]:
            return self.data.calibration
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "calibration": self.data.calibration.sha256,
        }
        parameters = {"preprocessing": self.cell.spec.preprocess.to_dict()} | self.recipes.weights()
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("calibration_steps", "1", inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            from edge_assets.toolchains.pytorch.eager import session_of

            spec = self.cell.spec
            outputs = [tensor.name for tensor in spec.outputs]
            session = session_of(self._model(self._fetched()), [tensor.name for tensor in spec.inputs], outputs)
            feeds = self.data.feeds(self.data.calibration)
            save_arrays(inputs_by_step(session, feeds, layout), folder / "calibration.npz")
            return {}

        return self.cell.store.remember(recipe, build)

    def calibration_feeds(self) -> SavedFeeds:
        """What variants calibrate with: the model's inputs, which know how it takes them."""
        layout = layout_of(self.cell.spec)
        if layout is None:
            return self.data.saved_feeds(self.data.calibration)
        if not layout["states"]:
            return replace(self.data.saved_feeds(self.data.calibration), layout=layout)
        steps = self.calibration()
        assert steps.artifact is not None
        return SavedFeeds(
            path=self.cell.store.checkout(steps.artifact),
            preprocess=Passthrough(tuple(tensor.name for tensor in self.cell.spec.inputs)),
            load=self.cell.spec.calibration.data.load,
            what="calibration",
            layout=layout | {"states": {}},
        )

    def _statistics_names(self) -> dict[str, str]:
        names = [tensor.name for tensor in self.cell.spec.outputs]
        return statistics_names(metrics_of(self.cell.spec.evaluation), names)

    def kept_outputs(self) -> ReferenceOutputs:
        """The reference's outputs and what its metrics keep, read from the store."""
        reference = self.outputs()
        assert reference.artifact is not None
        names = tuple(tensor.name for tensor in self.cell.spec.outputs)
        return ReferenceOutputs(self.cell.store.checkout(reference.artifact), names)

    def statistics(self) -> np.ndarray:
        """What the metric that decides keeps of the reference: its scores, one per evaluation sample, or [n, ...]."""
        name = self._statistics_names()[self.cell.spec.evaluation.deciding.label]
        return self.kept_outputs().statistics(name)

    def _check_values(self, verified: Verified) -> None:
        """No metric is 0, also where the reference was evaluated before that was looked at. Raises DataError."""
        deciding, *others = metrics_of(self.cell.spec.evaluation)
        demand_above_zero(deciding, verified.accuracy.value, verified.accuracy.samples)
        for metric in others:
            found = (verified.metrics or {})[metric.label]
            demand_above_zero(metric, found.value, found.samples)

    def _check_signature(self, reference: Result) -> None:
        """The outputs are as the spec declares them, also where they were computed for an earlier spec."""
        declared = [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in self.cell.spec.outputs]
        recipe = Recipe(
            step="signature",
            code_version="1",
            inputs={"reference": reference.sha256},
            parameters={"outputs": declared} | self.recipes.layout(),
        )

        def build(_folder: Path) -> Mapping[str, object]:
            from edge_assets.toolchains.pytorch import eager as pytorch

            first = self.kept_outputs().rows(0, PARITY_SAMPLES)
            pytorch.check_outputs(first, self.cell.spec, PARITY_SAMPLES)
            return {}

        self.cell.store.remember(recipe, build)

    @contextmanager
    def _told_of_the_checkpoint(self, path: Path) -> Iterator[None]:
        """What is wrong with the file is said of the checkpoint, and remembered: it is not taken for the newest."""
        try:
            yield
        except CheckpointError as error:
            checkpoint = self.cell.checkpoint
            name = f"checkpoint {checkpoint.key} ({printable(checkpoint.source, 200)})"
            reason = str(error).replace(f"checkpoint {shown(path)}", name)
            architecture = fitting_digest(self.cell.spec)
            checkpoints.mark_unfit(self.cell.store, checkpoint, architecture, reason)
            raise CheckpointError(reason) from None

    def inputs(self) -> dict[str, str]:
        """What a step has in its recipe that compares with the reference."""
        inputs = {
            "reference": self.outputs().sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        sizes = self._sizes()
        if sizes is not None:
            inputs["sizes"] = sizes.sha256
        return inputs | self.recipes.metric_inputs()
