"""LiteRT (TensorFlow Lite): conversion from PyTorch and sessions of the interpreter with its XNNPACK delegate.

Images are NHWC at the interface, as cameras and LiteRT's kernels have them; the session transposes, so that it takes
what the model takes in PyTorch. Names at the interface are the spec's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from edge_assets.core.memory import Lifetime, peak_live_bytes
from edge_assets.core.sizes import GIB, is_too_large
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.later import np
from edge_assets.toolchains.litert.c_array import FILE as C_ARRAY
from edge_assets.toolchains.litert.c_array import read_array
from edge_assets.toolchains.litert.session import IndexedTensorDetails, Port, interpreter
from edge_assets.toolchains.onnx.fixed_batch import describe as describe_static
from edge_assets.toolchains.onnx.fixed_batch import fixed
from edge_assets.toolchains.pytorch.calling import example_inputs, load_network, network_bytes
from edge_assets.toolchains.pytorch.steps import recurrent_steps

if TYPE_CHECKING:
    import torch
    from ai_edge_litert.schema_py_generated import ModelT, SubGraphT, TensorMapT

    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target

FILE = "model.tflite"
IMAGE_RANK = 4  # NCHW in PyTorch
MOST_STEPS = 1000  # of recurrent layers: about 16 operators each, 0.1 s to convert and 1 ms a sample to calibrate
DELEGATE = "DELEGATE"
INDEX_TYPES = ("INT32", "INT64")  # of shapes and axes, which are no weights
WEIGHT_TYPES = {"FLOAT32": ("fp32", 32), "FLOAT16": ("fp16", 16), "INT8": ("int8", 8), "INT4": ("int4", 4)}


# --- conversion ----------------------------------------------------------------------------------------


def build_model(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the checkpoint. Raises ExportError, or Refused for an operator that LiteRT lacks, size or many steps."""
    import litert_torch

    spec = fixed(request.spec)
    model = load_network(spec, request.source)
    if is_too_large(network_bytes(model)):
        raise Refused(
            f"the weights take {network_bytes(model) / GIB:.1f} GiB, and a LiteRT file holds less than 2: use an ONNX "
            f"variant"
        )
    _check_steps(recurrent_steps(model, example_inputs(spec, batch=1)))
    wrapped = litert_torch.to_channel_last_io(
        model,
        args=_image_positions(spec.inputs),
        outputs=_image_positions(spec.outputs),
    )
    try:
        converted = litert_torch.convert(wrapped.eval(), _example_of_the_file(spec))
    except Exception as error:  # the converter raises many types; each is the user's model's problem
        raise _explained(error) from error
    path = request.output / FILE
    converted.export(str(path))
    _name_interface(path, request.spec)
    return describe(path, request.spec)


def _check_steps(steps: int) -> None:
    """Raises Refused where recurrent layers take more steps than can be converted in minutes."""
    if steps > MOST_STEPS:
        raise Refused(
            f"recurrent layers take {steps} steps for one sample, and a LiteRT file has operators for each: at most "
            f"{MOST_STEPS}, which take minutes to convert and to calibrate. Export a shorter sequence with the "
            f"state as input and output (ModelSpec(states=...)), or use an ONNX variant."
        )


def _is_image(tensor: Tensor) -> bool:
    return len(tensor.shape) == IMAGE_RANK and tensor.batch_axis == 0


def _image_positions(tensors: Sequence[Tensor]) -> list[int]:
    return [i for i, tensor in enumerate(tensors) if _is_image(tensor)]


