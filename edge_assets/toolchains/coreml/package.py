"""CoreML: packages from PyTorch, and sessions that run them.

coreml_package_fp16  torch.export, converted to an ML program in half precision: what the compressed packages are
                     made from. A model of images takes a picture, scaled and normalised by the package itself

On macOS a session is CoreML's own; elsewhere the package's program is evaluated by `coreml_evaluator`.
"""

import contextlib
import json
import logging
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.checkpoint import load_model
from edge_assets.core.session import Feeds, Session
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import EdgeAssetsError, ExportError, Refused, told
from edge_assets.spec.preprocess import ImagePreprocessing
from edge_assets.toolchains.onnx.export import example_inputs

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target
    from edge_assets.toolchains.coreml.evaluator import MilProgram

LARGEST_BATCH = 64  # CoreML wants an upper bound for every flexible axis
OLDEST = 15  # iOS 15 is the first that runs ML programs
MACOS_TO_IOS = {"12": "15", "13": "16", "14": "17", "15": "18", "26": "26"}  # released together, the same format


# --- targets and pictures ------------------------------------------------------------------------------


def deployment_target(target: "Target") -> str:
    """The catalog's `deployment_target` as the iOS release of the same format, so that equal packages are one."""
    name = str(target.options["deployment_target"])
    return f"iOS{MACOS_TO_IOS[name.removeprefix('macOS')]}" if name.startswith("macOS") else name


def macos_of(release: int) -> str:
    """The macOS of the same format as iOS `release`."""
    return next(macos for macos, ios in MACOS_TO_IOS.items() if ios == str(release))


def is_below(deployment: str, release: int) -> bool:
    """Whether a deployment target is older than iOS `release`."""
    return int(deployment.removeprefix("iOS")) < release


def picture(spec: "ModelSpec") -> dict[str, Any] | None:
    """How the package turns pixels into the model's input, or None where it takes tensors.

    CoreML computes `pixel * scale + bias`, one scale for all channels and a bias for each. What remains of a standard
    deviation per channel is `factors`, which the program multiplies with.
    """
    image = spec.preprocess
    if not isinstance(image, ImagePreprocessing) or image.channels not in (1, 3) or len(spec.inputs) != 1:
        return None
    first = image.std[0]
    return {
        "color_layout": "GRAYSCALE" if image.channels == 1 else "RGB",
        "shape": [1, image.channels, image.height, image.width],
        "scale": image.scale / first,
        "bias": [-mean / first for mean in image.mean],
        "factors": [first / std for std in image.std],
    }


# --- sessions ------------------------------------------------------------------------------------------


def pixels(array: np.ndarray, image: Mapping[str, Any]) -> np.ndarray:
    """Preprocessed images back as uint8 pixels [n, channels, height, width].

    Exact, because they were made from such pixels. Raises EdgeAssetsError where they were not.
    """
    scale = np.float64(image["scale"])
    bias, factors = (np.reshape(image[name], (1, -1, 1, 1)) for name in ("bias", "factors"))
    values = (array.astype(np.float64) / factors - bias) / scale
    rounded = np.clip(np.rint(values), 0, 255)
    if np.abs(values - rounded).max(initial=0) > 0.01:
        raise EdgeAssetsError("a CoreML package of images takes pixels from 0 to 255, and these inputs are none")
    return rounded.astype(np.uint8)


class EvaluatedSession:
    """A package's program on this machine, in PyTorch and fp32."""

    def __init__(self, program: "MilProgram", inputs: Sequence[str], image: Mapping[str, Any] | None) -> None:
        self.program, self.inputs, self.image = program, inputs, image

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        from edge_assets.toolchains.coreml.evaluator import to_tensors

        if self.image:
            feeds = {name: pixels(feeds[name], self.image) for name in self.inputs}
            tensors = {name: torch.from_numpy(array).float() for name, array in feeds.items()}
        else:
            tensors = to_tensors(feeds, self.inputs)
        with torch.inference_mode():
            outputs = self._each(tensors) if self.image else self.program.run(tensors)
        return {name: outputs[name].numpy().astype(kind) for name, kind in self.program.outputs.items()}

    def _each(self, pictures: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """A package of pictures takes one: its program as it is for each sample, vectorised over the samples."""
        import torch

        outputs = torch.vmap(self.program.run)({name: tensor[:, None] for name, tensor in pictures.items()})
        return {name: tensor[:, 0] for name, tensor in outputs.items()}


class CoreMLSession:
    """CoreML itself, on macOS. A package of pictures gets a batch as a list of them."""

    def __init__(
        self, model: Any, inputs: Sequence[str], outputs: Sequence[str], image: Mapping[str, Any] | None
    ) -> None:
        self.model, self.inputs, self.outputs, self.image = model, inputs, outputs, image

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        if self.image is None:
            found = self.model.predict({name: feeds[name] for name in self.inputs})
            return {name: found[name] for name in self.outputs}
        samples = [{self.inputs[0]: _image(one)} for one in pixels(feeds[self.inputs[0]], self.image)]
        results = self.model.predict(samples)
        return {name: np.concatenate([result[name] for result in results]) for name in self.outputs}


def _image(one: np.ndarray) -> Any:
    """Pixels [channels, height, width] as the picture that CoreML takes."""
    from PIL import Image

    return Image.fromarray(one[0] if len(one) == 1 else np.ascontiguousarray(one.transpose(1, 2, 0)))


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    compute_units: str,
    image: Mapping[str, Any] | None = None,
) -> Session:
    """A session of the package in the folder `path`.

    On macOS CoreML runs it on `compute_units` and chooses its own threads. Elsewhere Refused is raised, naming the
    operation, if the evaluator cannot compute the program.
    """
    package = package_in(path)
    if sys.platform == "darwin":
        import coremltools

        units = coremltools.ComputeUnit[compute_units]
        return CoreMLSession(coremltools.models.MLModel(str(package), compute_units=units), inputs, outputs, image)
    import torch

    from edge_assets.toolchains.coreml import evaluator as coreml_evaluator

    torch.set_num_threads(threads)
    return EvaluatedSession(coreml_evaluator.load(package), inputs, image)


