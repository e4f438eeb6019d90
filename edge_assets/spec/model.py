"""`ModelSpec`: all that a user writes to register a model.

Code is named as `package.module:attribute` strings, not passed as objects: Dagster then loads the
definitions without importing torch, and a change in that code is seen by the recipes it enters.

Each constructor raises InvalidSpec, which names every wrong field with the reason.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SkipValidation
from pydantic.dataclasses import dataclass

from edge_assets.errors import Fault, InvalidSpec, printable, with_nearest
from edge_assets.spec.architecture import place
from edge_assets.spec.metrics import (
    BUILT_IN,
    DEFAULT,
    Option,
    judged_output_faults,
    metric_faults,
    neither_built_in,
)
from edge_assets.spec.preprocess import ImagePreprocessing, Passthrough, Preprocessing, TextPreprocessing
from edge_assets.spec.preprocess_check import given_inputs, preprocessing_faults
from edge_assets.spec.project import project_path
from edge_assets.spec.source import locate
from edge_assets.spec.tiers import Tier
from edge_assets.spec.validation import STRICT, Listed, Number, Texts, filled, invalid, written_by_users

DType = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]
Schemes = Literal["usual", "all"]
LOSSES = ("cross_entropy",)
AXIS_RANGE = (1, 128, 512)  # of a dynamic axis that `axis_ranges` does not mention
PARITY_SAMPLES = 8  # batches of 1, 2 and 5, which parity compares
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,62}")  # a Dagster asset key, group, job name and tag all at once
RESERVED = ("file", "allow_pickle")  # as the names of arrays that are kept together
OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s]+")


Axis = Annotated[int | str, SkipValidation]  # checked with the others of its shape


def _tensor_name(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("the name must be a Python identifier")
    if name in RESERVED:
        raise ValueError(f"the name must not be one of {', '.join(RESERVED)}, which arrays are kept with")
    return name


def _dtype(dtype: object) -> object:
    if dtype == "bfloat16":
        raise ValueError(
            "bfloat16 is no type of NumPy's, so neither data nor releases have it: declare float32, and keep the "
            "architecture in float32, to which a checkpoint's weights of bfloat16 are cast without loss"
        )
    return dtype


def _shape(shape: tuple[object, ...]) -> tuple[object, ...]:
    if shape.count("batch") > 1:
        raise ValueError(f"{printable(shape)} has the axis 'batch' more than once")
    for axis in shape:
        if not isinstance(axis, int | str) or isinstance(axis, bool):
            raise ValueError(f"{printable(shape)} has an axis that is neither a whole number nor a name")
        if isinstance(axis, int) and axis < 1:
            raise ValueError(f"{printable(shape)} has an axis below 1")
    return shape


def _model_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"'{printable(name)}' must match {NAME.pattern}")
    return name


def _owners(owners: tuple[str, ...]) -> tuple[str, ...]:
    for owner in owners:
        if not OWNER.fullmatch(owner):
            raise ValueError(f"'{printable(owner)}' is neither an e-mail address nor 'team:name'")
    return owners


def _targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    if not targets:
        raise ValueError("must name at least one target")
    return _unrepeated(targets)


def _unrepeated(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = _repeated(names)
    if repeated:
        raise ValueError(f"named more than once: {printable(repeated)}")
    return names


def _repeated(names: tuple[str, ...]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


@written_by_users("tensor", by_name=True)
@dataclass(frozen=True, config=STRICT)
class Tensor:
    """One input or output. A string in `shape` names a dynamic axis; `"batch"` is that of the samples, on any place.

    Without `"batch"` it has one value for all samples. A scalar has the shape `()`.
    """

    name: Annotated[str, AfterValidator(_tensor_name)]
    dtype: Annotated[DType, BeforeValidator(_dtype)]
    shape: Annotated[tuple[Axis, ...], Listed, AfterValidator(_shape)]

    @property
    def dynamic_axes(self) -> dict[int, str]:
        return {i: axis for i, axis in enumerate(self.shape) if isinstance(axis, str)}

    @property
    def batch_axis(self) -> int | None:
        """Which axis is that of the samples; None where all have one value."""
        return self.shape.index("batch") if "batch" in self.shape else None

    @property
    def sample_shape(self) -> tuple[int | str, ...]:
        """The shape of one sample: all axes but the batch."""
        return tuple(axis for axis in self.shape if axis != "batch")


@written_by_users("dataset")
@dataclass(frozen=True, config=STRICT)
class Dataset:
    """Where samples come from: a function of no arguments that returns arrays by field name, or samples that stream.

    Its recipe is the function's source code, the content of `files` and `version`: raise `version` when
    the data changed in a way that neither shows.
    """

    load: str
    files: Texts = ()
    version: str = "1"


@written_by_users("calibration")
@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What static quantization observes: at least `minimum` samples, none of them in the evaluation set."""

    data: Dataset
    method: CalibrationMethod = "minmax"
    minimum: Annotated[int, Field(ge=1)] = 100


