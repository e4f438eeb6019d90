"""How much memory an ONNX graph needs, estimated from the graph alone: for hardware that is not at hand."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.memory import Lifetime, peak_live_bytes

if TYPE_CHECKING:
    import onnx


def weights_and_peak(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int] | None:
    """Bytes of the weights and of the activations alive at once at the worst point, with inputs of these shapes.

    Nodes run in the graph's order, one at a time, none in place, none fused; what is computed from weights alone is
    not counted. None if a tensor's shape cannot be inferred.
    """
    import onnx

    graph = _with_shapes(onnx.load(path), shapes).graph
    if any(size is None for size in _sizes(graph).values()):
        graph = _with_shapes(_folded(path, shapes), shapes).graph
    sizes = _sizes(graph)
    constant = {tensor.name for tensor in graph.initializer} | {""}
    weights = sum(len(onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in graph.initializer)
    steps = {value.name: [0] for value in graph.input if value.name not in constant}  # at which each is in memory
    step = 0
    for node in graph.node:
        if all(name in constant for name in node.input):
            constant |= set(node.output)
            continue
        for name in {*node.input, *node.output} - constant:
            steps.setdefault(name, []).append(step)
        step += 1
    for name in {value.name for value in graph.output} & steps.keys():
        steps[name].append(step)
    lifetimes = []
    for name, at in steps.items():
        if (size := sizes.get(name)) is None:
            return None
        lifetimes.append(Lifetime(size, min(at), max(at)))
    return weights, peak_live_bytes(lifetimes)


def _with_shapes(model: "onnx.ModelProto", shapes: Mapping[str, Sequence[int]]) -> "onnx.ModelProto":
    """The graph with fixed input shapes, and all others inferred from them."""
    import onnx

    _fix_inputs(model, shapes)
    del model.graph.value_info[:]  # they name the dynamic axes
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _fix_inputs(model: "onnx.ModelProto", shapes: Mapping[str, Sequence[int]]) -> None:
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            axis.dim_value = size


def _folded(path: Path, shapes: Mapping[str, Sequence[int]]) -> "onnx.ModelProto":
    """The graph with what its shapes alone decide computed by ONNX Runtime, such as the length of a Range."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    _fix_inputs(model, shapes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = str(Path(scratch) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _sizes(graph: "onnx.GraphProto") -> dict[str, int | None]:
    """Bytes of every value that is computed, and of inputs; None where the shape is not known."""
    known = {value.name: _bytes(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    return {name: None for node in graph.node for name in node.output if name} | known


def _bytes(value: "onnx.ValueInfoProto") -> int | None:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not axis.HasField("dim_value") for axis in kind.shape.dim):
        return None
    elements = math.prod(axis.dim_value for axis in kind.shape.dim)
    return elements * tensor_dtype_to_np_dtype(kind.elem_type).itemsize
