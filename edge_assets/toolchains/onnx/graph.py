"""What a graph is made of, for the rules that decide whether a scheme makes sense for it; how nodes are exchanged."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import Refused

if TYPE_CHECKING:
    import onnx

RECURRENT = ("LSTM", "GRU", "RNN")
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", *RECURRENT)
# inputs that are sizes, or positions within them, by operator
SIZE_INPUTS = {
    "Resize": (2, 3),
    "Upsample": (1,),
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Pad": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
}
LEAST_SHARE = 0.5  # of a graph's weights that a scheme must apply to
FLOATS = (1, 10)  # FLOAT and FLOAT16 of onnx.TensorProto
QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"),
)


def initializers(graph: "onnx.GraphProto") -> "dict[str, onnx.TensorProto]":
    """The graph's constant tensors by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def reads(nodes: "Iterable[onnx.NodeProto]") -> Counter[str]:
    """How many inputs of `nodes` each tensor is."""
    counts: Counter[str] = Counter()
    for node in nodes:
        counts.update(node.input)
    return counts


def weight_elements(path: Path) -> Counter[str]:
    """Floating-point weight elements by the operator type that consumes them (Conv, MatMul, Gemm, Gather, ...)."""
    import onnx

    model = onnx.load(_graph_file(path), load_external_data=False)
    givers = _givers(model.graph)
    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            sizes[tensor.name] = math.prod(tensor.dims)
    held: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in RECURRENT:
            for name in node.input[1:3]:  # of the input, and of the state
                _nodes, sources = _constant_source(name, givers, model.graph)
                held[node.op_type] += sum(sizes.get(source, 0) for source in sources)
        elif node.op_type in WEIGHTED:
            held[node.op_type] += max((sizes.get(name, 0) for name in node.input), default=0)
    return held


def _givers(graph: "onnx.GraphProto") -> "dict[str, onnx.NodeProto]":
    """The node that gives each tensor."""
    return {output: node for node in graph.node for output in node.output}


def sizing_nodes(graph: "onnx.GraphProto") -> set[str]:
    """Names of the nodes that compute sizes in floating point, such as 0.7 of a picture's height.

    Their numbers are no activations. With the ranges of some pictures every picture would get the size of these, and
    half precision has no product of 240 and 0.7 that is exact enough to be rounded down.
    """
    givers = _givers(graph)
    waiting: list[str] = []
    for node in graph.node:
        for position in SIZE_INPUTS.get(node.op_type, ()):
            waiting += node.input[position : position + 1]
    found: set[str] = set()
    while waiting:
        giver = givers.get(waiting.pop())
        if giver is None or giver.name in found or giver.op_type in ("Shape", "Size"):
            continue
        found.add(giver.name)
        waiting += giver.input
    in_floats: set[str] = set()
    values: set[str] = set()  # sizes as floats
    for node in graph.node:
        if node.name not in found:
            continue
        is_cast = node.op_type == "Cast"
        gives_floats = is_cast and node.attribute[0].i in FLOATS
        if gives_floats or values & set(node.input):
            in_floats.add(node.name)
        if gives_floats or (not is_cast and values & set(node.input)):
            values.update(node.output)
    return in_floats


def _constant_source(
    tensor: str,
    givers: "Mapping[str, onnx.NodeProto]",
    graph: "onnx.GraphProto",
) -> tuple[set[str], set[str]]:
    """First outputs of the nodes that a tensor is computed by, and names of the constants that it is computed from.

    Both are empty where an input of the graph is among what it depends on.
    """
    constants = set(initializers(graph))
    nodes: set[str] = set()
    sources: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in constants:
            sources.add(name)
        elif name in givers:
            node = givers[name]
            if node.output[0] not in nodes:
                nodes.add(node.output[0])
                waiting.extend(given for given in node.input if given)
        else:
            return set(), set()
    return nodes, sources