@written_by_users("metric", by_name=True)
@dataclass(frozen=True, config=STRICT)
class Metric:
    """One way to say how good outputs are: built in, or `package.module:function`.

    A function `(outputs: dict[str, ndarray], labels: ndarray) -> ndarray` gives one score per sample and gets the whole
    set at once; with `by_chunk` it may get parts of the set. With `whole_set` the name is that of a class of no
    arguments with `per_sample(outputs, labels) -> ndarray [n, ...]`, of a part of the set, and
    `value(per_sample) -> float`, of all.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)  # of a built-in metric
    max_drop: Annotated[Number, Field(ge=0)] | None = None  # the gate, in the metric's own unit
    labels: str | None = None  # the field that it compares with, where that is not the evaluation's
    higher_is_better: bool | None = None  # of one's own; a built-in metric knows
    by_chunk: bool = False
    whole_set: bool = False

    @property
    def label(self) -> str:
        """What rows and pages call it: `f1`, `topk_accuracy(k=5)`, a function by its own name."""
        name = self.name.rpartition(":")[2]
        if not self.options:
            return name
        options = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{name}({options})"

    @property
    def is_share(self) -> bool:
        """Whether its values lie between 0 and 1, shown in percent; one's own counts so where it has no `max_drop`."""
        if self.name in BUILT_IN:
            return BUILT_IN[self.name].unit == "share"
        return self.max_drop is None

    @property
    def labels_are_classes(self) -> bool:
        """Whether labels are integers below the number of classes."""
        return self.name in BUILT_IN and BUILT_IN[self.name].labels_are_classes

    def computed(self) -> dict[str, object]:
        """All that decides its values, as JSON: the gate does not."""
        return {
            "name": self.name,
            "options": dict(self.options),
            "labels": self.labels,
            "higher_is_better": self.higher_is_better,
            "by_chunk": self.by_chunk,
            "whole_set": self.whole_set,
        }


@written_by_users("evaluation")
@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """How good a variant is on its task.

    `metric` decides: a built-in name, a function `(outputs: dict[str, ndarray], labels: ndarray) -> ndarray` of one
    score per sample as `package.module:function`, or a `Metric`. `metrics` are reported beside it, and gate where they
    have a `max_drop`. `higher_is_better` is of metrics of one's own.
    """

    data: Dataset
    metric: str | Metric = DEFAULT
    labels: str = "label"
    higher_is_better: bool = True
    minimum: Annotated[int, Field(ge=PARITY_SAMPLES)] = 500
    metrics: Annotated[tuple[str | Metric, ...], Listed] = ()

    @property
    def deciding(self) -> Metric:
        """The metric that a variant is chosen by."""
        return self._whole(self.metric)

    @property
    def metric_name(self) -> str:
        """The deciding metric as manifests and model cards say it."""
        if isinstance(self.metric, str):
            return self.metric
        return self.metric.label

    @property
    def others(self) -> tuple[Metric, ...]:
        """Those that are reported beside it."""
        return tuple(self._whole(metric) for metric in self.metrics)

    def _whole(self, metric: str | Metric) -> Metric:
        """With its labels and its direction said."""
        if isinstance(metric, str):
            metric = Metric(metric)
        higher = self.higher_is_better if metric.higher_is_better is None else metric.higher_is_better
        if metric.name in BUILT_IN and metric.name != DEFAULT:
            higher = BUILT_IN[metric.name].higher_is_better
        return replace(metric, labels=metric.labels or self.labels, higher_is_better=higher)


