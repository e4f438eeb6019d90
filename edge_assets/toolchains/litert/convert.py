"""LiteRT (TensorFlow Lite): conversion from PyTorch and sessions of the interpreter with its XNNPACK delegate.

Images are NHWC at the interface, as cameras and LiteRT's kernels have them; the session transposes, so that it takes
what the model takes in PyTorch. Names at the interface are the spec's.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.checkpoint import load_model
from edge_assets.core.memory import Lifetime, peak_live_bytes
from edge_assets.core.session import Feeds, Session
from edge_assets.core.variant import CHECKPOINT, BuildRequest, Variant
from edge_assets.errors import ExportError, Refused, told
from edge_assets.toolchains.onnx.export import example_inputs
from edge_assets.toolchains.onnx.fixed_batch import check_sizes, fixed, one_by_one
from edge_assets.toolchains.onnx.fixed_batch import describe as describe_static

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec, Tensor
    from edge_assets.targets import Target

FILE = "model.tflite"
IMAGE_RANK = 4  # NCHW in PyTorch
DELEGATE = "DELEGATE"


# --- sessions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Port:
    """One input or output as the file has it: dtype, affine quantization and layout."""

    index: int
    dtype: type[np.generic]
    scale: float | None
    zero_point: int
    channels_last: bool

    @classmethod
    def of(cls, details: Mapping[str, Any], channels_last: bool, index: int | None = None) -> "Port":
        """From what the interpreter says of a tensor."""
        scales = details["quantization_parameters"]["scales"]
        zeros = details["quantization_parameters"]["zero_points"]
        scale = float(scales[0]) if len(scales) and np.issubdtype(details["dtype"], np.integer) else None
        zero_point = int(zeros[0]) if scale is not None else 0
        return cls(details["index"] if index is None else index, details["dtype"], scale, zero_point, channels_last)

    def encode(self, array: np.ndarray) -> np.ndarray:
        """The model's input as the file takes it: q = round(x / scale) + zero point, saturated."""
        value = np.moveaxis(array, 1, -1) if self.channels_last else array
        if self.scale is not None:
            limits = np.iinfo(np.dtype(self.dtype))
            value = np.clip(np.rint(value / self.scale) + self.zero_point, limits.min, limits.max)
        return np.ascontiguousarray(value, self.dtype)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """The model's output from the file's: x = scale * (q - zero point)."""
        value = np.array(array)
        if self.scale is not None:
            value = (self.scale * (value.astype(np.float32) - self.zero_point)).astype(np.float32)
        return np.moveaxis(value, -1, 1) if self.channels_last else value


class LiteRTSession:
    """The LiteRT interpreter on this CPU, with its default XNNPACK delegate."""

    def __init__(self, interpreter: Any, inputs: Sequence[str], outputs: Sequence[str], last: Sequence[str]) -> None:
        interpreter.allocate_tensors()
        self.interpreter = interpreter
        runner = interpreter.get_signature_runner()  # not kept: the interpreter refuses to run while others hold it
        details_in, details_out = runner.get_input_details(), runner.get_output_details()
        self.inputs = {name: Port.of(details_in[name], name in last) for name in inputs}
        self.outputs = {name: Port.of(details_out[name], name in last) for name in outputs}
        self.shapes = {name: _as_in_pytorch(details_in[name]["shape"], name in last) for name in inputs}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_sizes(feeds, self.shapes)
        return one_by_one(self._run, feeds)

    def _run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        for name, port in self.inputs.items():
            self.interpreter.set_tensor(port.index, port.encode(feeds[name]))
        self.interpreter.invoke()
        return {name: port.decode(self.interpreter.get_tensor(port.index)) for name, port in self.outputs.items()}


def _as_in_pytorch(shape: Sequence[int], channels_last: bool) -> Sequence[int]:
    """A shape of the file's, with the channels where PyTorch has them."""
    return [shape[0], shape[-1], *shape[1:-1]] if channels_last else shape


