"""Weights in blocks that share a scale, for ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Only matrix products (and, in 4 bits, tables of embeddings) have such operators: a graph that keeps most of its weights
elsewhere is refused instead of being shipped nearly unchanged.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.errors import Refused
from edge_assets.toolchains.onnx.graph import LEAST_SHARE, replace_nodes, weight_elements

if TYPE_CHECKING:
    import onnx

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
            f"convolutions. Use {instead}."
        )


def to_nearest(
    model: "onnx.ModelProto", blocks: Blocks, operators: Collection[str], exclude: Collection[str] = ()
) -> Any:
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


def quantize(model: "onnx.ModelProto", config: Any, blocks: Blocks, exclude: Collection[str] = ()) -> Any:
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
    return quantizer.model.model


def split_gemm(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Linear layers as MatMul and Add, which is what the quantizer looks for; other Gemms stay.

    The MatMul has the Gemm's name, so that a layer is the same in both.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        plain = options.get("alpha", 1) == 1 and options.get("beta", 1) == 1 and not options.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in tensors:
            nodes.append(node)
            continue
        weights = numpy_helper.to_array(tensors[node.input[1]])
        name = f"{node.output[0]}_weights"
        model.graph.initializer.append(
            numpy_helper.from_array((weights.T if options.get("transB", 0) else weights).copy(), name)
        )
        product = f"{node.output[0]}_product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_bias"))
    replace_nodes(model, nodes)
    return model


def product_node(node: "onnx.NodeProto", codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> Any:
    """MatMulNBits in 4 bits in the place of `node`, and its three weights.

    `codes` uint8 [inputs, outputs] in 0..15, `scales` float32 and `zeros` uint8 [inputs / block, outputs]. The layout
    is that of ONNX Runtime's ContribOperators.md: output by output, two values a byte, the first in the low half.
    """
    from onnx import helper, numpy_helper

    inputs, outputs = codes.shape
    size = inputs // len(scales)
    cut = codes.T.reshape(outputs, len(scales), size)
    zeros = np.pad(zeros.T, ((0, 0), (0, len(scales) % 2)))
    arrays = {
        "codes": cut[..., 0::2] | cut[..., 1::2] << 4,
        "scales": scales.T.reshape(-1),
        "zeros": (zeros[:, 0::2] | zeros[:, 1::2] << 4).reshape(-1),
    }
    names = {what: f"{node.output[0]}_{what}" for what in arrays}  # a weight may have several readers
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], *names.values()],
        [node.output[0]],
        name=node.name,
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=4,
        block_size=size,
    )
    return product, [numpy_helper.from_array(np.ascontiguousarray(a), names[what]) for what, a in arrays.items()]


def count(path: Path) -> int:
    """How many nodes compute with weights in blocks."""
    import onnx

    return sum(node.op_type in OPERATORS for node in onnx.load(path, load_external_data=False).graph.node)
