"""Tables of embeddings as int8 with a scale per row, applied to the rows that are read."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from edge_assets.toolchains.onnx.graph import FLOATS, replace_nodes

if TYPE_CHECKING:
    import onnx


def quantize_rows(model: "onnx.ModelProto", exclude: Collection[str] = ()) -> int:
    """Replace what reads a table [rows, ...], in place; returns how many tables are int8 now.

    `exclude` names Gather nodes that keep theirs, as does a table with several readers. The rows are read first: a
    DequantizeLinear of the table would make all of it in fp32 at every call.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    nodes, count = [], 0
    for node in model.graph.node:
        name = node.input[0] if node.op_type == "Gather" else ""
        table = tensors.get(name)
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        if table is None or not _fits(table) or axis != 0 or node.name in exclude or users[name] > 1:
            nodes.append(node)
            continue
        codes, scales = per_channel(numpy_helper.to_array(table), 0)
        new = {f"{name}_codes": codes, f"{name}_scales": scales, f"{name}_axis": np.array([-1])}
        model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in new.items())
        rows, values, row_scales, factors = (f"{name}_{part}" for part in ("rows", "values", "row_scales", "factors"))
        nodes += [
            helper.make_node("Gather", [f"{name}_codes", node.input[1]], [rows], name=node.name),
            helper.make_node("Gather", [f"{name}_scales", node.input[1]], [row_scales], name=f"{node.name}_scales"),
            helper.make_node("Cast", [rows], [values], name=f"{node.name}_cast", to=table.data_type),
            helper.make_node("Unsqueeze", [row_scales, f"{name}_axis"], [factors], name=f"{node.name}_expand"),
            helper.make_node("Mul", [values, factors], [node.output[0]], name=f"{node.name}_scale"),
        ]
        count += 1
    replace_nodes(model, nodes)
    return count


def unfit(model: "onnx.ModelProto") -> set[str]:
    """Names of the Gather nodes that read what is no table of embeddings: integers, or a number a row."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = {node.name: tensors.get(node.input[0]) for node in model.graph.node if node.op_type == "Gather"}
    return {name for name, tensor in reads.items() if tensor is not None and not _fits(tensor)}


def _fits(tensor: "onnx.TensorProto") -> bool:
    return tensor.data_type in FLOATS and len(tensor.dims) >= 2


def per_channel(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes of the weights' shape and float scales [channels], symmetric, for each channel's largest value."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, 1, largest / 127).astype(weights.dtype)
    return np.clip(np.round(weights / scales), -127, 127).astype(np.int8), scales.reshape(-1)
