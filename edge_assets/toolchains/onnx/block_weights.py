"""Weights in blocks that share a scale, for ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Only matrix products (and, in 4 bits, tables of embeddings) have such operators: a graph that keeps most of its weights
elsewhere is refused instead of being shipped nearly unchanged.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import Refused
from edge_assets.later import np
from edge_assets.toolchains.onnx.graph import LEAST_SHARE, initializers, replace_nodes, weight_elements

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import WeightOnlyQuantConfig

OPERATORS = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(frozen=True)
class Blocks:
    """How weights are cut: `size` values along the inputs of a product share a scale and, if asymmetric, a zero point.

    `accuracy_level` 4 quantizes activations to int8 at run time, block by block; None computes in fp32.
    """

    bits: int
    size: int
    symmetric: bool = False
    accuracy_level: int | None = None


def check_share(source: Path, instead: str) -> None:
    """Raises Refused where matrix products and embeddings hold too little of the graph's weights."""
    held = weight_elements(source)
    share = (held["MatMul"] + held["Gemm"] + held["Gather"]) / max(1, held.total())
    if share < LEAST_SHARE:
        raise Refused(
            f"matrix products and embeddings hold {100 * share:.0f} % of the weights (at least "
            f"{100 * LEAST_SHARE:.0f} % needed), and MatMulNBits, ONNX Runtime's operator for them, has no form for "
            f"convolutions and recurrent layers. Use {instead}."
        )


def to_nearest(
    model: onnx.ModelProto,
    blocks: Blocks,
    operators: Collection[str],
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """Round constant weights of `operators` ("MatMul", "Gather") to the nearest value (RTN); the changed model."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig

    config = DefaultWeightOnlyQuantConfig(
        block_size=blocks.size,
        is_symmetric=blocks.symmetric,
        accuracy_level=blocks.accuracy_level,
        op_types_to_quantize=tuple(operators),
        bits=blocks.bits,
    )
    return quantize(model, config, blocks, exclude)


def quantize(
    model: onnx.ModelProto,
    config: WeightOnlyQuantConfig,
    blocks: Blocks,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """Run ONNX Runtime's quantizer with one of its configurations; nodes named in `exclude` stay as they are."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        model,
        bits=blocks.bits,
        block_size=blocks.size,
        is_symmetric=blocks.symmetric,
        accuracy_level=blocks.accuracy_level,
        nodes_to_exclude=list(exclude),
        algo_config=config,
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


# --- linear layers -------------------------------------------------------------------------------------


def split_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Linear layers as MatMul and Add, which is what the quantizer looks for; other Gemms stay.

    The MatMul has the Gemm's name, so that a layer is the same in both.
    """
    tensors = initializers(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[1] in tensors and is_linear(node):
            weights = _linear_weights(node, tensors[node.input[1]])
            model.graph.initializer.append(weights)
            nodes.extend(_product_and_sum(node, weights.name))
        else:
            nodes.append(node)
    replace_nodes(model, nodes)
    return model


def is_linear(gemm: onnx.NodeProto) -> bool:
    """Whether it is a product and a sum alone: nothing scaled, its activations not transposed."""
    options = attributes(gemm)
    return options.get("alpha", 1) == 1 and options.get("beta", 1) == 1 and not options.get("transA", 0)


def _linear_weights(gemm: onnx.NodeProto, tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Its weights [inputs, outputs], as MatMul takes them, under a name of their own."""
    from onnx import numpy_helper

    weights = numpy_helper.to_array(tensor)
    if attributes(gemm).get("transB", 0):
        weights = weights.T
    return numpy_helper.from_array(weights.copy(), f"{gemm.output[0]}_weights")


def _product_and_sum(gemm: onnx.NodeProto, weights: str) -> list[onnx.NodeProto]:
    """The MatMul in its place and, where it has a bias, the Add."""
    from onnx import helper

    (output,) = gemm.output
    if len(gemm.input) == 2:
        return [helper.make_node("MatMul", [gemm.input[0], weights], [output], name=gemm.name)]
    product = f"{output}_product"
    return [
        helper.make_node("MatMul", [gemm.input[0], weights], [product], name=gemm.name),
        helper.make_node("Add", [product, gemm.input[2]], [output], name=f"{gemm.name}_bias"),
    ]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes by name."""
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


# --- 4-bit products ------------------------------------------------------------------------------------


def product_node(
    node: onnx.NodeProto,
    codes: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """MatMulNBits in 4 bits in the place of `node`, and its three weights.

    `codes` uint8 [inputs, outputs] in 0..15, `scales` float32 and `zeros` uint8 [inputs / block, outputs]. The layout
    is that of ONNX Runtime's ContribOperators.md: output by output, two values a byte, the first in the low half.
    """
    from onnx import helper, numpy_helper

    inputs, outputs = codes.shape
    blocks = len(scales)
    size = inputs // blocks
    cut = codes.T.reshape(outputs, blocks, size)
    whole_bytes = np.pad(zeros.T, ((0, 0), (0, blocks % 2)))
    arrays = {
        "codes": _two_a_byte(cut),
        "scales": scales.T.reshape(-1),
        "zeros": _two_a_byte(whole_bytes).reshape(-1),
    }
    tensors = []
    for what, array in arrays.items():
        # named by the output, because a weight may have several readers
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{node.output[0]}_{what}"))
    weights = [tensor.name for tensor in tensors]
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], *weights],
        [node.output[0]],
        name=node.name,
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=4,
        block_size=size,
    )
    return product, tensors


def _two_a_byte(values: np.ndarray) -> np.ndarray:
    """Neighbours along the last axis in one byte, the first in its low half."""
    low, high = values[..., 0::2], values[..., 1::2]
    packed: np.ndarray = low | high << 4
    return packed


def count(path: Path) -> int:
    """How many nodes compute with weights in blocks."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type in OPERATORS for node in graph.node)
