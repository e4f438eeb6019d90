"""CoreML: packages from PyTorch, and sessions that run them.

coreml_package_fp16  torch.export, converted to an ML program in half precision: what the compressed packages are
                     made from. A model of images takes a picture, scaled and normalised by the package itself

On macOS a session is CoreML's own; elsewhere the package's program is evaluated by `evaluator`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from edge_assets.core.axes import example_parameters, frozen, sizing_parameters
from edge_assets.core.session import Feeds, Session
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import EdgeAssetsError, ExportError, Refused, told
from edge_assets.hashing import sha256_of
from edge_assets.later import np
from edge_assets.spec.preprocess import ImagePreprocessing
from edge_assets.toolchains.coreml.expressed import expressed
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network

if TYPE_CHECKING:
    import coremltools
    import torch
    from coremltools.converters.mil.input_types import InputType
    from coremltools.converters.mil.mil import Operation, Var
    from coremltools.models import MLModel
    from coremltools.proto.Model_pb2 import FeatureDescription, Model
    from PIL import Image

    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target
    from edge_assets.toolchains.coreml.evaluator import MilProgram

LARGEST_BATCH = 64  # CoreML wants an upper bound for every flexible axis
OLDEST = 15  # iOS 15 is the first that runs ML programs
MACOS_TO_IOS = {"12": "15", "13": "16", "14": "17", "15": "18", "26": "26"}  # released together, the same format


# --- targets and pictures ------------------------------------------------------------------------------


def deployment_target(target: Target) -> str:
    """The catalog's `deployment_target` as the iOS release of the same format, so that equal packages are one."""
    name = str(target.options["deployment_target"])
    if name.startswith("macOS"):
        return f"iOS{MACOS_TO_IOS[name.removeprefix('macOS')]}"
    return name


def macos_of(release: int) -> str:
    """The macOS of the same format as iOS `release`."""
    return next(macos for macos, ios in MACOS_TO_IOS.items() if ios == str(release))


def is_below(deployment: str, release: int) -> bool:
    """Whether a deployment target is older than iOS `release`."""
    return int(deployment.removeprefix("iOS")) < release


class Picture(TypedDict):
    """How a package turns the pixels of a picture into the model's input: plain data, for recipes and sessions.

    CoreML computes `pixel * scale + bias`, one scale for all channels and a bias for each. What remains of a standard
    deviation per channel is `factors`, which the program multiplies with.
    """

    color_layout: str  # CoreML's name: GRAYSCALE, RGB or BGR
    shape: list[int]  # [1, channels, height, width]
    scale: float
    bias: list[float]  # by channel
    factors: list[float]  # by channel


def picture(spec: ModelSpec) -> Picture | None:
    """What the package does with a picture, or None where it takes tensors, as for pictures of a range of sizes."""
    image = spec.preprocess
    if not isinstance(image, ImagePreprocessing) or image.least:
        return None
    if image.channels not in (1, 3) or len(spec.inputs) != 1:
        return None
    first = image.std[0]
    bias = [-mean / first for mean in image.mean]
    factors = [first / std for std in image.std]
    return {
        "color_layout": "GRAYSCALE" if image.channels == 1 else image.order,
        "shape": [1, image.channels, image.height, image.width],
        "scale": image.scale / first,
        "bias": bias,
        "factors": factors,
    }


# --- sessions ------------------------------------------------------------------------------------------


def pixels(array: np.ndarray, image: Picture) -> np.ndarray:
    """Preprocessed images back as uint8 pixels [n, channels, height, width], in the model's order of channels.

    Exact, because they were made from such pixels. Raises EdgeAssetsError where they were not.
    """
    bias = np.reshape(image["bias"], (1, -1, 1, 1))
    factors = np.reshape(image["factors"], (1, -1, 1, 1))
    scaled = array.astype(np.float64) / factors - bias
    values = scaled / image["scale"]
    rounded: np.ndarray = np.clip(np.rint(values), 0, 255)
    if np.abs(values - rounded).max(initial=0) > 0.01:
        raise EdgeAssetsError("a CoreML package of images takes pixels from 0 to 255, and these inputs are none")
    return rounded.astype(np.uint8)