def open_session(
    path: Path, *, threads: int, inputs: Sequence[str], outputs: Sequence[str], channels_last: Sequence[str] = ()
) -> Session:
    """The interpreter with `threads` threads; `channels_last` names what the file has in NHWC."""
    return LiteRTSession(interpreter(path, threads), inputs, outputs, channels_last)


def interpreter(path: Path, threads: int = 1) -> Any:
    """LiteRT's interpreter of a file, not yet allocated."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=threads)


# --- conversion ----------------------------------------------------------------------------------------


def build_model(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the checkpoint. Raises Refused naming an operator that LiteRT lacks, ExportError for anything else."""
    import litert_torch

    spec = fixed(request.spec)
    model = load_model(spec.architecture, request.source)
    images = _images(spec.inputs)
    wrapped = litert_torch.to_channel_last_io(model, args=images, outputs=_images(spec.outputs))
    example = tuple(
        tensor.movedim(1, -1).contiguous() if i in images else tensor
        for i, tensor in enumerate(example_inputs(spec, batch=1))
    )
    try:
        converted = litert_torch.convert(wrapped.eval(), example)
    except Exception as error:  # the converter raises many types; each is the user's model's problem
        raise _explained(error) from error
    path = request.output / FILE
    converted.export(str(path))
    _name_interface(path, request.spec)
    return describe(path, request.spec)


def _images(tensors: Sequence["Tensor"]) -> list[int]:
    return [i for i, tensor in enumerate(tensors) if len(tensor.shape) == IMAGE_RANK]


def channels_last(spec: "ModelSpec") -> list[str]:
    """Names of the inputs and outputs that are NHWC in the file."""
    return [tensor.name for tensor in (*spec.inputs, *spec.outputs) if len(tensor.shape) == IMAGE_RANK]


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


def _name_interface(path: Path, spec: "ModelSpec") -> None:
    """Give the signature the spec's names: the converter calls them args_0 and output_0."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (signature,) = model.signatureDefs
    for entries, tensors, prefix in (
        (signature.inputs, spec.inputs, "args"),
        (signature.outputs, spec.outputs, "output"),
    ):
        names = {f"{prefix}_{i}": tensor.name for i, tensor in enumerate(tensors)}
        for entry in entries:
            entry.name = names[entry.name.decode()]
    flatbuffer_utils.write_model(model, str(path))


def inline_buffers(path: Path) -> None:
    """Move weights from behind the flatbuffer into it.

    ai-edge-quantizer appends them, as models over 2 GB need; TFLite Micro does not know that form, and takes such
    weights for empty tensors without an error.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for buffer in model.buffers:
        buffer.offset = buffer.size = 0
    flatbuffer_utils.write_model(model, str(path))


# --- what a file holds ---------------------------------------------------------------------------------


def describe(path: Path, spec: "ModelSpec") -> dict[str, Any]:
    """What can be read back: signature with layouts, operators, weights by type, and what XNNPACK takes."""
    return {
        **describe_static(spec),
        "signature": signature(path, spec),
        "operators": dict(Counter(kind for kind, _ in operators(path)).most_common()),
        "weights": dict(weights_by_type(path)),
        "delegation": delegation(path),
        "session": {"channels_last": channels_last(spec)},
    }


def signature(path: Path, spec: "ModelSpec") -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs: name, dtype, shape, layout and, where they are integers, scale and zero point."""
    runner = interpreter(path).get_signature_runner()
    last = channels_last(spec)

    def entry(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
        port = Port.of(details, name in last)
        found = {
            "name": name,
            "dtype": np.dtype(details["dtype"]).name,
            "shape": [int(axis) for axis in details["shape"]],
            "layout": "NHWC" if port.channels_last else "as in PyTorch",
        }
        return found | ({"scale": port.scale, "zero_point": port.zero_point} if port.scale is not None else {})

    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return {
        "inputs": [entry(tensor.name, inputs[tensor.name]) for tensor in spec.inputs],
        "outputs": [entry(tensor.name, outputs[tensor.name]) for tensor in spec.outputs],
    }


def operators(path: Path) -> list[tuple[str, Any]]:
    """The operators of the main graph in execution order: name, and the flatbuffer's object."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    return [
        (str(flatbuffer_utils.opcode_to_name(model, op.opcodeIndex)), op) for op in model.subgraphs[0].operators or []
    ]


