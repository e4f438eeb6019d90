"""int8 weights: a quarter of the size; activations stay in floating point between operators.

Matrix products compute with blocks of 128 weights (MatMulNBits at accuracy level 4: their inputs are rounded to int8
block by block as they multiply, because fp32 products of unpacked weights take twice the time). Convolutions get a
scale per output channel, applied as the session opens: a Cast and a Mul are folded into fp32 weights, a
DequantizeLinear would run at every call. Tables of embeddings get a scale per row.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Scheme
from edge_assets.core.variant import BuildRequest, in_depth
from edge_assets.errors import Refused
from edge_assets.toolchains.onnx import block_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.block_weights import Blocks
from edge_assets.toolchains.onnx.graph import initializers, reads, replace_nodes
from edge_assets.toolchains.onnx.tables import per_channel, quantize_rows

if TYPE_CHECKING:
    import onnx

BLOCKS = Blocks(bits=8, size=128, symmetric=True, accuracy_level=4)
CHANNELS = {"Conv": 0, "ConvTranspose": 1}  # axis of the weights' output channels
SCHEME = Scheme(
    precision="int8",
    kind="weights",
    weights="s8",
    granularity="perchannel",
    block=BLOCKS.size,
    accuracy_level=BLOCKS.accuracy_level,
)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize weights. Raises Refused if nothing was changed."""
    path = request.output / onnx_format.FILE
    count = quantize(request.source, path)
    described = onnx_format.finish(path, request.source)
    return described | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def quantize(source: Path, path: Path, exclude: Collection[str] = ()) -> int:
    """Write `source` with int8 weights to `path`; returns how many nodes have them. Raises Refused if none has.

    `exclude` names nodes that keep theirs.
    """
    import onnx

    source = onnx_format.one_file(source, "the quantizer of weights, which has them in memory several times,")
    model = block_weights.split_gemm(onnx.load(source))
    count = _expand_convolutions(model, exclude)
    count += quantize_rows(model, exclude)
    model = block_weights.to_nearest(model, BLOCKS, ["MatMul"], exclude)
    onnx_format.save(model, path)
    count += block_weights.count(path)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return count


def _expand_convolutions(model: "onnx.ModelProto", exclude: Collection[str]) -> int:
    """Convolutions' weights as int8 with a scale per output channel, in place; returns how many have them."""
    from onnx import numpy_helper

    tensors = initializers(model.graph)
    users = reads(model.graph.node)
    nodes, count = [], 0
    for node in model.graph.node:
        name = node.input[1] if node.op_type in CHANNELS else ""
        if name in tensors and users[name] == 1 and node.name not in exclude:
            tensor, axis = tensors[name], CHANNELS[node.op_type]
            codes, scales = per_channel(numpy_helper.to_array(tensor), axis)
            shape = [1] * codes.ndim
            shape[axis] = -1
            model.graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
            model.graph.initializer.append(numpy_helper.from_array(scales.reshape(shape), f"{name}_scales"))
            nodes += _scaled_codes(node, tensor.data_type)
            node.input[1] = f"{name}_values"
            count += 1
        nodes.append(node)
    replace_nodes(model, nodes)
    return count


def _scaled_codes(convolution: "onnx.NodeProto", data_type: int) -> "list[onnx.NodeProto]":
    """What makes its weights of their codes and scales."""
    from onnx import helper

    name = convolution.input[1]
    cast = helper.make_node(
        "Cast",
        [f"{name}_codes"],
        [f"{name}_cast"],
        name=f"{convolution.name}_weights_cast",
        to=data_type,
    )
    scale = helper.make_node(
        "Mul",
        [f"{name}_cast", f"{name}_scales"],
        [f"{name}_values"],
        name=f"{convolution.name}_weights_scale",
    )
    return [cast, scale]


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_weights",
    description="int8 weights alone: a quarter of the size where int8 activations cost too much accuracy.",
    precision="int8",
    build=build,
    parameters=lambda _spec, _target: {"recipe": SCHEME.name},
    code_version="2",
    offered=in_depth,
)