class EvaluatedSession:
    """A package's program on this machine, in PyTorch and fp32."""

    def __init__(self, program: MilProgram, inputs: Sequence[str], image: Picture | None) -> None:
        self.program = program
        self.inputs = inputs
        self.image = image

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            outputs = self._outputs(feeds)
        arrays = {}
        for name, element_type in self.program.outputs.items():
            arrays[name] = outputs[name].numpy().astype(element_type)
        return arrays

    def _outputs(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        from edge_assets.toolchains.coreml.evaluator import to_tensors

        if self.image is None:
            return self.program.run(to_tensors(feeds, self.inputs))
        return self._of_pictures(feeds, self.image)

    def _of_pictures(self, feeds: Feeds, image: Picture) -> dict[str, torch.Tensor]:
        """A package of pictures takes one: its program as it is for each sample, vectorised over the samples."""
        import torch

        samples = {}
        for name in self.inputs:
            batch = torch.from_numpy(pixels(feeds[name], image))
            samples[name] = batch.float()[:, None]
        outputs = torch.vmap(self.program.run)(samples)
        return {name: tensor[:, 0] for name, tensor in outputs.items()}


class CoreMLSession:
    """CoreML itself, on macOS. A package of pictures gets a batch as a list of them."""

    def __init__(
        self,
        model: MLModel,
        inputs: Sequence[str],
        outputs: Sequence[str],
        image: Picture | None,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.image = image

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        if self.image is None:
            found = self.model.predict({name: feeds[name] for name in self.inputs})
            return {name: found[name] for name in self.outputs}
        (input_name,) = self.inputs
        samples = [{input_name: _image(one, self.image)} for one in pixels(feeds[input_name], self.image)]
        results = self.model.predict(samples)
        outputs = {}
        for name in self.outputs:
            outputs[name] = np.concatenate([result[name] for result in results])
        return outputs


def _image(one: np.ndarray, image: Picture) -> Image.Image:
    """Pixels [channels, height, width] in the model's order as the picture that CoreML takes, which is RGB."""
    from PIL import Image

    if len(one) == 1:
        return Image.fromarray(one[0])
    if image["color_layout"] == "BGR":
        one = one[::-1]
    return Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0)))


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    compute_units: str,
    image: Picture | None = None,
) -> Session:
    """A session of the package in the folder `path`.

    On macOS CoreML runs it on `compute_units` and chooses its own threads. Elsewhere Refused is raised, naming the
    operation, if the evaluator cannot compute the program.
    """
    package = package_in(path)
    if sys.platform == "darwin":
        import coremltools

        units = coremltools.ComputeUnit[compute_units]
        model = coremltools.models.MLModel(str(package), compute_units=units)
        return CoreMLSession(model, inputs, outputs, image)
    import torch

    from edge_assets.toolchains.coreml import evaluator as coreml_evaluator

    torch.set_num_threads(threads)
    program = coreml_evaluator.load(package)
    return EvaluatedSession(program, inputs, image)


# --- packages ------------------------------------------------------------------------------------------


def package_in(folder: Path) -> Path:
    """The one .mlpackage of an artifact's folder."""
    return next(folder.glob("*.mlpackage"))


def save(
    model: MLModel,
    folder: Path,
    spec: ModelSpec,
    provenance: Mapping[str, str],
) -> Path:
    """Write `<model>.mlpackage` with our metadata, byte for byte the same for the same model. Returns its path."""
    specification = model.get_spec()
    _describe_interface(specification, spec)
    metadata = specification.description.metadata
    metadata.shortDescription = spec.description
    metadata.author = ", ".join(spec.owners)
    metadata.license = spec.license
    metadata.versionString = provenance["checkpoint_sha256"][:8]
    for name, value in provenance.items():
        metadata.userDefined[f"edge_assets.{name}"] = value
    metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    package = folder / f"{spec.name}.mlpackage"  # Xcode names the generated class after it
    _write(package, specification, Path(model.weights_dir))
    return package