@written_by_users("gates")
@dataclass(frozen=True, config=STRICT)
class Gates:
    """What a variant must keep to be released. Sizes are in bytes; a target's own budget also applies.

    `min_cosine` is for embeddings: the least mean cosine, over the evaluation samples, of the first output with fp32's.
    `evidence` is the least tier by which parity and accuracy have to be known, such as "device" (see `spec/tiers`).
    """

    max_accuracy_drop_points: Annotated[Number, Field(ge=0)] = 1.0
    min_cosine: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_size_bytes: Annotated[int, Field(ge=1)] | None = None
    max_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    evidence: Tier | None = None


@written_by_users("finetuning")
@dataclass(frozen=True, config=STRICT)
class FineTuning:
    """How quantization-aware training goes on from the checkpoint.

    `loss` is a built-in name or a function `(outputs: dict[str, Tensor], labels: Tensor) -> Tensor` of no dimensions.
    """

    data: Dataset
    loss: str = "cross_entropy"
    labels: str = "label"
    epochs: Annotated[int, Field(ge=1)] = 3
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-5
    batch_size: Annotated[int, Field(ge=1)] = 64
    seed: int = 0


@written_by_users("search")
@dataclass(frozen=True, config=STRICT)
class Search:
    """Bounds of the accuracy-bounded search. Its largest drop is the one of the gates."""

    objective: Literal["size", "latency"] = "size"
    max_trials: Annotated[int, Field(ge=1)] = 40
    max_seconds: Annotated[Number, Field(gt=0)] = 900


@written_by_users("automation")
@dataclass(frozen=True, config=STRICT)
class Automation:
    """What is built by itself, where a Dagster daemon runs. New checkpoints become partitions in any case."""

    on_checkpoint: bool = True  # the sensor builds each new checkpoint
    nightly: bool = True  # the schedule, once a night, builds what is stale of the newest; False: off until switched on


Tensors = Annotated[tuple[Tensor, ...], Listed, AfterValidator(filled)]
AxisRange = Annotated[tuple[int, int, int], Listed]


