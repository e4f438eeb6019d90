"""QDQ graphs without what no runtime needs: it is a tenth of a small model's file.

The quantizer writes a zero point of its own for every tensor, the shapes that it inferred, and inner tensors' names
made of all that happened to them; the exporter writes where in the source a node is from. Here equal zero points are
shared, origins are dropped, shapes are left to the runtime, which infers them anyway, and inner tensors are numbered;
inputs, outputs, weights and nodes keep their names.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def compact(model: "onnx.ModelProto") -> None:
    """Make the graph smaller in place; what it computes stays the same."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
    _share_zero_points(graph)
    kept = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    inner = dict.fromkeys(name for node in graph.node for name in node.output if name and name not in kept)
    short: dict[str, str] = {}
    for name in inner:
        number = len(short)
        while f"t{number}" in kept:
            number += len(inner)
        short[name] = f"t{number}"
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = short.get(name, name)


def _share_zero_points(graph: "onnx.GraphProto") -> None:
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    shared: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        tensor = tensors.get(node.input[2])
        if tensor is None:
            continue
        content = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        shared[tensor.name] = node.input[2] = first.setdefault(content, tensor.name)
    dropped = {name for name, kept in shared.items() if name != kept}
    used = {name for node in graph.node for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name not in dropped or tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