def _describe_interface(specification: Model, spec: ModelSpec) -> None:
    """Give each input and output the sentence that Xcode shows of it."""
    description = specification.description
    for feature, tensor in zip(description.input, spec.inputs, strict=True):
        feature.shortDescription = _sentence(feature, tensor, spec)
    for feature, tensor in zip(description.output, spec.outputs, strict=True):
        feature.shortDescription = _sentence(feature, tensor, spec)


def _sentence(feature: FeatureDescription, tensor: Tensor, spec: ModelSpec) -> str:
    image = spec.preprocess
    if feature.type.WhichOneof("Type") == "imageType" and isinstance(image, ImagePreprocessing):
        kind = "grayscale" if image.channels == 1 else "RGB"
        return f"{kind} picture, {image.width} x {image.height} pixels; the package scales and normalises it"
    sentence = f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
    if spec.class_names and tensor in spec.outputs[:1]:
        sentence += f": a value for each of {', '.join(spec.class_names)}"
    return sentence


def _write(package: Path, specification: Model, weights: Path) -> None:
    """What coremltools' own `save` writes, with ids and an order that depend on nothing but the content."""
    data = package / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(specification.SerializeToString(deterministic=True))
    entries = {_package_id("model.mlmodel"): _package_entry("model.mlmodel", "CoreML Model Specification")}
    if any(weights.iterdir()):
        shutil.copytree(weights, data / "weights")
        entries[_package_id("weights")] = _package_entry("weights", "CoreML Model Weights")
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _package_id("model.mlmodel"),
    }
    text = json.dumps(manifest, indent=4, sort_keys=True)
    (package / "Manifest.json").write_text(text)