# --- packages ------------------------------------------------------------------------------------------


def package_in(folder: Path) -> Path:
    """The one .mlpackage of an artifact's folder."""
    return next(folder.glob("*.mlpackage"))


def save(model: Any, folder: Path, spec: "ModelSpec", provenance: Mapping[str, str]) -> Path:
    """Write `<model>.mlpackage` with our metadata, byte for byte the same for the same model. Returns its path."""
    specification = model.get_spec()
    description = specification.description
    for features, tensors in ((description.input, spec.inputs), (description.output, spec.outputs)):
        for feature, tensor in zip(features, tensors, strict=True):
            feature.shortDescription = _sentence(tensor, spec, feature.type.WhichOneof("Type") == "imageType")
    metadata = description.metadata
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


def _sentence(tensor: "Tensor", spec: "ModelSpec", is_image: bool) -> str:
    if is_image and isinstance(image := spec.preprocess, ImagePreprocessing):
        kind = "grayscale" if image.channels == 1 else "RGB"
        return f"{kind} picture, {image.width} x {image.height} pixels; the package scales and normalises it"
    classes = f": a value for each of {', '.join(spec.class_names)}" if tensor in spec.outputs[:1] else ""
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]{classes if spec.class_names else ''}"


def _write(package: Path, specification: Any, weights: Path) -> None:
    """What coremltools' own `save` writes, with ids and an order that depend on nothing but the content."""
    items = {"model.mlmodel": "CoreML Model Specification"}
    data = package / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(specification.SerializeToString(deterministic=True))
    if any(weights.iterdir()):
        shutil.copytree(weights, data / "weights")
        items["weights"] = "CoreML Model Weights"
    ids = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"com.apple.CoreML/{name}")) for name in items}
    entries = {
        ids[name]: {"author": "com.apple.CoreML", "description": text, "name": name, "path": f"com.apple.CoreML/{name}"}
        for name, text in items.items()
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": ids["model.mlmodel"]}
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True))


