"""ONNX: export from PyTorch, the portable optimised graph, and ONNX Runtime sessions.

onnx_model      torch.export based exporter, dynamic axes from the spec, opset read back, checker
onnx_optimized  the same graph after ONNX Runtime's EXTENDED optimisations, which fuse operators but, unlike
                ALL, do not bake in the building CPU's memory layout: the file is portable
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core import sizes
from edge_assets.core.axes import example_parameters, frozen
from edge_assets.core.sizes import GIB
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.onnx.session import graph_file
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network, network_bytes

if TYPE_CHECKING:
    import onnx
    import torch
    from torch.export import Dim
    from torch.onnx import ONNXProgram

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

FILE = onnx_session.FILE
DATA = f"{FILE}.data"  # weights beside a graph that is too large for one file
DEFAULT_DOMAINS = ("", "ai.onnx")  # of operators that ONNX itself defines
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter keeps the path of modules that a node comes from


def one_file(path: Path, what: str) -> Path:
    """`path`, a graph in one file. Raises Refused for one with its weights beside it, which `what` does not take."""
    if not path.is_dir():
        return path
    size = sum(file.stat().st_size for file in path.iterdir())
    raise Refused(
        f"the weights take {size / GIB:.1f} GiB and lie beside the graph, because one file holds at most "
        f"{sizes.LARGEST_FILE_BYTES / GIB:.1f} GiB: {what} takes a graph in one file. Use onnx_fp16 or an int8 variant"
    )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph with the ONNX checker, with shape inference, and write it. Raises ExportError."""
    import onnx

    if model.ByteSize() >= sizes.LARGEST_FILE_BYTES:
        raise ExportError(f"the graph has {model.ByteSize() / GIB:.1f} GiB, and a single ONNX file holds at most 2")
    check(model)
    onnx.save(model, path)


def check(model: onnx.ModelProto | str) -> None:
    """Raises ExportError where the ONNX checker does not take the graph, given itself or by its file."""
    import onnx

    graph = onnx.load(model, load_external_data=False) if isinstance(model, str) else model
    try:
        onnx.checker.check_model(model, full_check=not _uses_contrib(graph))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the graph: {error}") from error


def finish(path: Path, source: Path) -> dict[str, Any]:
    """What can be read back from a file made from the graph `source`, in whose opset and IR version it is left.

    Quantizers raise both without a word, and the target's runtime may not read such a file. Raises Refused if the
    result does need the later version.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    versions = onnx.load(graph_file(source), load_external_data=False)
    later = opset_of(model)
    if later > opset_of(versions) or model.ir_version > versions.ir_version:
        model.ir_version = min(model.ir_version, versions.ir_version)
        for entry in model.opset_import:
            if entry.domain in DEFAULT_DOMAINS:
                entry.version = opset_of(versions)
        onnx.save(model, path)
        try:
            check(str(path))
        except ExportError as error:
            raise Refused(
                f"the result needs opset {later}, and the target asks for {opset_of(versions)}. Raise the target's "
                f"opset if its runtime reads {later}: {error}"
            ) from None
    return describe(path)


def describe(path: Path) -> dict[str, Any]:
    """What can be read back from an ONNX file: opset, operator counts, inputs with their axes."""
    import onnx

    model = onnx.load(graph_file(path), load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "opset": opset_of(model),
        "operators": dict(operators.most_common()),
        "inputs": axes_of(model.graph.input),
    }


def axes_of(values: Iterable[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    """The axes of inputs or outputs by name: a size, a name, or 0 where the graph says neither."""
    axes = {}
    for value in values:
        axes[value.name] = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
    return axes


def products(model: onnx.ModelProto) -> dict[str, int]:
    """How many convolutions the graph has, how many of them are depthwise, and how many matrix products."""
    channels: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.dims:
            channels[tensor.name] = tensor.dims[0]
    counts = {"convolutions": 0, "depthwise": 0, "matrix_products": 0}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            counts["matrix_products"] += 1
        if node.op_type in ("Conv", "ConvTranspose"):
            counts["convolutions"] += 1
            group = _group(node)
            if group > 1 and group == channels.get(node.input[1]):
                counts["depthwise"] += 1
    return counts


def _group(convolution: onnx.NodeProto) -> int:
    groups: list[int] = [entry.i for entry in convolution.attribute if entry.name == "group"]
    return groups[0] if groups else 1


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set that the graph imports."""
    versions: list[int] = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    return versions[0]


