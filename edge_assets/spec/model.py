"""`ModelSpec`: all that a user writes to register a model.

Code is named as `package.module:attribute` strings, not passed as objects: Dagster then loads the
definitions without importing torch, and a change in that code is seen by the recipes it enters.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from edge_assets.errors import InvalidSpec, printable
from edge_assets.spec.preprocess import KINDS, Passthrough, Preprocessing, TextPreprocessing
from edge_assets.spec.project import project_path
from edge_assets.spec.source import locate

DType = Literal["float32", "int64", "int32", "uint8", "bool"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]
Schemes = Literal["usual", "all"]
LOSSES = ("cross_entropy",)
METRICS = ("top1_accuracy",)  # others are named as `package.module:function`
AXIS_RANGE = (1, 128, 512)  # of a dynamic axis that `axis_ranges` does not mention
PARITY_SAMPLES = 8  # batches of 1, 2 and 5
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,62}")  # a Dagster asset key, group, job name and tag all at once
RESERVED = ("file", "allow_pickle")  # as the names of arrays that are kept together
OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s]+")


@dataclass(frozen=True)
class Tensor:
    """One input or output. A string in `shape` names a dynamic axis; axis 0 must be `"batch"`."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        where = f"tensor '{self.name}'"
        if not self.name.isidentifier():
            raise InvalidSpec(where, "the name must be a Python identifier")
        if self.name in RESERVED:
            raise InvalidSpec(where, f"the name must not be one of {', '.join(RESERVED)}, which arrays are kept with")
        if self.dtype not in get_args(DType):
            raise InvalidSpec(f"{where}.dtype", f"'{self.dtype}' is not one of {', '.join(get_args(DType))}")
        if not self.shape or self.shape[0] != "batch":
            raise InvalidSpec(f"{where}.shape", f"{self.shape} must begin with the dynamic axis 'batch'")
        if any(isinstance(axis, int) and axis < 1 for axis in self.shape):
            raise InvalidSpec(f"{where}.shape", f"{self.shape} has an axis below 1")

    @property
    def dynamic_axes(self) -> dict[int, str]:
        return {i: axis for i, axis in enumerate(self.shape) if isinstance(axis, str)}


@dataclass(frozen=True)
class Dataset:
    """Where samples come from: a function of no arguments that returns arrays by field name.

    Its recipe is the function's source code, the content of `files` and `version`: raise `version` when
    the data changed in a way that neither shows.
    """

    load: str
    files: tuple[str, ...] = ()
    version: str = "1"


@dataclass(frozen=True)
class Calibration:
    """What static quantization observes: at least `minimum` samples, none of them in the evaluation set."""

    data: Dataset
    method: CalibrationMethod = "minmax"
    minimum: int = 100


@dataclass(frozen=True)
class Evaluation:
    """How good a variant is on its task.

    `metric` is a built-in name or a function `(outputs: dict[str, ndarray], labels: ndarray) -> ndarray`
    of one score per sample, so that variants can be compared with fp32 sample by sample.
    """

    data: Dataset
    metric: str = "top1_accuracy"
    labels: str = "label"
    higher_is_better: bool = True
    minimum: int = 500


@dataclass(frozen=True)
class Gates:
    """What a variant must keep to be released. Sizes are in bytes; a target's own budget also applies.

    `min_cosine` is for embeddings: the least mean cosine, over the evaluation samples, of the first output with fp32's.
    """

    max_accuracy_drop_points: float = 1.0
    min_cosine: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None


@dataclass(frozen=True)
class FineTuning:
    """How quantization-aware training goes on from the checkpoint.

    `loss` is a built-in name or a function `(outputs: dict[str, Tensor], labels: Tensor) -> Tensor` of no dimensions.
    """

    data: Dataset
    loss: str = "cross_entropy"
    labels: str = "label"
    epochs: int = 3
    learning_rate: float = 1e-5
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Search:
    """Bounds of the accuracy-bounded search. Its largest drop is the one of the gates."""

    objective: Literal["size", "latency"] = "size"
    max_trials: int = 40
    max_seconds: float = 900


