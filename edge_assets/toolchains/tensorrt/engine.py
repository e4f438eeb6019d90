"""TensorRT engines, each kept as a rebuild kit: an engine alone is worthless on any other GPU or TensorRT release.

kit.json         what the engine is made of and built for: profiles, precision, workspace, GPU, TensorRT, hashes
model.onnx       the graph; the network is strongly typed, so the graph decides the precision
build_engine.py  builds, checks, verifies and times the engine with TensorRT alone (kit.py)
sample.npz       inputs, and the outputs that model.onnx gives for them in ONNX Runtime
model.engine     where it could be built here

Two builders share one code path. On the target's own GPU `tensorrt` builds and tunes for that GPU. Elsewhere
`tensorrt-rtx` builds ahead of time, without any GPU, for the compute capabilities that it names. For any other GPU
the kit is the artifact, and the engine needs its GPU.
"""

import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Precision
from edge_assets.core.tools import installed
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.core.verify.parity import LEAST_SNR_DB
from edge_assets.errors import ExportError, Refused
from edge_assets.hashing import Json, sha256_of
from edge_assets.targets.catalog import parse_size
from edge_assets.targets.machine import this_machine
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import float16
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.pytorch.calling import example_inputs
from edge_assets.toolchains.tensorrt import graph_memory
from edge_assets.toolchains.tensorrt import int8 as int8_tensorrt
from edge_assets.toolchains.tensorrt import kit as tensorrt_kit

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target

EXTRA = "nvidia"
# the parameters that kit.json repeats
IN_KIT = (
    *("model", "recipe", "precision", "compute_capability", "system", "workspace_bytes"),
    *("inputs", "outputs", "states"),
)
NEAREST = "ONNX Runtime runs it: onnx_fp16 on a GPU target's CUDA execution provider, onnx_model on a cpu target"


# --- what shapes an engine -----------------------------------------------------------------------------


def profile(spec: "ModelSpec", target: "Target") -> list[dict[str, Json]]:
    """One optimization profile: for each input its dtype and its least, best and largest shape.

    The batch goes from 1 to the target's largest, best in the middle of its batch sizes; other dynamic axes are
    the spec's `axis_ranges`.
    """
    entries = []
    for tensor in spec.inputs:
        entry = _stated(tensor)
        for i, bound in enumerate(("min", "opt", "max")):
            entry[bound] = [_axis_sizes(axis, spec, target)[i] for axis in tensor.shape]
        entries.append(entry)
    return entries


def _stated(tensor: "Tensor") -> dict[str, Json]:
    """Name and dtype of an input or output, and where its batch is if that is not the first axis."""
    entry: dict[str, Json] = {"name": tensor.name, "dtype": tensor.dtype}
    if tensor.batch_axis != 0:
        entry["batch_axis"] = tensor.batch_axis
    return entry


