"""In which precisions an ONNX file holds its weights."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.toolchains.onnx.session import graph_file

if TYPE_CHECKING:
    import onnx

# by the names of onnx.TensorProto's types; integers of more bits are indices and shapes
PRECISIONS = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "fp16",
    "INT8": "int8",
    "UINT8": "int8",
    "INT4": "int4",
    "UINT4": "int4",
}
BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
# what of an operator's inputs, by position, is a scale, a zero point or an index and no weight
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
}
PACKED = {"MatMulNBits": 1, "GatherBlockQuantized": 0}  # operators whose uint8 input holds codes of `bits` bits


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of constant tensors of two axes and more by precision, wherever they lie: loop bodies and tables too."""
    import onnx

    held: Counter[str] = Counter()
    for graph in _graphs(onnx.load(graph_file(path), load_external_data=False).graph):
        parameters = _parameters(graph)
        packed = _packed(graph)
        for name, tensor in _constants(graph):
            precision = PRECISIONS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
            if precision is None or len(tensor.dims) < 2 or name in parameters:
                continue
            elements = math.prod(tensor.dims)
            held[packed.get(name, precision)] += elements * BITS[precision] // 8
    return dict(held)


def _graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """The graph and the bodies of its branches and loops."""
    yield graph
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                yield from _graphs(entry.g)
            for body in entry.graphs:
                yield from _graphs(body)


def _constants(graph: "onnx.GraphProto") -> "Iterator[tuple[str, onnx.TensorProto]]":
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for entry in node.attribute:
            if entry.name == "value":
                yield node.output[0], entry.t


def _parameters(graph: "onnx.GraphProto") -> set[str]:
    """Names of the scales, zero points and indices."""
    names = set()
    for node in graph.node:
        for position in PARAMETERS.get(node.op_type, ()):
            if position < len(node.input):
                names.add(node.input[position])
    return names


def _packed(graph: "onnx.GraphProto") -> dict[str, str]:
    """The precision of tensors whose bytes hold several codes each."""
    found = {}
    for node in graph.node:
        if node.op_type not in PACKED:
            continue
        bits = next((entry.i for entry in node.attribute if entry.name == "bits"), 4)
        found[node.input[PACKED[node.op_type]]] = f"int{bits}"
    return found