@written_by_users("")
@dataclass(frozen=True, config=STRICT)
class ModelSpec:
    """One registered model."""

    name: Annotated[str, AfterValidator(_model_name)]
    architecture: str  # a function or class of no arguments that returns the torch.nn.Module, or a known network
    checkpoints: str  # a folder or an fsspec URL (s3://bucket/prefix) that training writes into
    inputs: Tensors
    outputs: Tensors
    calibration: Calibration
    evaluation: Evaluation
    targets: Annotated[Texts, AfterValidator(_targets)]
    preprocessing: Annotated[Preprocessing | None, SkipValidation] = (
        None  # its faults are found with those between fields
    )
    gates: Gates = field(default_factory=Gates)
    description: str = ""
    owners: Annotated[Texts, AfterValidator(_owners)] = ()  # e-mail addresses or "team:name"
    license: str = "unspecified"
    class_names: Texts = ()
    # least, best and largest size of dynamic axes besides the batch, for engines that are tuned to shapes
    axis_ranges: Mapping[str, AxisRange] = field(default_factory=dict, hash=False)
    schemes: Schemes = "usual"  # "all": also those that take long, or are worth a comparison more than a release
    variants: Annotated[Texts, AfterValidator(_unrepeated)] = ()  # those alone, whatever `schemes` says; (): all
    states: Mapping[str, str] = field(default_factory=dict, hash=False)  # inputs that are outputs of the step before
    finetuning: FineTuning | None = None  # without it there is no quantization-aware training
    search: Search | None = None  # without it there is no accuracy-bounded search
    automation: Automation = field(default_factory=Automation)
    weights: str | None = None  # which of a checkpoint's weights, such as "ema", where several fit the architecture
    flush_subnormals: bool = False  # True: weights below the smallest normal number of their type count as 0

    def __post_init__(self) -> None:
        faults = list(_faults_between_fields(self))
        if faults:
            raise invalid(faults)

    @property
    def dynamic_axes(self) -> set[str]:
        """Names of the inputs' dynamic axes besides the batch."""
        axes: set[str] = set()
        for tensor in self.inputs:
            axes.update(tensor.dynamic_axes.values())
        return axes - {"batch"}

    @property
    def fed_inputs(self) -> tuple[Tensor, ...]:
        """The inputs that the data give: all but the states, which begin as zeros."""
        return tuple(tensor for tensor in self.inputs if tensor.name not in self.states)

    @property
    def trains_classifier(self) -> bool:
        """Whether fine-tuning's labels are classes: by its loss, or because top1_accuracy evaluates the same field."""
        recipe, evaluation = self.finetuning, self.evaluation
        return recipe is not None and (
            recipe.loss == "cross_entropy"
            or (evaluation.deciding.name == DEFAULT and evaluation.deciding.labels == recipe.labels)
        )

    def axis_range(self, axis: str) -> tuple[int, int, int]:
        """Least, best and largest size of a dynamic axis besides the batch."""
        return self.axis_ranges.get(axis, AXIS_RANGE)

    @property
    def preprocess(self) -> Preprocessing:
        """The declared preprocessing, or the one that passes the dataset's fields through."""
        if isinstance(self.preprocessing, TextPreprocessing):
            return replace(self.preprocessing, tokenizer=str(project_path(self.preprocessing.tokenizer)))
        if self.preprocessing is not None:
            return self.preprocessing
        return Passthrough(tuple(tensor.name for tensor in self.fed_inputs))


# --- what fields say together, and of the project --------------------------------------------------------


def _faults_between_fields(spec: ModelSpec) -> Iterator[Fault]:
    names = tuple(tensor.name for tensor in (*spec.inputs, *spec.outputs))
    repeated = _repeated(names)
    if repeated:
        yield "inputs and outputs", f"repeated names {repeated}"
    yield from _architecture_faults(spec.architecture)
    if spec.weights == "":
        yield "weights", "must be a name, or left out"
    yield from _dataset_faults(spec)
    yield from _metric_faults(spec.evaluation, tuple(tensor.name for tensor in spec.outputs))
    if spec.finetuning:
        yield from _not_located_or_built_in(spec.finetuning.loss, LOSSES, "finetuning.loss")
    preprocessing = list(preprocessing_faults(spec.preprocessing))
    yield from preprocessing
    if not preprocessing:
        yield from _given_input_faults(spec)
    yield from _axis_faults(spec)
    yield from _batch_faults(spec)
    yield from _state_faults(spec)
    if isinstance(spec.preprocessing, TextPreprocessing) and not preprocessing:
        yield from _text_faults(spec, spec.preprocessing)
    if isinstance(spec.preprocessing, ImagePreprocessing) and not preprocessing:
        yield from _picture_faults(spec, spec.preprocessing)


def _architecture_faults(reference: str) -> Iterator[Fault]:
    try:
        place(reference)
    except InvalidSpec as error:
        yield from error.faults


def _not_located(reference: str, where: str) -> Iterator[Fault]:
    try:
        locate(reference, where)
    except InvalidSpec as error:
        yield from error.faults


