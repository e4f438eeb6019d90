"""The checkpoint, and what PyTorch eager in fp32 gives for the evaluation data: what everything is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_assets.core.checkpoint import save_plain, shown
from edge_assets.core.evidence import Verified
from edge_assets.core.layout import Stream
from edge_assets.core.metrics.registry import measure_of
from edge_assets.core.progress import Progress
from edge_assets.core.runtimes import build_session
from edge_assets.core.session import SavedFeeds, Session, layout_of
from edge_assets.core.shapes import record
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
from edge_assets.errors import CheckpointError
from edge_assets.later import np
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.network import Network, SharedNetwork
from edge_assets.pipeline.recipes import Recipes
from edge_assets.spec.model import PARITY_SAMPLES
from edge_assets.targets import usable_cores


@dataclass(frozen=True)
class Reference:
    """The checkpoint and its outputs."""

    cell: Identity
    data: Datasets
    recipes: Recipes
    network: Network

    def build(self) -> Built:
        """Validate the checkpoint and record what PyTorch eager in fp32 gives for the whole evaluation set."""
        self.data.check()
        shared = self.network.shared()
        self.network.check_soundness(shared)
        self.network.sized(shared)
        reference = self.outputs(shared)
        self._check_signature(reference)
        self._check_values(reference.said(Verified))
        inputs = {"file": self.cell.checkpoint.file.sha256}
        recipe = self.recipes.of_architecture("checkpoint", "1", inputs, self.recipes.weights())
        return Built(
            variant=CHECKPOINT,
            format="pytorch",
            precision="fp32",
            runtime="pytorch",
            build=self.cell.store.remember(recipe, partial(self._validate, shared), partial(build_session, "pytorch")),
            evidence=reference,
        )

    def _validate(self, shared: SharedNetwork, folder: Path) -> Mapping[str, object]:
        import shutil

        from edge_assets.toolchains.pytorch import eager as pytorch

        spec, path = self.cell.spec, self.network.fetched()
        loaded = shared.loaded
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

    def outputs(self, shared: SharedNetwork | None = None) -> Result:
        """The reference's outputs and scores for the whole evaluation set, by `shared` where they are not known yet.

        Raises CheckpointError.
        """
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
            return record(self._evaluate(shared or self.network.shared(), folder / "reference.npz"))

        return self.cell.store.remember(recipe, build)

    def _evaluate(self, shared: SharedNetwork, file: Path) -> Verified:
        """Outputs and scores for the whole evaluation set, written to `file`, compared with themselves."""
        import torch

        spec, path = self.cell.spec, self.network.fetched()
        self.cell.log("evaluating PyTorch eager in fp32, the reference")
        feeds = self.data.saved_feeds(self.data.evaluation)
        writer = ReferenceWriter(file)
        session = self.network.eager(shared.loaded.model)
        torch.set_num_threads(usable_cores())
        with self.network.told_of_the_checkpoint(path):
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

    def inputs(self) -> dict[str, str]:
        """What a step has in its recipe that compares with the reference."""
        inputs = {
            "reference": self.outputs().sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        sizes = self.network.sized()
        if sizes is not None:
            inputs["sizes"] = sizes.sha256
        return inputs | self.recipes.metric_inputs()