def fold_recurrent_weights(model: "onnx.ModelProto", kinds: Collection[str]) -> None:
    """Compute, in place, what weights of such layers are made by: exporters reorder gates by operators of the graph."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    givers = _givers(graph)
    wanted, needed, sources = [], set(), set()
    for node in graph.node:
        if node.op_type not in kinds:
            continue
        for name in node.input[1:3]:
            nodes, constants = _constant_source(name, givers, graph)
            if nodes and name not in wanted:
                wanted.append(name)
                needed |= nodes
                sources |= constants
    if not wanted:
        return
    makers = [node for node in graph.node if node.output[0] in needed]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted]
    held = [tensor for tensor in graph.initializer if tensor.name in sources]
    weights = helper.make_graph(makers, "weights", [], made, initializer=held)
    alone = helper.make_model(
        weights,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    values = ReferenceEvaluator(alone).run(None, {})
    set_nodes(graph, [node for node in graph.node if not set(node.output) & set(wanted)])
    for name, value in zip(wanted, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    _drop_unread(graph, needed)


def _drop_unread(graph: "onnx.GraphProto", outputs: Collection[str]) -> None:
    """Leave out those of the nodes with these first outputs that nothing reads any more, then unread weights."""
    read = set(reads(graph.node))
    read.update(value.name for value in graph.output)
    unread = {node.output[0] for node in graph.node if node.output[0] in outputs and not read & set(node.output)}
    if unread:
        set_nodes(graph, [node for node in graph.node if node.output[0] not in unread])
        _drop_unread(graph, outputs)
        return
    drop_unused(graph)


def _graph_file(path: Path) -> Path:
    """The graph itself where its weights lie beside it."""
    return path / "model.onnx" if path.is_dir() else path


def quantized_nodes(path: Path) -> int:
    """How many nodes of the graph quantize, dequantize or compute in integers."""
    import onnx

    count = 0
    for node in onnx.load(path, load_external_data=False).graph.node:
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            count += 1
    return count


# --- sizes ---------------------------------------------------------------------------------------------


def with_input_shapes(model: "onnx.ModelProto", shapes: Mapping[str, Sequence[int]]) -> "onnx.ModelProto":
    """The graph with inputs of these shapes, and all other shapes inferred from them. Changes `model` too."""
    import onnx

    fix_input_shapes(model, shapes)
    del model.graph.value_info[:]  # of the declared dynamic axes, which would win over the sizes
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def fix_input_shapes(model: "onnx.ModelProto", shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs that `shapes` names these sizes, in place."""
    for value in model.graph.input:
        if value.name in shapes:
            for axis, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                axis.dim_value = size


def tensor_bytes(value: "onnx.ValueInfoProto") -> int | None:
    """Bytes of a tensor of the declared type and shape; None where the shape is not known."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    axes = tensor.shape.dim
    if not tensor.HasField("shape") or not all(axis.HasField("dim_value") for axis in axes):
        return None
    elements: int = math.prod(axis.dim_value for axis in axes)
    return elements * tensor_dtype_to_np_dtype(tensor.elem_type).itemsize


# --- changing a graph ----------------------------------------------------------------------------------


def replace_nodes(model: "onnx.ModelProto", nodes: "Sequence[onnx.NodeProto]") -> None:
    """Put `nodes` in the place of the graph's, and drop weights that none of them reads.

    Raises Refused for a graph with branches or loops, whose bodies read weights too.
    """
    for node in nodes:
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise Refused(
                f"the graph has {node.op_type} with a body of its own, which this quantization does not look into"
            )
    set_nodes(model.graph, nodes)
    drop_unused(model.graph)


def set_nodes(graph: "onnx.GraphProto", nodes: "Sequence[onnx.NodeProto]") -> None:
    """Put `nodes` in the place of the graph's."""
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unused(graph: "onnx.GraphProto") -> None:
    """Leave out the weights that neither a node reads nor the graph gives."""
    used = set(reads(graph.node))
    used.update(value.name for value in graph.output)
    keep_initializers(graph, used)


def keep_initializers(graph: "onnx.GraphProto", names: Collection[str]) -> None:
    """Leave out all weights but those of these names."""
    kept = [tensor for tensor in graph.initializer if tensor.name in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
