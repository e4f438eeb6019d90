"""A cell's data sets: kept once as artifacts, checked before anything slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_assets.core import data
from edge_assets.core.datasets.contents import content_digest
from edge_assets.core.datasets.kept import Kept, first, keep_stream
from edge_assets.core.datasets.npz import Arrays, save_arrays
from edge_assets.core.evidence import Samples
from edge_assets.core.layout import Stream
from edge_assets.core.session import Feeds, SavedFeeds, layout_of
from edge_assets.core.types import Recipe, Result
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
        notes = self.cell.store.cache / "contents"
        files = {path: content_digest(project_path(path), notes) for path in dataset.files}
        inputs = {"loader": source_digest(dataset.load), **files}
        recipe = Recipe(
            step=f"{what}_data",
            code_version="1",
            inputs=inputs,
            parameters={"load": dataset.load, "version": dataset.version},
        )

        def build(folder: Path) -> Mapping[str, object]:
            self.cell.log(f"loading {what} data")
            loaded = data.load(dataset.load, what)
            if not isinstance(loaded, dict):
                where = f"{what} data: {dataset.load}"
                return {"samples": keep_stream(loaded, folder, where, self.cell.log)}
            save_arrays(loaded, folder / f"{what}.npz")
            return {"samples": len(next(iter(loaded.values())))}

        return self.cell.store.remember(recipe, build)

    def arrays(self, result: Result) -> Arrays:
        """All arrays of a data artifact at once. Raises DataError where they stream and are too large for that."""
        return self.saved_feeds(result).raw()

    def kept(self, result: Result) -> Kept:
        """A data artifact's samples, read some at a time."""
        return self.saved_feeds(result).kept

    def first(self, result: Result, count: int) -> Arrays:
        """The first `count` samples of a data artifact, raw."""
        return first(self.kept(result), count)

    def saved_feeds(self, result: Result) -> SavedFeeds:
        """A data artifact as the model's inputs, read when called."""
        assert result.artifact is not None
        return SavedFeeds(
            path=self.cell.store.checkout(result.artifact),
            preprocess=self.cell.spec.preprocess,
            load=str(result.recipe.parameters["load"]),
            what=result.recipe.step.removesuffix("_data"),
        )

    def feeds(self, result: Result) -> Feeds:
        """All of a data artifact, preprocessed. Raises DataError as `arrays`."""
        return self.saved_feeds(result)()

    def first_feeds(self, result: Result, count: int) -> Feeds:
        """The model's inputs for the first `count` samples, or for all where there are fewer."""
        return self.saved_feeds(result).first(count)

    def example(self) -> Result:
        """What the model takes for the first sample of the evaluation data, as an artifact."""
        inputs = {"evaluation": self.evaluation.sha256}
        parameters = {"preprocessing": self.cell.spec.preprocess.to_dict()} | self.recipes.layout()

        def build(folder: Path) -> Mapping[str, object]:
            sample = data.first_sample(self.first(self.evaluation, 1), self.cell.spec.preprocess)
            fed: Feeds = self.cell.spec.preprocess.apply(sample)
            layout = layout_of(self.cell.spec)
            if layout:
                fed = Stream(layout).next(fed)
            save_arrays(fed, folder / "example.npz")
            return {}

        recipe = Recipe("example", "1", inputs, parameters, self.recipes.preprocessing_tools())
        return self.cell.store.remember(recipe, build)

    def fields(self, result: Result) -> list[object]:
        """Name, dtype and shape of each field of a data artifact, as JSON."""

        def build(_folder: Path) -> Mapping[str, object]:
            found = []
            for field in self.kept(result).fields:
                found.append({"name": field.name, "dtype": field.dtype, "shape": list(field.shape)})
            return {"fields": found}

        known = self.cell.store.remember(Recipe("data_fields", "1", {"data": result.sha256}), build)
        fields = known.facts["fields"]
        assert isinstance(fields, list)
        return fields

    def check(self) -> Result:
        """Refuse data that cannot give a trustworthy result, before any slow work. Raises DataError."""
        spec = self.cell.spec
        calibration, evaluation = spec.calibration, spec.evaluation
        inputs = {
            "calibration": self.calibration.sha256,
            "evaluation": self.evaluation.sha256,
        }
        parameters: dict[str, object] = {
            "preprocessing": spec.preprocess.to_dict(),
            "minimum": [calibration.minimum, evaluation.minimum],
            "inputs": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in spec.inputs],
            "labels": [evaluation.labels, self.recipes.metric(), list(spec.outputs[0].shape)],
        }
        if evaluation.others:
            parameters["metrics"] = [metric.computed() for metric in evaluation.others]
        if spec.states:
            parameters["states"] = dict(spec.states)
        if spec.finetuning:
            inputs["training"] = self.training.sha256
            parameters["training"] = [
                spec.finetuning.labels,
                spec.trains_classifier,
                spec.finetuning.batch_size,
            ]
        recipe = Recipe(
            step="data_check",
            code_version="1",
            inputs=inputs,
            parameters=parameters,
            tools=self.recipes.preprocessing_tools(),
        )
        return self.cell.store.remember(recipe, self._check)

    def _check(self, _folder: Path) -> Mapping[str, object]:
        spec = self.cell.spec
        preprocess, evaluation = spec.preprocess, spec.evaluation
        calibrating = self.kept(self.calibration)
        evaluating = self.kept(self.evaluation)
        fed, in_steps = spec.fed_inputs, bool(spec.states)
        data.check_samples(calibrating, preprocess, fed, spec.calibration.minimum, "calibration", in_steps)
        data.check_samples(evaluating, preprocess, fed, evaluation.minimum, "evaluation", in_steps)
        for metric in (evaluation.deciding, *evaluation.others):
            assert metric.labels is not None
            data.check_labels(evaluating, metric.labels, spec.outputs, metric.labels_are_classes)
        data.check_disjoint(calibrating, evaluating, preprocess)
        facts = {
            "calibration_samples": count(self.calibration),
            "evaluation_samples": count(self.evaluation),
        }
        if spec.finetuning:
            least = 2 * spec.finetuning.batch_size
            training = self.kept(self.training)
            data.check_samples(training, preprocess, fed, least, "training", in_steps)
            data.check_training_labels(training, spec.finetuning.labels, spec.outputs, spec.trains_classifier)
            data.check_disjoint(training, evaluating, preprocess, "training")
            facts["training_samples"] = count(self.training)
        return facts


def count(result: Result) -> int:
    """How many samples a data artifact has."""
    return result.said(Samples).samples