def _axis_sizes(axis: int | str, spec: "ModelSpec", target: "Target") -> tuple[int, int, int]:
    """Least, best and largest size of an axis."""
    if isinstance(axis, int):
        return axis, axis, axis
    if axis == "batch":
        sizes = target.batch_sizes
        return 1, sizes[len(sizes) // 2], max(sizes)
    return spec.axis_range(axis)


def builder_for(target: "Target") -> dict[str, Json]:
    """Which library builds for this target here, its version, and the GPU that it tunes for, if any.

    Raises MissingTool naming the extra.
    """
    machine = this_machine()
    if machine.matches(target) and "tensorrt" in tensorrt_kit.installed_builders():
        return {
            "builder": "tensorrt",
            "gpu": machine.gpus[0],
            "builder_version": _version("tensorrt", "tensorrt"),
        }
    return {
        "builder": "tensorrt-rtx",
        "gpu": None,
        "builder_version": _version("tensorrt-rtx", EXTRA),
    }


def _version(distribution: str, extra: str) -> str:
    return installed((distribution,), extra)[distribution]


def parameters_of(
    precision: Precision,
    recipe: Callable[["ModelSpec"], str],
) -> Callable[["ModelSpec", "Target"], dict[str, Json]]:
    """The parameters of one precision's engines. Targets that agree on all of them share one engine."""

    def parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
        options = target.options
        engine: dict[str, Json] = {
            "recipe": recipe(spec),
            "model": spec.name,
            "precision": precision,
            "gpu_precisions": list(options["precisions"]),
            "compute_capability": options["compute_capability"],
            "system": options["system"],
            "workspace_bytes": parse_size(options["workspace"], f"target {target.name}.options.workspace"),
            "inputs": profile(spec, target),
            "outputs": [_stated(tensor) for tensor in spec.outputs],
        }
        if spec.states:
            engine["states"] = dict(spec.states)
        return engine | builder_for(target)

    return parameters


# --- building ------------------------------------------------------------------------------------------


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Write the kit, with its engine where one can be built here.

    Raises Refused for a precision that the GPU does not have and for an operator that TensorRT does not know,
    ExportError if the build failed.
    """
    parameters = request.parameters
    if parameters["precision"] not in parameters["gpu_precisions"]:
        have = " and ".join(parameters["gpu_precisions"])
        raise Refused(
            f"GPUs of compute capability {parameters['compute_capability']} are offered {have}, not "
            f"{parameters['precision']}: use tensorrt_engine_{parameters['gpu_precisions'][0]}"
        )
    onnx_format.one_file(request.source, "a TensorRT kit")
    kit = _write_kit(request)
    trt = tensorrt_kit.load_builder(parameters["builder"])
    graph = (request.output / tensorrt_kit.MODEL).read_bytes()
    needs = _needs_device(parameters, tensorrt_kit.nameable(trt))
    try:
        if needs:  # the graph can be checked, the engine cannot be built
            tensorrt_kit.parse(trt, graph)
            kit["needs_device"] = needs
            (request.output / tensorrt_kit.KIT).write_text(json.dumps(kit, indent=2) + "\n")
        else:
            request.log(f"building for compute capability {parameters['compute_capability']}")
            kit = _build_engine(request, trt, graph, kit)
    except tensorrt_kit.UnsupportedOperator as error:
        raise Refused(f"{error}. TensorRT has no form of it. {NEAREST}") from None
    except tensorrt_kit.KitError as error:
        raise ExportError(str(error)) from None
    return _facts(request, kit)


def _needs_device(parameters: Mapping[str, Json], nameable: Sequence[str]) -> str | None:
    """Why the engine cannot be built here, or None."""
    here, system = platform.system(), parameters["system"]
    if here != system:
        return f"it is for {system}, and engines are built on the system that runs them, not on {here}"
    capability = parameters["compute_capability"]
    if parameters["gpu"] is None and capability not in nameable:
        builder = f"{parameters['builder']} {parameters['builder_version']}"
        known = ", ".join(nameable)
        return f"{builder} builds ahead of time for compute capabilities {known}, not {capability}"
    return None


def _write_kit(request: BuildRequest) -> tensorrt_kit.Kit:
    """The kit without its engine."""
    shutil.copyfile(request.source, request.output / tensorrt_kit.MODEL)
    shutil.copyfile(tensorrt_kit.__file__, request.output / tensorrt_kit.SCRIPT)
    _write_sample(request, request.output / tensorrt_kit.SAMPLE)
    kit: tensorrt_kit.Kit = {name: request.parameters[name] for name in IN_KIT if name in request.parameters}
    kit["least_snr_db"] = LEAST_SNR_DB[request.parameters["precision"]]
    kit["onnx"] = {"sha256": sha256_of(request.source)}
    kit["engine"] = None
    kit["needs_device"] = None
    return kit


def _write_sample(request: BuildRequest, path: Path) -> None:
    """Inputs, and what the graph gives for them in ONNX Runtime; of a model with states after some steps, too."""
    import numpy as np

    inputs = [tensor.name for tensor in request.spec.inputs]
    outputs = [tensor.name for tensor in request.spec.outputs]
    examples = example_inputs(request.spec)
    feeds = {name: tensor.numpy() for name, tensor in zip(inputs, examples, strict=True)}
    session = onnx_session.open_session(request.source, threads=1, inputs=inputs, outputs=outputs)
    sample = {}
    for name, array in feeds.items():
        sample[f"input_{name}"] = array
    for name, array in session.run(feeds).items():
        sample[f"output_{name}"] = array
    if request.spec.states:
        for name, array in tensorrt_kit.after_steps(session.run, feeds, request.parameters).items():
            sample[f"last_{name}"] = array
    np.savez(path, **sample)  # type: ignore[arg-type]  # the stub wants allow_pickle


def _build_engine(request: BuildRequest, trt: ModuleType, graph: bytes, kit: tensorrt_kit.Kit) -> tensorrt_kit.Kit:
    parameters = request.parameters
    if parameters["gpu"]:
        plan = tensorrt_kit.build(trt, graph, kit)
        tensorrt_kit.demand_loadable(trt, plan)
        place = tensorrt_kit.this_place(parameters["builder"], tensorrt_kit.Cuda())
    else:
        capability = parameters["compute_capability"]
        plan = tensorrt_kit.build(trt, graph, kit, capability)
        place = tensorrt_kit.EnginePlatform(
            builder=parameters["builder"],
            version=parameters["builder_version"],
            compute_capability=capability,
            system=tensorrt_kit.this_system(),
        )
    return tensorrt_kit.write_engine(request.output, kit, plan, place)


def _facts(request: BuildRequest, kit: tensorrt_kit.Kit) -> dict[str, Any]:
    parameters = request.parameters
    facts: dict[str, Any] = {"recipe": parameters["recipe"], "profile": parameters["inputs"]}
    facts["workspace_bytes"] = parameters["workspace_bytes"]
    facts["rebuildable"] = [tensorrt_kit.KIT, tensorrt_kit.ENGINE]  # what the kit's script writes on another machine
    facts["stand_in_sha256"] = kit["onnx"]["sha256"]
    if kit["engine"] is None:
        facts["needs_device"] = kit["needs_device"]
        facts["engine"] = f"the engine needs its GPU: {kit['needs_device']}"
        facts["not_measured"] = f"not measured: no device attached; {facts['engine']}"
        # the target holds the engine alone; until it is built, the graph is what is known of it
        facts["size_bytes"] = request.source.stat().st_size
    else:
        _, place = tensorrt_kit.read_engine(request.output, kit)
        size_bytes = (request.output / tensorrt_kit.ENGINE).stat().st_size
        facts |= _of_engine(place, size_bytes, f"on a {place.gpu}" if place.gpu else "ahead of time")
    largest = {tensor["name"]: tensor["max"] for tensor in parameters["inputs"]}
    if estimate := graph_memory.weights_and_peak(request.source, largest):
        batch = tensorrt_kit.largest_batch(parameters["inputs"])
        how = f"weights plus peak live activations of the unfused ONNX graph at batch {batch}, without CUDA's context"
        facts["memory_estimate"] = {"bytes": sum(estimate), "how": how}
    return facts


def _of_engine(place: tensorrt_kit.EnginePlatform, size_bytes: int, where: str) -> dict[str, Json]:
    """What is said of an engine."""
    by = f"{place.builder} {place.version}"
    said = f"engine built {where} for compute capability {place.compute_capability} by {by}"
    return {
        "engine": said,
        "engine_bytes": size_bytes,
        "size_bytes": size_bytes,
        "not_measured": f"not measured: no device attached; {said}",
    }


def facts_with(
    facts: Mapping[str, object],
    place: tensorrt_kit.EnginePlatform,
    size_bytes: int,
    device: str,
    driver: str | None,
) -> dict[str, object]:
    """A kit's facts once a device has built its engine."""
    known = {name: value for name, value in facts.items() if name != "needs_device"}
    of_driver = f" with driver {driver}" if driver else ""
    said = _of_engine(place, size_bytes, f"on {device}, a {place.gpu}{of_driver},")
    built_on = asdict(place) | {"device": device, "driver": driver}
    return known | said | {"built_on": built_on}


def _variant(
    precision: Precision,
    source: str,
    description: str,
    recipe: Callable[["ModelSpec"], str],
) -> Variant:
    return Variant(
        name=f"tensorrt_engine_{precision}",
        description=f"{description}: the engine and the kit that rebuilds it on another GPU.",
        format="tensorrt",
        precision=precision,
        source=source,
        runtime="tensorrt",
        build=build,
        parameters=parameters_of(precision, recipe),
        code_version="4",
        tools=("onnx", "onnxruntime"),  # the builder and its version are parameters, because they depend on the machine
        kinds=("tensorrt",),
        extra=EXTRA,
        process="tensorrt",
        stand_in="kit_onnx",
    )


ENGINES = (
    _variant("fp32", onnx_format.MODEL.name, "TensorRT in fp32", lambda _spec: "fp32"),
    _variant("fp16", float16.VARIANT.name, "TensorRT in fp16", lambda _spec: "fp16"),
    _variant("int8", int8_tensorrt.VARIANT.name, "TensorRT in int8, the rest in fp16", int8_tensorrt.recipe),
)