def _package_id(name: str) -> str:
    """The id of a file or folder of the package: always the same, where coremltools draws one."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"com.apple.CoreML/{name}"))


def _package_entry(name: str, description: str) -> dict[str, str]:
    return {
        "author": "com.apple.CoreML",
        "description": description,
        "name": name,
        "path": f"com.apple.CoreML/{name}",
    }


def describe(package: Path, request: BuildRequest) -> dict[str, Any]:
    """Facts of a saved package, read back: operators, what goes in and out, and an estimate of the memory it takes.

    There is no estimate where the evaluator lacks an operator, and then nothing passes the memory gate.
    """
    import coremltools

    from edge_assets.toolchains.coreml import evaluator as coreml_evaluator

    image = request.parameters["image"]
    specification = coremltools.utils.load_spec(str(package))
    if not image:
        _check_flexible(specification.description.input, request.spec)
    batch = f"flexible, 1 to {LARGEST_BATCH}"
    if image:
        batch = "one picture; many through CoreML's batch API (MLArrayBatchProvider)"
    facts: dict[str, Any] = {
        "specification_version": specification.specificationVersion,
        "inputs": _kinds(specification.description.input),
        "outputs": _kinds(specification.description.output),
        "batch": batch,
        "session": {"image": image} if image else {},
    }
    try:
        program = coreml_evaluator.load(package)
        activations = program.peak_bytes(_largest_inputs(request.spec))
    except Refused as reason:
        return facts | {"memory_estimate": None, "memory_not_estimated": str(reason)}
    estimate = {
        "bytes": program.weights_bytes + activations,
        "how": "weights decompressed, plus peak live activations at batch 1",
    }
    return facts | {"operators": program.operators, "memory_estimate": estimate}


def _kinds(features: Iterable[FeatureDescription]) -> dict[str, str]:
    """What each input or output is, by name."""
    return {feature.name: _kind(feature) for feature in features}


def _kind(feature: FeatureDescription) -> str:
    if feature.type.WhichOneof("Type") == "imageType":
        image = feature.type.imageType
        return f"image {image.ColorSpace.Name(image.colorSpace)} {image.width} x {image.height}"
    array = feature.type.multiArrayType
    element_type = array.ArrayDataType.Name(array.dataType).lower()
    axes = []
    for axis in array.shapeRange.sizeRanges:
        if axis.upperBound > 0:
            axes.append(f"{axis.lowerBound}..{axis.upperBound}")
    if not axes:
        axes = [str(size) for size in array.shape]
    return f"{element_type} [{', '.join(axes)}]"


def _check_flexible(features: Iterable[FeatureDescription], spec: ModelSpec) -> None:
    """Raises ExportError for a flexible axis that the converter made a constant."""
    found = {}
    for feature in features:
        array = feature.type.multiArrayType
        ranges = array.shapeRange.sizeRanges or [None] * len(array.shape)
        axes: list[int | str] = []
        for position, (bounds, size) in enumerate(zip(ranges, array.shape, strict=True)):
            is_flexible = bounds is not None and bounds.lowerBound != bounds.upperBound
            axes.append(f"{feature.name} {position}" if is_flexible else size)
        found[feature.name] = axes
    flexible = [replace(tensor, shape=tuple(_flexible(axis, spec) for axis in tensor.shape)) for tensor in spec.inputs]
    lost = frozen(flexible, found)
    if lost is not None:
        raise ExportError(f"{lost}: the package takes no other size than the one that it was converted with")


def _flexible(axis: int | str, spec: ModelSpec) -> int | str:
    """An axis of an input, as a number where its range has one size alone."""
    if isinstance(axis, int):
        return axis
    least, largest = _bounds(axis, spec)
    return axis if least < largest else least


def _largest_inputs(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """One sample with every other flexible axis at its largest size."""
    import torch

    inputs = {}
    for tensor in spec.inputs:
        shape = [_largest_size(axis, spec) for axis in tensor.shape]
        dtype = torch.float32 if tensor.dtype.startswith("float") else torch.int64
        inputs[tensor.name] = torch.ones(shape, dtype=dtype)
    return inputs


def _largest_size(axis: int | str, spec: ModelSpec) -> int:
    if isinstance(axis, int):
        return axis
    if axis == "batch":
        return 1
    _least, _best, largest = spec.axis_range(axis)
    return largest


# --- conversion ----------------------------------------------------------------------------------------


def build_fp16(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the checkpoint to an ML program in half precision. Raises ExportError, or Refused for an operator."""
    import torch

    deployment = request.parameters["deployment_target"]
    if is_below(deployment, OLDEST):
        raise Refused(f"ML programs need iOS {OLDEST}, this target deploys to {deployment}; use an ONNX variant")
    model = load_network(request.spec, request.source)
    image = request.parameters["image"]
    with _quiet(), torch.inference_mode(False):
        exported = _export(_with_factors(model, image), request.spec, image)
        converted = _converted(exported, request.spec, image, deployment)
    provenance = {
        "model": request.spec.name,
        "checkpoint": request.source.name,
        "checkpoint_sha256": sha256_of(request.source),
        "recipe": "fp16",
        "preprocessing": json.dumps(request.parameters["preprocessing"], sort_keys=True),
        "class_names": json.dumps(request.spec.class_names),
    }
    package = save(converted, request.output, request.spec, provenance)
    return {"recipe": "fp16", **describe(package, request)}


def _converted(
    exported: torch.export.ExportedProgram,
    spec: ModelSpec,
    image: Picture | None,
    deployment: str,
) -> MLModel:
    """The exported program as an ML program. Raises ExportError, or Refused for an operator."""
    import coremltools

    outputs = []
    for tensor in spec.outputs:
        outputs.append(coremltools.TensorType(tensor.name, dtype=_dtype(tensor)))
    try:
        return coremltools.convert(
            exported,
            inputs=_inputs(spec, image),
            outputs=outputs,
            minimum_deployment_target=coremltools.target[deployment],
            compute_precision=_half(spec),
            skip_model_load=True,
        )
    except Exception as error:  # the converter raises many types; each is the user's model's problem
        raise _explained(error) from error


