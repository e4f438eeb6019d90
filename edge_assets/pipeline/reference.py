"""The checkpoint, and what PyTorch eager in fp32 gives for the evaluation data: what everything is compared with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.core import data
from edge_assets.core.checkpoint import shown
from edge_assets.core.evidence import Verified
from edge_assets.core.layout import Stream
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
from edge_assets.core.verify.sizes import ResizedCases, SavedSizes, resized_samples, save
from edge_assets.errors import CheckpointError, printable
from edge_assets.pipeline.datasets import Datasets, count
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.recipes import Recipes
from edge_assets.spec.model import PARITY_SAMPLES
from edge_assets.spec.preprocess import Passthrough
from edge_assets.spec.project import checkpoint_folder
from edge_assets.spec.source import source_digest
from edge_assets.targets import this_machine
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
        inputs = {"file": self.cell.checkpoint.file.sha256}
        recipe = self.recipes.of_architecture("checkpoint", "1", inputs)
        return Built(
            variant=CHECKPOINT,
            format="pytorch",
            precision="fp32",
            runtime="pytorch",
            build=self.cell.store.remember(recipe, self._validate),
            evidence=reference,
        )

    def _check_soundness(self) -> None:
        """The model is a reference at all. Raises CheckpointError or ReferenceFault, before anything slow."""
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "evaluation": self.data.evaluation.sha256,
        }
        parameters: dict[str, object] = {"preprocessing": self.cell.spec.preprocess.to_dict()}
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
            return load_model(self.cell.spec.architecture, path)

    def _few_samples(self) -> Feeds:
        """The model's inputs for the first evaluation samples."""
        raw = self.data.arrays(self.data.evaluation)
        few = {name: array[:PARITY_SAMPLES] for name, array in raw.items()}
        return self.cell.spec.preprocess.apply(few)

    def _validate(self, folder: Path) -> Mapping[str, object]:
        import shutil

        from edge_assets.toolchains.pytorch import eager as pytorch

        spec, path = self.cell.spec, self._fetched()
        model = self._model(path)
        feeds = self.data.feeds(self.data.evaluation)
        one = {name: array[:1] for name, array in feeds.items()}
        layout = layout_of(spec)
        if layout:
            one = Stream(layout).next(one)
        shutil.copyfile(path, folder / path.name)
        return pytorch.describe(model, one, [tensor.name for tensor in spec.inputs])

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
        parameters = self.recipes.evaluation_parameters()
        scores_name = accuracy.scores_name(tensor.name for tensor in self.cell.spec.outputs)
        if scores_name != "scores":
            parameters["scores"] = scores_name
        inputs |= self.recipes.metric_inputs()
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("reference", "1", inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            return record(self._evaluate(folder / "reference.npz", scores_name))

        return self.cell.store.remember(recipe, build)

    def _evaluate(self, file: Path, scores_name: str) -> Verified:
        """Outputs and scores for the whole evaluation set, written to `file`, compared with themselves."""
        from edge_assets.toolchains.pytorch import eager as pytorch

        spec, path = self.cell.spec, self._fetched()
        evaluation = spec.evaluation
        self.cell.log("evaluating PyTorch eager in fp32, the reference")
        options = session_options(spec, "pytorch", self.cell.target)
        feeds = self.data.feeds(self.data.evaluation)
        labels = self.data.arrays(self.data.evaluation)[evaluation.labels]
        with self._told_of_the_checkpoint(path):
            session = Loadable("pytorch", str(path), options).open(this_machine().cores)
            outputs = accuracy.run_all(session, feeds)
            broken = [name for name, array in outputs.items() if not np.isfinite(array).all()]
            if broken:
                names = ", ".join(broken)
                raise CheckpointError(f"checkpoint {shown(path)} gives NaN or infinite values in {names}")
        pytorch.check_outputs(outputs, spec, len(labels))
        scores = accuracy.score(evaluation.metric, outputs, labels)
        data.save_arrays(outputs | {scores_name: scores}, file)
        first = {name: array[:PARITY_SAMPLES] for name, array in outputs.items()}
        return Verified(
            accuracy=accuracy.compare(scores, scores, evaluation.higher_is_better),
            parity=parity.measure(session, feeds, first),
        )

    def calibration(self) -> Result:
        """The calibration data; of a model with states, its inputs in every step, as PyTorch eager comes to them."""
        layout = layout_of(self.cell.spec)
        if layout is None or not layout["states"]:
            return self.data.calibration
        inputs = {
            "checkpoint": self.cell.checkpoint.file.sha256,
            "calibration": self.data.calibration.sha256,
        }
        parameters: dict[str, object] = {"preprocessing": self.cell.spec.preprocess.to_dict()}
        tools = self.recipes.preprocessing_tools()
        recipe = self.recipes.of_architecture("calibration_steps", "1", inputs, parameters, tools)

        def build(folder: Path) -> Mapping[str, object]:
            from edge_assets.toolchains.pytorch.eager import session_of

            spec = self.cell.spec
            outputs = [tensor.name for tensor in spec.outputs]
            session = session_of(self._model(self._fetched()), [tensor.name for tensor in spec.inputs], outputs)
            feeds = self.data.feeds(self.data.calibration)
            data.save_arrays(inputs_by_step(session, feeds, layout), folder / "calibration.npz")
            return {}

        return self.cell.store.remember(recipe, build)

    def calibration_feeds(self) -> SavedFeeds:
        """What variants calibrate with: the model's inputs, which know how it takes them."""
        layout = layout_of(self.cell.spec)
        saved = self.data.saved_feeds(self.calibration())
        if layout is None:
            return saved
        if not layout["states"]:
            return replace(saved, layout=layout)
        names = tuple(tensor.name for tensor in self.cell.spec.inputs)
        return SavedFeeds(saved.path, Passthrough(names), layout | {"states": {}})

    def scores(self) -> np.ndarray:
        """The reference's scores, one per evaluation sample; float64 [n]."""
        names = [tensor.name for tensor in self.cell.spec.outputs]
        return self.data.arrays(self.outputs())[accuracy.scores_name(names)]

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

            samples = count(self.data.evaluation)
            pytorch.check_outputs(self.data.arrays(reference), self.cell.spec, samples)
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
            architecture = source_digest(self.cell.spec.architecture)
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