def operators_on(path: Path, kinds: Sequence[str]) -> set[str]:
    """Names of the operators that read or write a tensor of those types (FLOAT32, INT8, ...)."""
    from ai_edge_litert.tools import flatbuffer_utils

    tensors = flatbuffer_utils.read_model(str(path)).subgraphs[0].tensors
    types = [flatbuffer_utils.type_to_name(tensor.type) for tensor in tensors]
    return {name for name, op in operators(path) if any(types[i] in kinds for i in (*op.inputs, *op.outputs) if i >= 0)}


def interface_order(path: Path) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs in the order of the file, for runtimes that know them by position."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (signature,), graph = model.signatureDefs, model.subgraphs[0]
    names = {entry.tensorIndex: entry.name.decode() for entry in (*signature.inputs, *signature.outputs)}
    return [names[int(i)] for i in graph.inputs], [names[int(i)] for i in graph.outputs]


def live_tensor_bytes(path: Path) -> int:
    """Peak of live activations in the file's order of operators: what any memory plan needs at least."""
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model(str(path)).subgraphs[0]
    steps: dict[int, list[int]] = {int(i): [0] for i in graph.inputs}
    for step, op in enumerate(graph.operators):
        for i in op.outputs:
            steps.setdefault(int(i), []).append(step)
        for i in op.inputs:
            if int(i) in steps:  # else a constant
                steps[int(i)].append(step)
    for i in graph.outputs:
        steps[int(i)].append(len(graph.operators))
    details = interpreter(path).get_tensor_details()
    sizes = {entry["index"]: int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize for entry in details}
    return peak_live_bytes(Lifetime(sizes[i], min(used), max(used)) for i, used in steps.items())


def weights_by_type(path: Path) -> Counter[str]:
    """Elements of constant tensors of two axes and more, by type (FLOAT32, FLOAT16, INT8, INT4)."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    held: Counter[str] = Counter()
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        kind = flatbuffer_utils.type_to_name(tensor.type)
        if data is not None and len(data) and len(tensor.shape) > 1 and kind not in ("INT32", "INT64"):
            held[kind] += int(np.prod(tensor.shape))
    return held


def delegation(path: Path) -> dict[str, Any]:
    """What XNNPACK takes of the graph on this machine: nodes and, by operator, how many are delegated of how many.

    The interpreter tells each delegate node's inputs and outputs; what lies between them was delegated.
    """
    session = interpreter(path)
    session.allocate_tensors()
    details = session._get_ops_details()  # the only place where Python sees the delegate's nodes
    nodes = [op for op in details if op["op_name"] != DELEGATE]
    producer = {int(tensor): i for i, op in enumerate(nodes) for tensor in op["outputs"]}
    taken: set[int] = set()
    partitions = [op for op in details if op["op_name"] == DELEGATE]
    for partition in partitions:
        known = {int(tensor) for tensor in partition["inputs"]}
        waiting = [int(tensor) for tensor in partition["outputs"]]
        while waiting:
            tensor = waiting.pop()
            if tensor in known or (node := producer.get(tensor)) is None or node in taken:
                continue
            taken.add(node)
            waiting += [int(source) for source in nodes[node]["inputs"] if source >= 0]
    every, delegated = Counter(op["op_name"] for op in nodes), Counter(nodes[i]["op_name"] for i in taken)
    return {
        "delegate": "XNNPACK, on this machine",
        "partitions": len(partitions),
        "delegated_nodes": len(taken),
        "nodes": len(nodes),
        "by_operator": {name: f"{delegated[name]} of {count}" for name, count in every.most_common()},
    }


def parameters(spec: "ModelSpec", _target: "Target") -> dict[str, Any]:
    """The static tensors. The architecture's source is among the recipe's inputs."""
    from dataclasses import asdict

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
    FP32, source=FP32.name, code_version="1", tools=("ai-edge-quantizer", "ai-edge-litert"), kinds=("tensorflow",)
)
