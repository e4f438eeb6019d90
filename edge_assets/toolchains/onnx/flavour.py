"""QDQ graphs in another integer flavour, without a changed value.

An int8 `q` with zero point `z` stands for what the uint8 `q + 128` with zero point `z + 128` stands for. So a graph
made with int8 becomes one with uint8 activations, which x86 kernels are fast with, or with uint8 weights, whose
products do not saturate where there is no VNNI (onnxruntime.ai, "Quantize ONNX models").
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

SHIFT = 128
Type = Literal["int8", "uint8"]


def retype(model: "onnx.ModelProto", activations: Type, weights: Type) -> None:
    """Give an int8 graph's activations and weights these types, in place. Every QDQ node has a zero point."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    shifted: dict[str, str] = {}

    def shift(name: str) -> str:
        if name not in shifted:
            shifted[name] = f"{name}_u8"
            graph.initializer.append(_shifted(tensors[name], shifted[name]))
        return shifted[name]

    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        is_weight = node.input[0] in tensors
        if (weights if is_weight else activations) == "uint8":
            node.input[2] = shift(node.input[2])
            if is_weight:
                node.input[0] = shift(node.input[0])
    _drop_unused(graph)
    del graph.value_info[:]  # they tell the old types


def _shifted(tensor: "onnx.TensorProto", name: str) -> "onnx.TensorProto":
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array((values.astype(np.int16) + SHIFT).astype(np.uint8), name)


def _drop_unused(graph: "onnx.GraphProto") -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