def _half(spec: ModelSpec) -> object:
    """What of a program becomes fp16: all but sizes, which fp16 rounds from 2,048 on.

    coremltools divides sizes as floats, so the cells of a picture are counted in floating point.
    """
    import coremltools

    if not spec.dynamic_axes:
        return coremltools.precision.FLOAT16
    return coremltools.transform.FP16ComputePrecision(op_selector=lambda operation: not _is_size(operation))


def _is_size(operation: Operation) -> bool:
    """Whether an operation computes a single number from the sizes of tensors alone."""
    return all(output.rank == 0 for output in operation.outputs) and _is_of_sizes(operation)


def _is_of_sizes(operation: Operation) -> bool:
    """Whether an operation gives a shape, or a number or a row of them that is made of shapes alone."""
    if operation.op_type == "shape":
        return True
    if any(output.rank > 1 for output in operation.outputs):
        return False
    given = [value.op for value in _taken(operation) if value.op is None or value.op.op_type != "const"]
    return bool(given) and all(source is not None and _is_of_sizes(source) for source in given)


def _taken(operation: Operation) -> Iterator[Var]:
    """The values that an operation takes, those of its lists among them."""
    for value in operation.inputs.values():
        if isinstance(value, list | tuple):
            yield from value
        elif value is not None:
            yield value


def _with_factors(model: torch.nn.Module, image: Picture | None) -> torch.nn.Module:
    """The model behind what CoreML's picture input cannot do: a scale per channel."""
    import torch

    if image is None or all(factor == 1 for factor in image["factors"]):
        return model
    factors = torch.tensor(image["factors"]).reshape(1, -1, 1, 1)

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.factors = torch.nn.Parameter(factors, requires_grad=False)

        def forward(self, pictures: torch.Tensor) -> object:
            return self.model(pictures * self.factors)

    return Scaled().eval()


def _export(
    model: torch.nn.Module,
    spec: ModelSpec,
    image: Picture | None,
) -> torch.export.ExportedProgram:
    """The model as an exported program: for one picture, or with the spec's flexible axes."""
    import torch

    if image:
        example = example_inputs(spec, batch=1)
        shapes = None
    else:
        example = example_inputs(spec)
        shapes = _dynamic_shapes(spec)
    try:
        exported = torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
        decomposed: torch.export.ExportedProgram = exported.run_decompositions({})
    except Exception as error:
        raise _not_exported(error, model) from error
    return expressed(decomposed)


def _not_exported(error: Exception, model: torch.nn.Module) -> Exception:
    """Refused for recurrent layers over any number of steps, ExportError otherwise."""
    import torch

    fixed = re.search(r"marked (\S+) as dynamic but your code specialized it to be a constant", str(error))
    if fixed and any(isinstance(module, torch.nn.RNNBase) for module in model.modules()):
        return Refused(
            f"CoreML gets recurrent layers step by step, so their number is fixed, and the axis {fixed[1]} is dynamic: "
            f"declare it as a number, or use an ONNX variant"
        )
    return ExportError(f"torch.export failed: {told(error)}")


def _dynamic_shapes(spec: ModelSpec) -> tuple[dict[int, torch.export.Dim], ...]:
    """The inputs' flexible axes with their bounds, as torch.export wants them: equal names are equal sizes."""
    import torch

    dims = {}
    for axis, (least, largest) in _bounds_by_axis(spec).items():
        dims[axis] = torch.export.Dim(axis, min=least, max=largest)
    shapes = []
    for tensor in spec.inputs:
        shapes.append({i: dims[axis] for i, axis in tensor.dynamic_axes.items()})
    return tuple(shapes)


