"""int8 weights: a quarter of the size; activations stay in floating point between operators.

Matrix products compute with blocks of 128 weights (MatMulNBits at accuracy level 4: their inputs are rounded to int8
block by block as they multiply, because fp32 products of unpacked weights take twice the time). Convolutions and
recurrent layers get a scale per output channel, applied as the session opens: a Cast and a Mul are folded into fp32
weights, a DequantizeLinear would run at every call. Tables of embeddings get a scale per row.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Scheme
from edge_assets.core.variant import BuildRequest, in_depth
from edge_assets.errors import Refused
from edge_assets.later import np
from edge_assets.toolchains.onnx import block_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.block_weights import Blocks
from edge_assets.toolchains.onnx.graph import (
    RECURRENT,
    fold_recurrent_weights,
    initializers,
    reads,
    replace_nodes,
)
from edge_assets.toolchains.onnx.tables import per_channel, quantize_rows

if TYPE_CHECKING:
    import onnx

BLOCKS = Blocks(bits=8, size=128, symmetric=True, accuracy_level=4)
RECURRENT_CHANNELS = {1: (0, 1), 2: (0, 1)}  # weights of the input and of the state: direction, gate and unit
CHANNELS: Mapping[str, Mapping[int, tuple[int, ...]]] = {  # by operator and input, the axes of output channels
    "Conv": {1: (0,)},
    "ConvTranspose": {1: (1,)},
    **dict.fromkeys(RECURRENT, RECURRENT_CHANNELS),
}
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
    fold_recurrent_weights(model, RECURRENT)
    count = _expand(model, exclude)
    count += quantize_rows(model, exclude)
    model = block_weights.to_nearest(model, BLOCKS, ["MatMul"], exclude)
    onnx_format.save(model, path)
    count += block_weights.count(path)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return count


def _expand(model: "onnx.ModelProto", exclude: Collection[str]) -> int:
    """Weights of convolutions and recurrent layers as int8 with a scale per channel, in place.

    Returns how many nodes have them.
    """
    tensors = initializers(model.graph)
    users = reads(model.graph.node)
    nodes: list[onnx.NodeProto] = []
    changed = set()
    for node in model.graph.node:
        for position, axes in CHANNELS.get(node.op_type, {}).items():
            name = node.input[position]
            if name not in tensors or users[name] > 1 or node.name in exclude:
                continue
            model.graph.initializer.extend(_codes(tensors[name], axes))
            nodes += _scaled_codes(node, position, tensors[name].data_type)
            node.input[position] = f"{name}_values"
            changed.add(node.output[0] or node.name)
        nodes.append(node)
    replace_nodes(model, nodes)
    return len(changed)


def _codes(tensor: "onnx.TensorProto", axes: tuple[int, ...]) -> "list[onnx.TensorProto]":
    """Its values as int8, and their scales: one for each place along `axes`."""
    from onnx import numpy_helper

    weights = numpy_helper.to_array(tensor)
    channels_first = np.moveaxis(weights, axes, range(len(axes)))
    sizes = channels_first.shape[: len(axes)]
    codes, scales = per_channel(channels_first.reshape(math.prod(sizes), -1), axis=0)
    placed = np.moveaxis(codes.reshape(channels_first.shape), range(len(axes)), axes)
    shape = [size if axis in axes else 1 for axis, size in enumerate(weights.shape)]
    return [
        numpy_helper.from_array(np.ascontiguousarray(placed), f"{tensor.name}_codes"),
        numpy_helper.from_array(scales.reshape(shape), f"{tensor.name}_scales"),
    ]


def _scaled_codes(node: "onnx.NodeProto", position: int, data_type: int) -> "list[onnx.NodeProto]":
    """What makes its weights of their codes and scales."""
    from onnx import helper

    name = node.input[position]
    named = f"{node.name}_weights" if position == 1 else f"{node.name}_weights_{position}"
    cast = helper.make_node(
        "Cast",
        [f"{name}_codes"],
        [f"{name}_cast"],
        name=f"{named}_cast",
        to=data_type,
    )
    scale = helper.make_node(
        "Mul",
        [f"{name}_cast", f"{name}_scales"],
        [f"{name}_values"],
        name=f"{named}_scale",
    )
    return [cast, scale]


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_weights",
    description="int8 weights alone: a quarter of the size where int8 activations cost too much accuracy.",
    precision="int8",
    build=build,
    parameters=lambda _spec, _target: {"recipe": SCHEME.name},
    code_version="3",
    offered=in_depth,
)
