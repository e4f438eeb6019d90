"""int8 weights: a quarter of the size; activations stay in floating point between operators.

Matrix products compute with blocks of 128 weights (MatMulNBits at accuracy level 4: their inputs are rounded to int8
block by block as they multiply, because fp32 products of unpacked weights take twice the time). Convolutions get a
scale per output channel, applied as the session opens: a Cast and a Mul are folded into fp32 weights, a
DequantizeLinear would run at every call. Tables of embeddings get a scale per row, applied to the rows that are read.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.errors import Refused
from edge_assets.core.formats import onnx as onnx_format
from edge_assets.core.quantization import block_weights
from edge_assets.core.quantization.block_weights import Blocks
from edge_assets.core.variant import BuildRequest, in_depth

if TYPE_CHECKING:
    import onnx

BLOCKS = Blocks(bits=8, size=128, symmetric=True, accuracy_level=4)


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize weights. Raises Refused if nothing was changed."""
    path = request.output / onnx_format.FILE
    count = quantize(request.source, path)
    return onnx_format.describe(path) | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def quantize(source: Path, path: Path, exclude: Collection[str] = ()) -> int:
    """Write `source` with int8 weights to `path`; returns how many nodes have them. Raises Refused if none has.

    `exclude` names nodes that keep theirs.
    """
    import onnx

    model = block_weights.split_gemm(onnx.load(source))
    count = _dequantize(model, exclude)
    model = block_weights.to_nearest(model, BLOCKS, ["MatMul"], exclude)
    onnx_format.save(model, path)
    count += block_weights.count(path)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return count


def _dequantize(model: "onnx.ModelProto", exclude: Collection[str]) -> int:
    """Convolutions' and tables' weights as int8 with a scale per output channel or row; how many, in place."""
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    nodes, count = [], 0
    for node in model.graph.node:
        place = {"Conv": 1, "ConvTranspose": 1, "Gather": 0}.get(node.op_type)
        name = node.input[place] if place is not None else ""
        tensor = tensors.get(name)
        if tensor is None or node.name in exclude or len(tensor.dims) < 2 or users[name] > 1:
            nodes.append(node)
            continue
        axis = 1 if node.op_type == "ConvTranspose" else 0
        codes, scales = _per_channel(numpy_helper.to_array(tensor), axis)
        count += 1
        model.graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
        out = f"{name}_values"
        if node.op_type == "Gather":  # read first: the whole table in fp32 would be made at every call
            rows, row_scales = f"{name}_rows", f"{name}_row_scales"
            expand = f"{name}_axis"
            new = {f"{name}_scales": scales, expand: np.array([-1])}
            model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in new.items())
            nodes += [
                helper.make_node("Gather", [f"{name}_codes", node.input[1]], [rows], name=node.name),
                helper.make_node("Gather", [f"{name}_scales", node.input[1]], [row_scales], name=f"{node.name}_scales"),
                helper.make_node("Cast", [rows], [out], name=f"{node.name}_cast", to=tensor.data_type),
                helper.make_node("Unsqueeze", [row_scales, expand], [f"{row_scales}_1"], name=f"{node.name}_expand"),
                helper.make_node("Mul", [out, f"{row_scales}_1"], [node.output[0]], name=f"{node.name}_scale"),
            ]
            continue
        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        model.graph.initializer.append(numpy_helper.from_array(scales.reshape(shape), f"{name}_scales"))
        cast = f"{name}_cast"
        nodes += [
            helper.make_node("Cast", [f"{name}_codes"], [cast], name=f"{node.name}_weights_cast", to=tensor.data_type),
            helper.make_node("Mul", [cast, f"{name}_scales"], [out], name=f"{node.name}_weights_scale"),
            node,
        ]
        node.input[1] = out
    block_weights.replace_nodes(model, nodes)
    return count


def _per_channel(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes of the weights' shape and float scales [channels], symmetric, for each channel's largest value."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, 1, largest / 127).astype(weights.dtype)
    return np.clip(np.round(weights / scales), -127, 127).astype(np.int8), scales.reshape(-1)


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_weights",
    description="int8 weights alone: a quarter of the size where int8 activations cost too much accuracy.",
    precision="int8",
    build=build,
    parameters=lambda _spec, _target: {
        "recipe": f"int8_weights_s8_perchannel_block{BLOCKS.size}_level{BLOCKS.accuracy_level}"
    },
    code_version="2",
    offered=in_depth,
)
