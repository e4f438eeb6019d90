"""A checkpoint's network in PyTorch: loaded, asked whether it is a reference, and what it gives in other sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.arranged import ArrangedSession
from edge_assets.core.checkpoint import Loaded, load, shown
from edge_assets.core.datasets.npz import NpzWriter
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
from edge_assets.later import np
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

SEQUENCES = 64  # of the calibration data, that PyTorch eager runs at once


class SharedNetwork:
    """A checkpoint's network for several steps: read when the first of them asks for it, and then not again.

    It is in memory as long as this object is.
    """

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The network. Raises CheckpointError."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def forget(self) -> None:
        """Read it anew when it is asked for again."""
        self._loaded = None


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

    def shared(self) -> SharedNetwork:
        """The architecture with the checkpoint's weights, read when it is asked for."""
        return SharedNetwork(self._load)

    def _load(self) -> Loaded:
        """Raises CheckpointError. Of a plain file without the weights beside the model, which has a copy of them."""
        spec, path = self.cell.spec, self.fetched()
        with self.told_of_the_checkpoint(path):
            loaded = load(spec.architecture, path, spec.weights, spec.flush_subnormals)
        if loaded.is_plain:
            return replace(loaded, weights={})
        return loaded

    def eager(self, model: torch.nn.Module) -> Session:
        """The model in PyTorch eager: takes and gives samples."""
        from edge_assets.toolchains.pytorch.eager import session_of

        spec = self.cell.spec
        inputs = [tensor.name for tensor in spec.inputs]
        session = session_of(model, inputs, [tensor.name for tensor in spec.outputs])
        layout = layout_of(spec)
        return ArrangedSession(session, layout) if layout else session

    def _few_samples(self) -> Feeds:
        """The model's inputs for the first evaluation samples."""
        return self.data.first_feeds(self.data.evaluation, PARITY_SAMPLES)

    def check_soundness(self, shared: SharedNetwork) -> None:
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

            model = shared.loaded.model
            soundness.check(model, self.eager(model), self._few_samples())
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

    def sized(self, shared: SharedNetwork | None = None) -> Result | None:
        """What `sizes` reads, by `shared` where it is not known yet; None for a model whose batch alone is dynamic."""
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
            opened = shared or self.shared()
            session = self.eager(opened.loaded.model)
            few = self._few_samples()
            before = session.run(few)
            found = resized_samples(session, spec, few)
            if not _alike(before, session.run(few)):
                opened.forget()  # a table that grew with the sizes, say: the reference has not seen them
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
            session = session_of(self._load().model, [tensor.name for tensor in spec.inputs], outputs)
            writer = NpzWriter(folder / "calibration.npz")
            for feeds in self.data.saved_feeds(self.data.calibration).in_batches(SEQUENCES):
                for taken in inputs_by_step(session, feeds, layout):
                    writer.add(taken)
            writer.close({})
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


def _alike(one: Feeds, other: Feeds) -> bool:
    """Whether the same outputs are the same bit for bit; NaN is like NaN."""
    return all(np.array_equal(array, other[name], equal_nan=True) for name, array in one.items())
