"""QDQ graphs in another integer flavour, without a changed value.

An int8 `q` with zero point `z` stands for what the uint8 `q + 128` with zero point `z + 128` stands for. So a graph
made with int8 becomes one with uint8 activations, which x86 kernels are fast with, or with uint8 weights, whose
products do not saturate where there is no VNNI (onnxruntime.ai, "Quantize ONNX models").
"""

from typing import TYPE_CHECKING, Literal

from edge_assets.toolchains.onnx.graph import drop_unused, initializers

if TYPE_CHECKING:
    import onnx

SHIFT = 128
Type = Literal["int8", "uint8"]


def retype(model: "onnx.ModelProto", activations: Type, weights: Type) -> None:
    """Give an int8 graph's activations and weights these types, in place. Every QDQ node has a zero point."""
    graph = model.graph
    tensors = initializers(graph)
    shifted: dict[str, str] = {}

    def shift(name: str) -> str:
        if name not in shifted:
            shifted[name] = f"{name}_u8"
            graph.initializer.append(_shifted(tensors[name], shifted[name]))
        return shifted[name]

    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        values, zero_point = node.input[0], node.input[2]
        if values in tensors and weights == "uint8":
            node.input[2] = shift(zero_point)
            node.input[0] = shift(values)
        if values not in tensors and activations == "uint8":
            node.input[2] = shift(zero_point)
    drop_unused(graph)
    del graph.value_info[:]  # they tell the old types


def _shifted(tensor: "onnx.TensorProto", name: str) -> "onnx.TensorProto":
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array((values.astype(np.int16) + SHIFT).astype(np.uint8), name)
