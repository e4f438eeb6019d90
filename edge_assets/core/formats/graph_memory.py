"""How much memory an ONNX graph needs, estimated from the graph alone: for hardware that is not at hand."""

import math
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

    model = _with_shapes(onnx.load(path), shapes)
    graph = model.graph
    sizes = {value.name: _bytes(value) for value in (*graph.value_info, *graph.input, *graph.output)}
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

    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            axis.dim_value = size
    del model.graph.value_info[:]  # they name the dynamic axes
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _bytes(value: "onnx.ValueInfoProto") -> int | None:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not axis.HasField("dim_value") for axis in kind.shape.dim):
        return None
    elements = math.prod(axis.dim_value for axis in kind.shape.dim)
    return elements * tensor_dtype_to_np_dtype(kind.elem_type).itemsize
