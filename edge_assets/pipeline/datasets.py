"""A cell's data sets: kept once as artifacts, checked before anything slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_assets.core import data
from edge_assets.core.evidence import Samples
from edge_assets.core.layout import Stream
from edge_assets.core.session import Feeds, SavedFeeds, layout_of
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
        recipe = Recipe(
            step=f"{what}_data",
            code_version="1",
            inputs=inputs,
            parameters={"load": dataset.load, "version": dataset.version},
        )

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

    def example(self) -> Result:
        """What the model takes for the first sample of the evaluation data, as an artifact."""
        inputs = {"evaluation": self.evaluation.sha256}
        parameters = {"preprocessing": self.cell.spec.preprocess.to_dict()} | self.recipes.layout()

        def build(folder: Path) -> Mapping[str, object]:
            sample = data.first_sample(self.arrays(self.evaluation), self.cell.spec.preprocess)
            inputs: Feeds = self.cell.spec.preprocess.apply(sample)
            layout = layout_of(self.cell.spec)
            if layout:
                inputs = Stream(layout).next(inputs)
            data.save_arrays(inputs, folder / "example.npz")
            return {}

        recipe = Recipe("example", "1", inputs, parameters, self.recipes.preprocessing_tools())
        return self.cell.store.remember(recipe, build)

    def fields(self, result: Result) -> list[object]:
        """Name, dtype and shape of each field of a data artifact, as JSON."""

        def build(_folder: Path) -> Mapping[str, object]:
            found = []
            for name, array in self.arrays(result).items():
                found.append({"name": name, "dtype": str(array.dtype), "shape": list(array.shape[1:])})
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
            "labels": [evaluation.labels, evaluation.metric, list(spec.outputs[0].shape)],
        }
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
        calibrating = self.arrays(self.calibration)
        evaluating = self.arrays(self.evaluation)
        fed, in_steps = spec.fed_inputs, bool(spec.states)
        data.check_samples(calibrating, preprocess, fed, spec.calibration.minimum, "calibration", in_steps)
        data.check_samples(evaluating, preprocess, fed, evaluation.minimum, "evaluation", in_steps)
        data.check_labels(evaluating, evaluation.labels, spec.outputs, evaluation.metric)
        data.check_disjoint(calibrating, evaluating, preprocess)
        facts = {
            "calibration_samples": count(self.calibration),
            "evaluation_samples": count(self.evaluation),
        }
        if spec.finetuning:
            least = 2 * spec.finetuning.batch_size
            training = self.arrays(self.training)
            data.check_samples(training, preprocess, fed, least, "training", in_steps)
            data.check_training_labels(training, spec.finetuning.labels, spec.outputs, spec.trains_classifier)
            data.check_disjoint(training, evaluating, preprocess, "training")
            facts["training_samples"] = count(self.training)
        return facts


def count(result: Result) -> int:
    """How many samples a data artifact has."""
    return result.said(Samples).samples
