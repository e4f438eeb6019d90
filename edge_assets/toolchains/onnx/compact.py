"""QDQ graphs without what no runtime needs: it is a tenth of a small model's file.

The quantizer writes a zero point of its own for every tensor, the shapes that it inferred, and inner tensors' names
made of all that happened to them; the exporter writes where in the source a node is from. Here equal zero points are
shared, origins are dropped, shapes are left to the runtime, which infers them anyway, and inner tensors are numbered;
inputs, outputs, weights and nodes keep their names.
"""

from typing import TYPE_CHECKING

from edge_assets.toolchains.onnx.graph import initializers, keep_initializers, reads

if TYPE_CHECKING:
    import onnx


def compact(model: "onnx.ModelProto") -> None:
    """Make the graph smaller in place; what it computes stays the same."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
    _share_zero_points(graph)
    short = _short_names(graph)
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = short.get(name, name)


def _short_names(graph: "onnx.GraphProto") -> dict[str, str]:
    """A number for every tensor between two nodes, in the graph's order, that no other tensor is called by."""
    kept = set(initializers(graph))
    kept.update(value.name for value in (*graph.input, *graph.output))
    inner: dict[str, None] = {}  # as a set that keeps the order
    for node in graph.node:
        for name in node.output:
            if name and name not in kept:
                inner[name] = None
    short: dict[str, str] = {}
    for name in inner:
        number = len(short)
        while f"t{number}" in kept:
            number += len(inner)
        short[name] = f"t{number}"
    return short


def _share_zero_points(graph: "onnx.GraphProto") -> None:
    """Let the nodes read the first of equal zero points; the others go, where nothing else reads them."""
    from onnx import numpy_helper

    tensors = initializers(graph)
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        name = node.input[2]
        if name not in tensors:
            continue
        tensor = tensors[name]
        content = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        node.input[2] = first.setdefault(content, name)
        if node.input[2] != name:
            dropped.add(name)
    keep_initializers(graph, (tensors.keys() - dropped) | reads(graph.node).keys())