def describe(package: Path, request: BuildRequest) -> dict[str, Any]:
    """Facts of a saved package, read back: operators, what goes in and out, and an estimate of the memory it takes.

    There is no estimate where the evaluator lacks an operator, and then nothing passes the memory gate.
    """
    import coremltools

    from edge_assets.toolchains.coreml import evaluator as coreml_evaluator

    image = request.parameters["image"]
    specification = coremltools.utils.load_spec(str(package))
    facts: dict[str, Any] = {
        "specification_version": specification.specificationVersion,
        "inputs": {feature.name: _kind(feature) for feature in specification.description.input},
        "outputs": {feature.name: _kind(feature) for feature in specification.description.output},
        "batch": "one picture; many through CoreML's batch API (MLArrayBatchProvider)"
        if image
        else f"flexible, 1 to {LARGEST_BATCH}",
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


def _kind(feature: Any) -> str:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        return f"image {image.ColorSpace.Name(image.colorSpace)} {image.width} x {image.height}"
    array = feature.type.multiArrayType
    ranges = [f"{axis.lowerBound}..{axis.upperBound}" for axis in array.shapeRange.sizeRanges if axis.upperBound > 0]
    return f"{array.ArrayDataType.Name(array.dataType).lower()} [{', '.join(ranges or map(str, array.shape))}]"


def _largest_inputs(spec: "ModelSpec") -> dict[str, "torch.Tensor"]:
    """One sample with every other flexible axis at its largest size."""
    import torch

    shapes = {
        tensor.name: [
            1 if axis == "batch" else spec.axis_range(axis)[2] if isinstance(axis, str) else axis
            for axis in tensor.shape
        ]
        for tensor in spec.inputs
    }
    kinds = {tensor.name: torch.float32 if tensor.dtype == "float32" else torch.int64 for tensor in spec.inputs}
    return {name: torch.ones(shape, dtype=kinds[name]) for name, shape in shapes.items()}


# --- conversion ----------------------------------------------------------------------------------------


def build_fp16(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the checkpoint to an ML program in half precision. Raises ExportError, or Refused for an operator."""
    import coremltools
    import torch

    deployment = request.parameters["deployment_target"]
    if is_below(deployment, OLDEST):
        raise Refused(f"ML programs need iOS {OLDEST}, this target deploys to {deployment}; use an ONNX variant")
    model = load_model(request.spec.architecture, request.source)
    image = request.parameters["image"]
    with _quiet(), torch.inference_mode(False):
        exported = _export(_with_factors(model, image), request.spec, image)
        try:
            converted = coremltools.convert(
                exported,
                inputs=_inputs(request.spec, image),
                outputs=[coremltools.TensorType(tensor.name, dtype=_dtype(tensor)) for tensor in request.spec.outputs],
                minimum_deployment_target=coremltools.target[deployment],
                compute_precision=coremltools.precision.FLOAT16,
                skip_model_load=True,
            )
        except Exception as error:  # the converter raises many types; each is the user's model's problem
            raise _explained(error) from error
    with request.source.open("rb") as file:
        checkpoint = file_digest(file, "sha256").hexdigest()
    provenance = {
        "model": request.spec.name,
        "checkpoint": request.source.name,
        "checkpoint_sha256": checkpoint,
        "recipe": "fp16",
        "preprocessing": json.dumps(request.parameters["preprocessing"], sort_keys=True),
        "class_names": json.dumps(request.spec.class_names),
    }
    package = save(converted, request.output, request.spec, provenance)
    return {"recipe": "fp16", **describe(package, request)}


def _with_factors(model: "torch.nn.Module", image: Mapping[str, Any] | None) -> "torch.nn.Module":
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

        def forward(self, pictures: torch.Tensor) -> Any:
            return self.model(pictures * self.factors)

    return Scaled().eval()


def _export(
    model: "torch.nn.Module", spec: "ModelSpec", image: Mapping[str, Any] | None
) -> "torch.export.ExportedProgram":
    """The model as an exported program: for one picture, or with the spec's flexible axes."""
    import torch

    if image:
        example, shapes = example_inputs(spec, batch=1), None
    else:
        example = example_inputs(spec)
        axes = {axis for tensor in spec.inputs for axis in tensor.dynamic_axes.values()}
        bounds = {axis: _bounds(axis, spec) for axis in axes}
        dims = {axis: torch.export.Dim(axis, min=least, max=largest) for axis, (least, largest) in bounds.items()}
        shapes = tuple({i: dims[axis] for i, axis in tensor.dynamic_axes.items()} for tensor in spec.inputs)
    try:
        return torch.export.export(model, example, dynamic_shapes=shapes, strict=False).run_decompositions({})
    except Exception as error:
        raise ExportError(f"torch.export failed: {told(error)}") from error


def _bounds(axis: str, spec: "ModelSpec") -> tuple[int, int]:
    """Least and largest size of a flexible axis."""
    if axis == "batch":
        return 1, LARGEST_BATCH
    least, _best, largest = spec.axis_range(axis)
    return least, largest


def _inputs(spec: "ModelSpec", image: Mapping[str, Any] | None) -> list[Any]:
    import coremltools

    if image:
        layout = coremltools.colorlayout[image["color_layout"]]
        # one channel's bias is a number of its own in CoreML
        bias = image["bias"] if len(image["bias"]) > 1 else image["bias"][0]
        name = spec.inputs[0].name
        return [coremltools.ImageType(name, shape=image["shape"], scale=image["scale"], bias=bias, color_layout=layout)]
    axes = {axis for tensor in spec.inputs for axis in tensor.dynamic_axes.values()}
    bounds = {axis: _bounds(axis, spec) for axis in axes}
    ranges = {
        axis: coremltools.RangeDim(least, largest, default=least, symbol=axis)
        for axis, (least, largest) in bounds.items()
    }
    return [
        coremltools.TensorType(
            tensor.name,
            shape=[ranges[axis] if isinstance(axis, str) else axis for axis in tensor.shape],
            dtype=_dtype(tensor),
        )
        for tensor in spec.inputs
    ]


def _dtype(tensor: "Tensor") -> type[np.generic]:
    """CoreML's tensors are float32 or int32."""
    return np.float32 if tensor.dtype == "float32" else np.int32


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


def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """The format's release, the declared tensors, how pixels become inputs, and what the metadata says."""
    axes = {axis for tensor in spec.inputs for axis in tensor.dynamic_axes.values()} - {"batch"}
    bounds = {axis: list(_bounds(axis, spec)) for axis in sorted(axes)}
    return {
        "deployment_target": deployment_target(target),
        "inputs": [asdict(tensor) for tensor in spec.inputs],
        "outputs": [asdict(tensor) for tensor in spec.outputs],
        "image": picture(spec),
        "preprocessing": spec.preprocess.to_dict(),
        **({"bounds": bounds} if bounds else {}),
        "about": [spec.name, spec.description, list(spec.owners), spec.license, list(spec.class_names)],
    }


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
