"""A cell's data sets: kept once as artifacts, checked before anything slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_assets.core import data
from edge_assets.core.evidence import Samples
from edge_assets.core.session import Feeds, SavedFeeds
from edge_assets.core.types import Recipe, Result
from edge_assets.hashing import sha256_of
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.recipes import Recipes
from edge_assets.spec.model import Dataset
from edge_assets.spec.project import project_path
from edge_assets.spec.source import source_digest


@dataclass(frozen=True)
class Datasets:
    """Calibration, evaluation and fine-tuning data."""

    cell: Identity
    recipes: Recipes

    @cached_property
    def calibration(self) -> Result:
        """The calibration data as an artifact."""
        return self._dataset(self.cell.spec.calibration.data, "calibration")

    @cached_property
    def evaluation(self) -> Result:
        """The evaluation data as an artifact."""
        return self._dataset(self.cell.spec.evaluation.data, "evaluation")

    @cached_property
    def training(self) -> Result:
        """The fine-tuning data as an artifact."""
        assert self.cell.spec.finetuning is not None
        return self._dataset(self.cell.spec.finetuning.data, "training")

    def _dataset(self, dataset: Dataset, what: str) -> Result:
        files = {path: sha256_of(project_path(path)) for path in dataset.files}
        inputs = {"loader": source_digest(dataset.load), **files}
        recipe = Recipe(f"{what}_data", "1", inputs, {"load": dataset.load, "version": dataset.version})

        def build(folder: Path) -> Mapping[str, object]:
            self.cell.log(f"loading {what} data")
            arrays = data.load_arrays(dataset.load, what)
            data.save_arrays(arrays, folder / f"{what}.npz")
            return {"samples": len(next(iter(arrays.values())))}

        return self.cell.store.remember(recipe, build)

    def arrays(self, result: Result) -> data.Arrays:
        """The arrays of a data artifact."""
        assert result.artifact is not None
        return data.read_arrays(self.cell.store.checkout(result.artifact))

    def saved_feeds(self, result: Result) -> SavedFeeds:
        """A data artifact as the model's inputs, read when called."""
        assert result.artifact is not None
        return SavedFeeds(self.cell.store.checkout(result.artifact), self.cell.spec.preprocess)

    def feeds(self, result: Result) -> Feeds:
        """A data artifact, preprocessed: the model's inputs."""
        return self.saved_feeds(result)()

    def check(self) -> Result:
        """Refuse data that cannot give a trustworthy result, before any slow work. Raises DataError."""
        spec, calibration, evaluation = self.cell.spec, self.calibration, self.evaluation
        parameters: dict[str, object] = {
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

        def build(_folder: Path) -> Mapping[str, object]:
            cal, test = self.arrays(calibration), self.arrays(evaluation)
            data.check_samples(cal, spec.preprocess, spec.inputs, spec.calibration.minimum, "calibration")
            data.check_samples(test, spec.preprocess, spec.inputs, spec.evaluation.minimum, "evaluation")
            data.check_labels(test, spec.evaluation.labels, spec.outputs, spec.evaluation.metric)
            data.check_disjoint(cal, test, spec.preprocess)
            facts = {
                "calibration_samples": count(calibration),
                "evaluation_samples": count(evaluation),
            }
            if recipe is None:
                return facts
            train = self.arrays(self.training)
            data.check_samples(train, spec.preprocess, spec.inputs, 2 * recipe.batch_size, "training")
            data.check_training_labels(train, recipe.labels, spec.outputs, spec.trains_classifier)
            data.check_disjoint(train, test, spec.preprocess, "training")
            return facts | {"training_samples": count(self.training)}

        return self.cell.store.remember(
            Recipe("data_check", "1", inputs, parameters, self.recipes.preprocessing_tools()), build
        )


def count(result: Result) -> int:
    """How many samples a data artifact has."""
    return result.said(Samples).samples