def _uses_contrib(model: onnx.ModelProto) -> bool:
    return any(entry.domain not in DEFAULT_DOMAINS for entry in model.opset_import)


# --- export --------------------------------------------------------------------------------------------


def build_model(request: BuildRequest) -> Mapping[str, Any]:
    """Export the checkpoint. Raises ExportError naming the operator and module, or the opset limit."""
    model = load_network(request.spec, request.source)
    path, opset = request.output / FILE, request.parameters["opset"]
    if sizes.is_too_large(network_bytes(model)):
        exported = _export_beside(model, request.spec, opset, path)
    else:
        exported = export(model, request.spec, opset)
        save(exported, path)
    return describe(path) | {"graph": products(exported)}


def dynamic_shapes(spec: ModelSpec) -> tuple[dict[int, Dim], ...]:
    """The inputs' dynamic axes as torch.export wants them: equal names are equal sizes."""
    from torch.export import Dim

    dims: dict[str, Dim] = {}
    shapes = []
    for tensor in spec.inputs:
        shape: dict[int, Dim] = {}
        for i, axis in tensor.dynamic_axes.items():
            shape[i] = dims.setdefault(axis, Dim(axis))
        shapes.append(shape)
    return tuple(shapes)


def export(model: torch.nn.Module, spec: ModelSpec, opset: int) -> onnx.ModelProto:
    """The model as ONNX with the spec's names and dynamic axes, in exactly `opset`."""
    proto = _exported(model, spec, opset).model_proto
    _finish(proto, model, spec, opset)
    return proto


def _export_beside(model: torch.nn.Module, spec: ModelSpec, opset: int, path: Path) -> onnx.ModelProto:
    """The same with the weights beside the graph, written tensor by tensor. The graph, without its weights."""
    import onnx

    _exported(model, spec, opset).save(path, external_data=True)
    proto = onnx.load(path, load_external_data=False)
    _finish(proto, model, spec, opset)
    onnx.save(proto, path)
    check(str(path))
    return proto


def _provisional_names(spec: ModelSpec) -> dict[str, str]:
    """What outputs are called at first: the exporter names values after operators, and a name may be one already."""
    return {f"output_{i}_of_the_graph": tensor.name for i, tensor in enumerate(spec.outputs)}


def _exported(model: torch.nn.Module, spec: ModelSpec, opset: int) -> ONNXProgram:
    import torch

    example = example_inputs(spec)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                example,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=list(_provisional_names(spec)),
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=dynamic_shapes(spec),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types; each is the user's model's problem
        raise ExportError(_explain(error, model, example)) from error
    assert program is not None, "only an export to a file returns nothing"
    return program


def _finish(proto: onnx.ModelProto, model: torch.nn.Module, spec: ModelSpec, opset: int) -> None:
    """The spec's names, and what was asked for. Raises ExportError."""
    got = opset_of(proto)
    if got != opset:
        raise ExportError(
            f"asked for opset {opset}, the exporter gave {got}: this graph cannot be expressed in opset {opset}. "
            f"Raise the target's opset to {got}."
        )
    provisional = _provisional_names(spec)
    _rename(proto, {name: f"{name}_inside" for name in provisional.values()})
    _rename(proto, provisional)
    _forget_source(proto)
    _check_axes(proto, model, spec)