def _not_located_or_built_in(name: str, built_in: tuple[str, ...], where: str) -> Iterator[Fault]:
    if name in built_in:
        return
    if ":" not in name:
        yield where, neither_built_in(name, built_in)
        return
    yield from _not_located(name, where)


def _metric_faults(evaluation: Evaluation, outputs: tuple[str, ...]) -> Iterator[Fault]:
    places = {"evaluation.metric": evaluation.deciding}
    for number, metric in enumerate(evaluation.others):
        places[f"evaluation.metrics.{number}"] = metric
    for where, metric in places.items():
        faults = list(metric_faults(metric.name, metric.options, where))
        yield from faults
        if not faults and metric.name not in BUILT_IN:
            yield from _not_located(metric.name, where)
        if not faults:
            yield from judged_output_faults(metric.name, metric.options, outputs, where)
        if metric.whole_set and metric.by_chunk:
            yield where, "is of the whole set, whose parts it gets in any case: leave by_chunk out"
        if metric.name in BUILT_IN and (metric.whole_set or metric.by_chunk):
            yield where, "is built in, which says itself what it is of: leave whole_set and by_chunk out"
    deciding = evaluation.deciding
    if deciding.name in BUILT_IN and not deciding.is_share and deciding.max_drop is None:
        name = deciding.name
        yield (
            "evaluation.metric",
            f"{name} has a unit of its own: say how much worse it may be, Metric('{name}', max_drop=...)",
        )
    repeated = _repeated(tuple(metric.label for metric in places.values()))
    if repeated:
        yield "evaluation.metrics", f"named more than once: {printable(repeated)}"


def _dataset_faults(spec: ModelSpec) -> Iterator[Fault]:
    datasets = {"calibration": spec.calibration.data, "evaluation": spec.evaluation.data}
    if spec.finetuning:
        datasets["finetuning"] = spec.finetuning.data
    for where, dataset in datasets.items():
        yield from _not_located(dataset.load, f"{where}.data.load")
        absent = [path for path in dataset.files if not project_path(path).exists()]
        if absent:
            yield f"{where}.data.files", f"not found: {printable(absent, 400)}"
    if spec.calibration.data == spec.evaluation.data:
        yield "calibration.data", "is the evaluation data itself"
    if spec.finetuning and spec.finetuning.data in (spec.calibration.data, spec.evaluation.data):
        yield "finetuning.data", "is the calibration or evaluation data itself"


def _given_input_faults(spec: ModelSpec) -> Iterator[Fault]:
    """Where what the preprocessing makes is not what the model takes: data would show it only once they are read."""
    if spec.preprocessing is None:
        return
    given = given_inputs(spec.preprocessing)
    taken = {tensor.name: tensor for tensor in spec.inputs}
    unknown = [name for name in given if name not in taken]
    for name in unknown:
        reason = f"makes '{printable(name)}', which is no input of the model ({', '.join(taken)})"
        yield "preprocessing", with_nearest(reason, name, taken)
    if unknown:
        return  # what is missing is most likely what has the wrong name
    for tensor in spec.fed_inputs:
        if tensor.name not in given:
            made = printable(", ".join(given), 200)
            yield "preprocessing", f"makes no '{tensor.name}', which the model takes, but {made}"
            continue
        made_input = given[tensor.name]
        if made_input is None or tensor.batch_axis is None or spec.states:  # with states, a sample is several steps
            continue
        if made_input.dtype != tensor.dtype or not _may_agree(made_input.sample_shape, tensor.sample_shape):
            made = f"{made_input.dtype} {('batch', *made_input.sample_shape)}"
            reason = (
                f"makes '{tensor.name}' {made}, and the model takes {tensor.dtype} {tensor.shape}: change one of them"
            )
            yield "preprocessing", reason


def _may_agree(given: tuple[int | str, ...], taken: tuple[int | str, ...]) -> bool:
    """Whether a shape may be that of another: axes with a size in both have the same."""
    if len(given) != len(taken):
        return False
    for size, other in zip(given, taken, strict=True):
        if isinstance(size, int) and isinstance(other, int) and size != other:
            return False
    return True