def _bounds_by_axis(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Least and largest size of each flexible axis of the inputs."""
    bounds = {}
    for tensor in spec.inputs:
        for axis in tensor.dynamic_axes.values():
            bounds[axis] = _bounds(axis, spec)
    return bounds


def _bounds(axis: str, spec: ModelSpec) -> tuple[int, int]:
    if axis == "batch":
        return 1, LARGEST_BATCH
    least, _best, largest = spec.axis_range(axis)
    return least, largest


def _inputs(spec: ModelSpec, image: Picture | None) -> list[InputType]:
    """The inputs as coremltools is told of them: one picture, or tensors."""
    if image:
        return [_picture_input(spec.inputs[0], image)]
    return _tensor_inputs(spec)


def _picture_input(tensor: Tensor, image: Picture) -> coremltools.ImageType:
    import coremltools

    # one channel's bias is a number of its own in CoreML
    bias = image["bias"] if len(image["bias"]) > 1 else image["bias"][0]
    return coremltools.ImageType(
        tensor.name,
        shape=image["shape"],
        scale=image["scale"],
        bias=bias,
        color_layout=coremltools.colorlayout[image["color_layout"]],
    )


def _tensor_inputs(spec: ModelSpec) -> list[coremltools.TensorType]:
    import coremltools
    from coremltools.converters.mil.mil.types.symbolic import k_used_symbols

    k_used_symbols.clear()  # a conversion that failed in this process leaves its own, and a name is taken once
    ranges = {}
    for axis, (least, largest) in _bounds_by_axis(spec).items():
        ranges[axis] = coremltools.RangeDim(least, largest, default=least, symbol=axis)
    inputs = []
    for tensor in spec.inputs:
        shape = [ranges[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
        declared = coremltools.TensorType(
            tensor.name,
            shape=shape,
            dtype=_dtype(tensor),
        )
        inputs.append(declared)
    return inputs


def _dtype(tensor: Tensor) -> type[np.generic]:
    """CoreML's tensors are float32 or int32."""
    return np.float32 if tensor.dtype.startswith("float") else np.int32


def _explained(error: Exception) -> Exception:
    """Refused for an operator that CoreML has no form for, ExportError otherwise."""
    text = str(error).strip()
    if missing := re.search(r"Unsupported fx node \S+, kind (\S+)", text):
        return Refused(f"operator {missing[1]} has no CoreML form; use an ONNX variant, or replace it in the model")
    return ExportError(f"conversion to CoreML failed: {told(error)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """coremltools warns of every torch newer than it was tested with; parity is what tells here."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
    """The format's release, the declared tensors, how pixels become inputs, and what the metadata says."""
    about = [
        spec.name,
        spec.description,
        list(spec.owners),
        spec.license,
        list(spec.class_names),
    ]
    shaping: dict[str, object] = {
        "deployment_target": deployment_target(target),
        "inputs": [asdict(tensor) for tensor in spec.inputs],
        "outputs": [asdict(tensor) for tensor in spec.outputs],
        "image": picture(spec),
        "preprocessing": spec.preprocess.to_dict(),
        "about": about,
    }
    bounds = {}
    for axis, (least, largest) in _bounds_by_axis(spec).items():
        if axis != "batch":
            bounds[axis] = [least, largest]
    if bounds:
        shaping["bounds"] = bounds
    return shaping | example_parameters(spec) | sizing_parameters(spec)


PACKAGE = Variant(
    name="coreml_package_fp16",
    description="ML program in half precision, from torch.export; a model of images takes pictures.",
    format="coreml",
    precision="fp16",
    source=CHECKPOINT,
    runtime="coreml",
    build=build_fp16,
    parameters=parameters,
    code_version="1",
    tools=("coremltools",),
    kinds=("coreml",),
    extra="apple",
    process="coremltools",
)
