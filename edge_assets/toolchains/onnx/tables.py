"""Tables of embeddings as int8 with a scale per row, applied to the rows that are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from edge_assets.later import np
from edge_assets.toolchains.onnx.graph import FLOATS, initializers, reads, replace_nodes

if TYPE_CHECKING:
    import onnx


def quantize_rows(
    model: onnx.ModelProto,
    exclude: Collection[str] = (),
    weights_of: Callable[[onnx.TensorProto], np.ndarray] | None = None,
) -> int:
    """Replace what reads a table [rows, ...], in place; returns how many tables are int8 now.

    `exclude` names Gather nodes that keep theirs, as does a table with several readers. The rows are read first: a
    DequantizeLinear of the table would make all of it in fp32 at every call. `weights_of` reads a tensor that is
    not in the graph itself.
    """
    from onnx import numpy_helper

    tensors = initializers(model.graph)
    users = reads(model.graph.node)
    nodes, count = [], 0
    for node in model.graph.node:
        if not _reads_rows(node, tensors) or node.name in exclude or users[node.input[0]] > 1:
            nodes.append(node)
            continue
        name = node.input[0]
        table = tensors[name]
        codes, scales = per_channel((weights_of or numpy_helper.to_array)(table), 0)
        model.graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), f"{name}_axis"))
        nodes += _scaled_rows(node, table.data_type)
        count += 1
    replace_nodes(model, nodes)
    return count


def _scaled_rows(node: onnx.NodeProto, data_type: int) -> list[onnx.NodeProto]:
    """What is in the place of a Gather: rows of codes and of scales, in floating point multiplied by each other."""
    from onnx import helper

    name, index = node.input
    codes = helper.make_node(
        "Gather",
        [f"{name}_codes", index],
        [f"{name}_rows"],
        name=node.name,
    )
    scales = helper.make_node(
        "Gather",
        [f"{name}_scales", index],
        [f"{name}_row_scales"],
        name=f"{node.name}_scales",
    )
    cast = helper.make_node(
        "Cast",
        [f"{name}_rows"],
        [f"{name}_values"],
        name=f"{node.name}_cast",
        to=data_type,
    )
    expand = helper.make_node(
        "Unsqueeze",
        [f"{name}_row_scales", f"{name}_axis"],
        [f"{name}_factors"],
        name=f"{node.name}_expand",
    )
    scale = helper.make_node(
        "Mul",
        [f"{name}_values", f"{name}_factors"],
        [node.output[0]],
        name=f"{node.name}_scale",
    )
    return [codes, scales, cast, expand, scale]


def _reads_rows(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it reads rows of a table of embeddings."""
    if node.op_type != "Gather" or node.input[0] not in tensors:
        return False
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
    return axis == 0 and _fits(tensors[node.input[0]])


def unfit(model: onnx.ModelProto) -> set[str]:
    """Names of the Gather nodes that read what is no table of embeddings: integers, or a number a row."""
    tensors = initializers(model.graph)
    found = set()
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tensors and not _fits(tensors[node.input[0]]):
            found.add(node.name)
    return found


def _fits(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in FLOATS and len(tensor.dims) >= 2


def per_channel(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes of the weights' shape and float scales [channels], symmetric, for each channel's largest value."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, 1, largest / 127).astype(weights.dtype)
    codes = np.clip(np.round(weights / scales), -127, 127)
    return codes.astype(np.int8), scales.reshape(-1)