def _check_axes(proto: onnx.ModelProto, model: torch.nn.Module, spec: ModelSpec) -> None:
    """Raises ExportError for a dynamic axis that the exporter made a constant, with what torch says of it.

    The exporter takes what torch.export suggests, and so gives a graph for one size where the model is traced for it.
    """
    import torch

    lost = frozen(spec.inputs, axes_of(proto.graph.input)) or frozen(spec.outputs, axes_of(proto.graph.output))
    if lost is None:
        return
    try:
        with _quiet():
            torch.export.export(model, example_inputs(spec), dynamic_shapes=dynamic_shapes(spec), strict=False)
    except Exception as error:  # a private type of torch's
        raise ExportError(f"{lost}. torch says: {told(error)}") from error
    raise ExportError(f"{lost}: the model turns its size into a number. Take it from the tensor's shape in forward().")


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give values of the main graph other names."""
    graph = model.graph
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _forget_source(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, but for the modules' names: they quote source lines and paths of this machine."""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == SCOPES]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in model.graph.value_info:
        del value.metadata_props[:]


def _explain(error: BaseException, model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> str:
    """One message from the exporter's chain of errors, with operator and module where they can be found."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    messages = "\n".join(str(entry) for entry in chain)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='\w+\.(\w+)'", messages)
    if missing is not None:
        caller = _find_call(model, example, missing[1])
        if caller is not None:
            module = _module_of(caller, model)
            return f"operator {caller.target} in {module} has no ONNX form. Replace it in the model."
    return f"export to ONNX failed: {told(error)}"


def _find_call(
    model: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    name: str,
) -> torch.fx.Node | None:
    """The first call, in the traced model, of an operator whose name holds `name`."""
    import torch

    with _quiet():
        graph = torch.export.export(model, example, strict=False).graph
    node: torch.fx.Node
    for node in graph.nodes:
        if node.op == "call_function" and name in str(node.target):
            return node
    return None


def _module_of(call: torch.fx.Node, model: torch.nn.Module) -> str:
    """The module that makes a call, in words."""
    stack = list((call.meta.get("nn_module_stack") or {}).values())  # the innermost is the last
    path, kind = stack[-1] if stack else ("", type(model))
    kind_name = str(kind).rpartition(".")[2].removesuffix("'>")
    return f"module '{path}' ({kind_name})" if path else f"the model itself ({kind_name})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warnings of its own; the assets have theirs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_parameters(spec: ModelSpec, target: Target) -> dict[str, Json]:
    """The opset and the declared tensors. The architecture's source is among the recipe's inputs."""
    inputs = [asdict(tensor) for tensor in spec.inputs]
    outputs = [asdict(tensor) for tensor in spec.outputs]
    return {"opset": target.opset, "inputs": inputs, "outputs": outputs, **example_parameters(spec)}


MODEL = Variant(
    name="onnx_model",
    description="ONNX with dynamic axes, from the torch.export based exporter: what every ONNX variant starts from.",
    format="onnx",
    precision="fp32",
    source=CHECKPOINT,
    runtime="onnx",
    build=build_model,
    parameters=export_parameters,
    code_version="3",
    tools=("torch", "onnx", "onnxscript"),
    kinds=("onnx", "pytorch"),
    mlflow_flavor="onnx",
)
# what the variants made from it have in common; listed by no family itself
FROM_MODEL = replace(
    MODEL,
    source=MODEL.name,
    code_version="1",
    tools=("onnx", "onnxruntime"),
    kinds=("onnx",),
)


# --- portable optimisation -----------------------------------------------------------------------------


def build_optimized(request: BuildRequest) -> Mapping[str, Any]:
    """Fuse operators ahead of time at the highest level that is still portable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(request.output / FILE)
    options.log_severity_level = 3
    if request.source.is_dir():
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
    onnxruntime.InferenceSession(graph_file(request.source), options, providers=["CPUExecutionProvider"])
    return finish(request.output / FILE, request.source)


OPTIMIZED = replace(
    FROM_MODEL,
    name="onnx_optimized",
    description="Operators fused ahead of time by ONNX Runtime at level EXTENDED, which is portable between CPUs.",
    build=build_optimized,
    parameters=lambda _spec, _target: {"level": "extended"},
)
