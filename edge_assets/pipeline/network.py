"""A checkpoint's network in PyTorch: loaded, asked whether it is a reference, and what it gives in other sizes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.arranged import ArrangedSession
from edge_assets.core.checkpoint import shown
from edge_assets.core.datasets.npz import save_arrays
from edge_assets.core.session import (
    Feeds,
    SavedFeeds,
    Session,
    inputs_by_step,
    layout_of,
)
from edge_assets.core.shapes import read
from edge_assets.core.types import Result
from edge_assets.core.verify.sizes import ResizedCases, SavedSizes, resized_samples, save
from edge_assets.errors import CheckpointError, printable
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.recipes import Recipes
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import PARITY_SAMPLES
from edge_assets.spec.preprocess import Passthrough
from edge_assets.spec.project import checkpoint_folder
from resources import checkpoints

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """The architecture with the checkpoint's weights, in PyTorch eager."""

    cell: Identity
    data: Datasets
    recipes: Recipes

    def fetched(self) -> Path:
        """The checkpoint's file on this machine."""
        cell = self.cell
        return checkpoints.fetch(cell.store, cell.checkpoint, checkpoint_folder(cell.spec))

    @contextmanager
    def told_of_the_checkpoint(self, path: Path) -> Iterator[None]:
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

    def _model(self, path: Path) -> "torch.nn.Module":
        """The architecture with the checkpoint's weights. Raises CheckpointError."""
        from edge_assets.core.checkpoint import load_model

        with self.told_of_the_checkpoint(path):
            return load_model(self.cell.spec.architecture, path, self.cell.spec.weights)

    def _eager(self, model: "torch.nn.Module") -> Session:
        """The model in PyTorch eager."""
        from edge_assets.toolchains.pytorch.eager import session_of

        spec = self.cell.spec
        inputs = [tensor.name for tensor in spec.inputs]
        session = session_of(model, inputs, [tensor.name for tensor in spec.outputs])
        layout = layout_of(spec)
        return ArrangedSession(session, layout) if layout else session

    def _few_samples(self) -> Feeds:
        """The model's inputs for the first evaluation samples."""
        return self.data.first_feeds(self.data.evaluation, PARITY_SAMPLES)

    def check_soundness(self) -> None:
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

            model = self._model(self.fetched())
            soundness.check(model, self._eager(model), self._few_samples())
            return {}

        self.cell.store.remember(recipe, build)

    def sizes(self) -> SavedSizes | None:
        """What PyTorch eager gives where a dynamic axis has other sizes than in the data.

        None for a model whose batch alone is dynamic. Raises ReferenceFault for an axis that it takes at one size only.
        """
        result = self.sized()
        if result is None or result.artifact is None:
            return None
        cases = read(ResizedCases, result.facts).cases
        return SavedSizes(self.cell.store.checkout(result.artifact), cases)

    def sized(self) -> Result | None:
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
            session = self._eager(self._model(self.fetched()))
            found = resized_samples(session, spec, self._few_samples())
            if found:
                save(found, folder / "sizes.npz")
            return {"cases": [[case.axis, case.size, case.was] for case in found]}

        return self.cell.store.remember(recipe, build)

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
            session = session_of(self._model(self.fetched()), [tensor.name for tensor in spec.inputs], outputs)
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