def _example_of_the_file(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """One sample of each input as the file takes it, images in NHWC."""
    example = []
    as_in_pytorch = example_inputs(spec, batch=1)
    for tensor, values in zip(spec.inputs, as_in_pytorch, strict=True):
        example.append(values.movedim(1, -1).contiguous() if _is_image(tensor) else values)
    return tuple(example)


def channels_last(spec: ModelSpec) -> list[str]:
    """Names of the inputs and outputs that are NHWC in the file."""
    return [tensor.name for tensor in spec.inputs + spec.outputs if _is_image(tensor)]


def _explained(error: BaseException) -> Refused | ExportError:
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if missing := re.search(r"Lowering not found: (\S+)", "\n".join(map(str, chain))):
        return Refused(
            f"operator {missing[1]} has no LiteRT form. The nearest alternative format is ExecuTorch "
            f"(executorch_fp32); else replace the operator in the model."
        )
    return ExportError(f"conversion to LiteRT failed: {told(error)}")


def _name_interface(path: Path, spec: ModelSpec) -> None:
    """Give the signature the spec's names: the converter calls them args_0 and output_0."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = _read(path)
    (signature,) = model.signatureDefs
    _rename(signature.inputs, "args", spec.inputs)
    _rename(signature.outputs, "output", spec.outputs)
    flatbuffer_utils.write_model(model, str(path))


def _rename(entries: Sequence[TensorMapT], prefix: str, tensors: Sequence[Tensor]) -> None:
    names = {f"{prefix}_{i}": tensor.name for i, tensor in enumerate(tensors)}
    for entry in entries:
        entry.name = names[entry.name.decode()]


def inline_buffers(path: Path) -> None:
    """Move weights from behind the flatbuffer into it.

    ai-edge-quantizer appends them, as models over 2 GB need; TFLite Micro does not know that form, and takes such
    weights for empty tensors without an error.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = _read(path)
    for buffer in model.buffers:
        buffer.offset = buffer.size = 0
    flatbuffer_utils.write_model(model, str(path))


# --- what a file holds ---------------------------------------------------------------------------------


def describe(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """What can be read back: signature with layouts, operators, weights by type, and what XNNPACK takes."""
    return {
        **describe_static(spec),
        "signature": signature(path, spec),
        "operators": dict(Counter(operator.name for operator in operators(path)).most_common()),
        "weights": dict(weights_by_type(path)),
        "delegation": delegation(path),
        "session": {"channels_last": channels_last(spec)},
    }


def signature(path: Path, spec: ModelSpec) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs: name, dtype, shape, layout and, where they are integers, scale and zero point."""
    runner = interpreter(path).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return {
        "inputs": _entries(spec.inputs, inputs),
        "outputs": _entries(spec.outputs, outputs),
    }


def _entries(tensors: Sequence[Tensor], details: Mapping[str, IndexedTensorDetails]) -> list[dict[str, object]]:
    return [_entry(tensor, details[tensor.name]) for tensor in tensors]


def _entry(tensor: Tensor, details: IndexedTensorDetails) -> dict[str, object]:
    port = Port.of(details, details["index"], _is_image(tensor))
    entry: dict[str, object] = {
        "name": tensor.name,
        "dtype": np.dtype(port.dtype).name,
        "shape": [int(axis) for axis in details["shape"]],
        "layout": "NHWC" if port.channels_last else "as in PyTorch",
    }
    if port.scale is not None:
        entry |= {"scale": port.scale, "zero_point": port.zero_point}
    return entry


@dataclass(frozen=True)
class Operator:
    """One operator of a file's graph, and the indices of the tensors that it reads and writes."""

    name: str
    inputs: list[int]
    outputs: list[int]

    @property
    def tensors(self) -> list[int]:
        return self.inputs + self.outputs


def _read(path: Path) -> ModelT:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model(str(path))


def _main_graph(path: Path) -> SubGraphT:
    return _read(path).subgraphs[0]


def operators(path: Path) -> list[Operator]:
    """The operators of the main graph in execution order."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = _read(path)
    found = []
    for entry in model.subgraphs[0].operators or []:
        operator = Operator(
            name=str(flatbuffer_utils.opcode_to_name(model, entry.opcodeIndex)),
            inputs=_given(entry.inputs),
            outputs=_given(entry.outputs),
        )
        found.append(operator)
    return found


def _given(tensors: Iterable[int]) -> list[int]:
    """Indices of tensors without the -1 that stands for an optional one that is not given."""
    return [int(tensor) for tensor in tensors if tensor >= 0]


def operators_on(path: Path, kinds: Sequence[str]) -> set[str]:
    """Names of the operators that read or write a tensor of those types (FLOAT32, INT8, ...)."""
    from ai_edge_litert.tools import flatbuffer_utils

    types = [flatbuffer_utils.type_to_name(tensor.type) for tensor in _main_graph(path).tensors]
    found = set()
    for operator in operators(path):
        if any(types[tensor] in kinds for tensor in operator.tensors):
            found.add(operator.name)
    return found


def interface_order(path: Path) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs in the order of the file, for runtimes that know them by position.

    Raises ExportError where the file has not one signature.
    """
    model = _read(path)
    graph = model.subgraphs[0]
    if len(model.signatureDefs or []) != 1:
        raise ExportError(f"{path.name} has no signature, or several: nothing names its inputs and outputs")
    (signature,) = model.signatureDefs
    return _in_order(signature.inputs, graph.inputs), _in_order(signature.outputs, graph.outputs)


def _in_order(entries: Iterable[TensorMapT], tensors: Iterable[int]) -> list[str]:
    """A signature's names in the order of `tensors`."""
    names = {entry.tensorIndex: entry.name.decode() for entry in entries}
    return [names[int(tensor)] for tensor in tensors]


def live_tensor_bytes(path: Path) -> int:
    """Peak of live activations in the file's order of operators: what any memory plan needs at least."""
    graph = _main_graph(path)
    steps = operators(path)
    first = {int(tensor): 0 for tensor in graph.inputs}  # constants are in neither
    last = dict(first)
    for step, operator in enumerate(steps):
        for tensor in operator.outputs:
            first.setdefault(tensor, step)
            last[tensor] = step
        for tensor in operator.inputs:
            if tensor in first:
                last[tensor] = step
    for tensor in graph.outputs:
        last[int(tensor)] = len(steps)
    sizes = _tensor_bytes(path)
    lifetimes = []
    for tensor, start in first.items():
        lifetimes.append(Lifetime(sizes[tensor], start, last[tensor]))
    return peak_live_bytes(lifetimes)


def _tensor_bytes(path: Path) -> dict[int, int]:
    """Bytes of each tensor by its index."""
    details: list[IndexedTensorDetails] = interpreter(path).get_tensor_details()
    sizes = {}
    for tensor in details:
        elements = int(np.prod(tensor["shape"]))
        sizes[tensor["index"]] = elements * np.dtype(tensor["dtype"]).itemsize
    return sizes


def weights_by_type(path: Path) -> Counter[str]:
    """Elements of constant tensors of two axes and more, by type (FLOAT32, FLOAT16, INT8, INT4)."""
    return _weights_by_type(_read(path))


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of weights by precision, of a file or of the C array in a folder."""
    from ai_edge_litert.tools import flatbuffer_utils

    if path.is_dir():
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(read_array(path / C_ARRAY)))
    else:
        model = _read(path)
    found = {}
    for kind, elements in _weights_by_type(model).items():
        if kind in WEIGHT_TYPES:
            precision, bits = WEIGHT_TYPES[kind]
            found[precision] = elements * bits // 8
    return found


def _weights_by_type(model: ModelT) -> Counter[str]:
    from ai_edge_litert.tools import flatbuffer_utils

    held: Counter[str] = Counter()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = model.buffers[tensor.buffer].data
            is_constant = data is not None and len(data) > 0
            kind = flatbuffer_utils.type_to_name(tensor.type)
            if is_constant and len(tensor.shape) > 1 and kind not in INDEX_TYPES:
                held[kind] += int(np.prod(tensor.shape))
    return held


class NodeDetails(TypedDict):
    """What LiteRT's interpreter says of a node, as far as it is read here: tensors by their indices."""

    op_name: str
    inputs: np.ndarray
    outputs: np.ndarray


def delegation(path: Path) -> dict[str, Any]:
    """What XNNPACK takes of the graph on this machine: nodes and, by operator, how many are delegated of how many.

    The interpreter tells each delegate node's inputs and outputs; what lies between them was delegated.
    """
    session = interpreter(path)
    session.allocate_tensors()
    # the only place where Python sees the delegate's nodes
    details: list[NodeDetails] = session._get_ops_details()
    nodes = [node for node in details if node["op_name"] != DELEGATE]
    partitions = [node for node in details if node["op_name"] == DELEGATE]
    taken = _delegated(nodes, partitions)
    every = Counter(node["op_name"] for node in nodes)
    delegated = Counter(nodes[i]["op_name"] for i in taken)
    return {
        "delegate": "XNNPACK, on this machine",
        "partitions": len(partitions),
        "delegated_nodes": len(taken),
        "nodes": len(nodes),
        "by_operator": {name: f"{delegated[name]} of {count}" for name, count in every.most_common()},
    }


def _delegated(nodes: Sequence[NodeDetails], partitions: Sequence[NodeDetails]) -> set[int]:
    """Positions in `nodes` of those that lie between the inputs and the outputs of a partition."""
    producer = {}
    for position, node in enumerate(nodes):
        for tensor in node["outputs"]:
            producer[int(tensor)] = position
    taken: set[int] = set()
    for partition in partitions:
        known = set(_given(partition["inputs"]))
        waiting = _given(partition["outputs"])
        while waiting:
            tensor = waiting.pop()
            if tensor in known or tensor not in producer:
                continue
            position = producer[tensor]
            if position not in taken:
                taken.add(position)
                waiting += _given(nodes[position]["inputs"])
    return taken


def parameters(spec: ModelSpec, _target: Target) -> dict[str, object]:
    """The static tensors. The architecture's source is among the recipe's inputs."""
    static = fixed(spec)
    return {
        "batch": 1,
        "layout": "NHWC",
        "inputs": [asdict(tensor) for tensor in static.inputs],
        "outputs": [asdict(tensor) for tensor in static.outputs],
    }


FP32 = Variant(
    name="litert_fp32",
    description="LiteRT with float weights, images in NHWC: what every LiteRT variant starts from.",
    format="litert",
    precision="fp32",
    source=CHECKPOINT,
    runtime="litert",
    build=build_model,
    parameters=parameters,
    code_version="1",
    tools=("torch", "litert-torch", "ai-edge-litert"),
    kinds=("tensorflow", "pytorch"),
    extra="litert",
    process="litert",
)
QUANTIZED = replace(  # what the schemes made from it have in common; listed by no family itself
    FP32,
    source=FP32.name,
    code_version="1",
    tools=("ai-edge-quantizer", "ai-edge-litert"),
    kinds=("tensorflow",),
)