@dataclass(frozen=True)
class ModelSpec:
    """One registered model."""

    name: str
    architecture: str  # a function or class of no arguments that returns the torch.nn.Module
    checkpoints: str  # a folder or an fsspec URL (s3://bucket/prefix) that training writes into
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calibration: Calibration
    evaluation: Evaluation
    targets: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    gates: Gates = field(default_factory=Gates)
    description: str = ""
    owners: tuple[str, ...] = ()  # e-mail addresses or "team:name"
    license: str = "unspecified"
    class_names: tuple[str, ...] = ()
    # least, best and largest size of dynamic axes besides the batch, for engines that are tuned to shapes
    axis_ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict, hash=False)
    schemes: Schemes = "usual"  # "all": also those that take long, or are worth a comparison more than a release
    finetuning: FineTuning | None = None  # without it there is no quantization-aware training
    search: Search | None = None  # without it there is no accuracy-bounded search

    def __post_init__(self) -> None:
        self._check_names()
        names = [tensor.name for tensor in (*self.inputs, *self.outputs)]
        if not self.inputs or not self.outputs:
            raise InvalidSpec("inputs" if not self.inputs else "outputs", "must not be empty")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidSpec("inputs and outputs", f"repeated names {repeated}")
        locate(self.architecture, "architecture")
        locate(self.calibration.data.load, "calibration.data.load")
        locate(self.evaluation.data.load, "evaluation.data.load")
        if self.evaluation.metric not in METRICS:
            if ":" not in self.evaluation.metric:
                known = ", ".join(METRICS)
                reason = f"'{self.evaluation.metric}' is neither built in ({known}) nor 'package.module:function'"
                raise InvalidSpec("evaluation.metric", reason)
            locate(self.evaluation.metric, "evaluation.metric")
        datasets = {"calibration": self.calibration.data, "evaluation": self.evaluation.data}
        if self.finetuning:
            datasets["finetuning"] = self.finetuning.data
        for where, dataset in datasets.items():
            if absent := [path for path in dataset.files if not project_path(path).exists()]:
                raise InvalidSpec(f"{where}.data.files", f"not found: {absent}")
        self._check_finetuning()
        if self.search and (self.search.max_trials < 1 or self.search.max_seconds <= 0):
            raise InvalidSpec("search", "max_trials must be at least 1 and max_seconds above 0")
        if self.calibration.method not in get_args(CalibrationMethod):
            raise InvalidSpec("calibration.method", f"'{self.calibration.method}' is unknown")
        if self.calibration.data == self.evaluation.data:
            raise InvalidSpec("calibration.data", "is the evaluation data itself")
        if self.preprocessing is not None and not isinstance(self.preprocessing, tuple(KINDS.values())):
            known = ", ".join(kind.__name__ for kind in KINDS.values())
            raise InvalidSpec("preprocessing", f"{type(self.preprocessing).__name__} is not one of {known}")
        if self.evaluation.minimum < PARITY_SAMPLES:
            raise InvalidSpec("evaluation.minimum", f"must be at least {PARITY_SAMPLES}, which parity compares")
        if self.gates.max_accuracy_drop_points < 0:
            raise InvalidSpec("gates.max_accuracy_drop_points", "must not be negative")
        if self.gates.min_cosine is not None and not 0 < self.gates.min_cosine <= 1:
            raise InvalidSpec("gates.min_cosine", "must be above 0 and at most 1")
        axes = {axis for tensor in self.inputs for axis in tensor.dynamic_axes.values()} - {"batch"}
        for axis, (least, best, largest) in self.axis_ranges.items():
            if axis not in axes or not 1 <= least <= best <= largest:
                known = ", ".join(sorted(axes)) or "none"
                reason = f"{axis}: {(least, best, largest)} must be ascending sizes of a dynamic axis ({known})"
                raise InvalidSpec("axis_ranges", reason)
        self._check_text()
        if self.schemes not in get_args(Schemes):
            raise InvalidSpec("schemes", f"'{self.schemes}' is not one of {', '.join(get_args(Schemes))}")
        if not self.targets:
            raise InvalidSpec("targets", "must name at least one target")

    def _check_names(self) -> None:
        """What Dagster would refuse, together with every other model."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise InvalidSpec("name", f"'{printable(self.name)}' must match {NAME.pattern}")
        for name in ("architecture", "checkpoints", "description", "license"):
            if not isinstance(getattr(self, name), str):
                raise InvalidSpec(name, f"{printable(getattr(self, name))} is not text")
        for name in ("owners", "targets", "class_names"):
            values = getattr(self, name)
            if isinstance(values, str) or not all(isinstance(value, str) for value in values):
                raise InvalidSpec(name, f"{printable(values)} is not a tuple of texts")
        if repeated := sorted({name for name in self.targets if self.targets.count(name) > 1}):
            raise InvalidSpec("targets", f"named more than once: {printable(repeated)}")
        for owner in self.owners:
            if not OWNER.fullmatch(owner):
                raise InvalidSpec("owners", f"'{printable(owner)}' is neither an e-mail address nor 'team:name'")

    def _check_finetuning(self) -> None:
        recipe = self.finetuning
        if recipe is None:
            return
        locate(recipe.data.load, "finetuning.data.load")
        if recipe.loss not in LOSSES:
            if ":" not in recipe.loss:
                reason = f"'{recipe.loss}' is neither built in ({', '.join(LOSSES)}) nor 'package.module:function'"
                raise InvalidSpec("finetuning.loss", reason)
            locate(recipe.loss, "finetuning.loss")
        if recipe.data in (self.calibration.data, self.evaluation.data):
            raise InvalidSpec("finetuning.data", "is the calibration or evaluation data itself")
        for name, value in (("epochs", recipe.epochs), ("batch_size", recipe.batch_size)):
            if value < 1:
                raise InvalidSpec(f"finetuning.{name}", "must be at least 1")
        if not recipe.learning_rate > 0:
            raise InvalidSpec("finetuning.learning_rate", "must be above 0")

    def _check_text(self) -> None:
        text = self.preprocessing
        if not isinstance(text, TextPreprocessing):
            return
        if not project_path(text.tokenizer).is_file():
            raise InvalidSpec("preprocessing.tokenizer", f"not found: {text.tokenizer}")
        for tensor in self.inputs:
            for axis in set(tensor.dynamic_axes.values()) - {"batch"}:
                if self.axis_range(axis)[1] != text.max_length:
                    reason = (
                        f"{axis}: the best size must be the preprocessing's max_length, {text.max_length}, to which it "
                        f"pads every text, not {self.axis_range(axis)[1]}"
                    )
                    raise InvalidSpec("axis_ranges", reason)

    @property
    def trains_classifier(self) -> bool:
        """Whether fine-tuning's labels are classes: by its loss, or because top1_accuracy evaluates the same field."""
        recipe, evaluation = self.finetuning, self.evaluation
        return recipe is not None and (
            recipe.loss == "cross_entropy"
            or (evaluation.metric == "top1_accuracy" and evaluation.labels == recipe.labels)
        )

    def axis_range(self, axis: str) -> tuple[int, int, int]:
        """Least, best and largest size of a dynamic axis besides the batch."""
        return self.axis_ranges.get(axis, AXIS_RANGE)

    @property
    def preprocess(self) -> Preprocessing:
        """The declared preprocessing, or the one that passes the dataset's fields through."""
        if isinstance(self.preprocessing, TextPreprocessing):
            return replace(self.preprocessing, tokenizer=str(project_path(self.preprocessing.tokenizer)))
        return self.preprocessing or Passthrough(tuple(tensor.name for tensor in self.inputs))