def _axis_faults(spec: ModelSpec) -> Iterator[Fault]:
    axes = spec.dynamic_axes
    for axis, (least, best, largest) in spec.axis_ranges.items():
        if axis not in axes or not 1 <= least <= best <= largest:
            known = ", ".join(sorted(axes)) or "none"
            sizes = (least, best, largest)
            yield "axis_ranges", f"{printable(axis)}: {sizes} must be ascending sizes of a dynamic axis ({known})"


def _batch_faults(spec: ModelSpec) -> Iterator[Fault]:
    if all(tensor.batch_axis is None for tensor in spec.inputs):
        yield "inputs", f"none has the axis 'batch': {spec.inputs[0].name} is {spec.inputs[0].shape}"
    if spec.outputs[0].batch_axis is None:
        first = spec.outputs[0]
        yield "outputs", f"the first, {first.name}, has no axis 'batch': {first.shape}"


def _state_faults(spec: ModelSpec) -> Iterator[Fault]:
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    outputs = {tensor.name: tensor for tensor in spec.outputs}
    for name, output in spec.states.items():
        if name not in inputs or output not in outputs:
            yield "states", f"{printable(name)}: {printable(output)} must be an input and the output that becomes it"
            continue
        before, after = inputs[name], outputs[output]
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            yield "states", f"{name}: {before.dtype} {before.shape} and {after.dtype} {after.shape} must be alike"
        if set(before.dynamic_axes.values()) != {"batch"}:
            yield "states", f"{name}: {before.shape} must have the axis 'batch' and numbers besides"
    repeated = _repeated(tuple(spec.states.values()))
    if repeated:
        yield "states", f"outputs that become two states: {printable(repeated)}"
    if not spec.fed_inputs:
        yield "states", "every input is a state: at least one is given by the data"
    if len(spec.states) == len(spec.outputs):
        yield "states", "every output is a state: at least one is what the model is for"
    if spec.states and spec.outputs[0].name in spec.states.values():
        yield "outputs", f"the first, {spec.outputs[0].name}, is a state: begin with what the model is for"


def _text_faults(spec: ModelSpec, text: TextPreprocessing) -> Iterator[Fault]:
    if not project_path(text.tokenizer).is_file():
        yield "preprocessing.tokenizer", f"not found: {text.tokenizer}"
    for axis in sorted(spec.dynamic_axes):
        best = spec.axis_range(axis)[1]
        if best != text.max_length:
            reason = (
                f"{axis}: the best size must be the preprocessing's max_length, {text.max_length}, to which it pads "
                f"every text, not {best}"
            )
            yield "axis_ranges", reason


def _picture_faults(spec: ModelSpec, image: ImagePreprocessing) -> Iterator[Fault]:
    """Where pictures that keep their own size may have one that the model does not take."""
    taken = [tensor.sample_shape for tensor in spec.inputs if tensor.name == image.input]
    if not image.least or not taken or len(taken[0]) != 3:
        return
    ranges = zip(taken[0][1:], image.least, (image.height, image.width), strict=True)
    for axis, least, largest in ranges:
        pictures = f"pictures keep sizes from {least} to {largest}"
        if isinstance(axis, int):
            if (axis, axis) != (least, largest):
                yield "preprocessing.least", f"{pictures}, and the model takes {axis} alone: name the axis in its shape"
            continue
        smallest, best, tallest = spec.axis_range(axis)
        if least < smallest or largest > tallest:
            reason = f"{axis}: {pictures}, which must lie within {smallest} to {tallest}"
            yield "axis_ranges", reason
        elif not least <= best <= largest or best % image.multiple:
            reason = f"{axis}: the best size, {best}, must be one that pictures get, from {least} to {largest}"
            if image.multiple > 1:
                reason += f" in multiples of {image.multiple}"
            yield "axis_ranges", reason
