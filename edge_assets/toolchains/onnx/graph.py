"""What a graph is made of, for the rules that decide whether a scheme makes sense for it."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import Refused

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather")
LEAST_SHARE = 0.5  # of a graph's weights that a scheme must apply to
FLOATS = (1, 10)  # FLOAT and FLOAT16 of onnx.TensorProto
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


def weight_elements(path: Path) -> Counter[str]:
    """Floating-point weight elements by the operator type that consumes them (Conv, MatMul, Gemm, Gather, ...)."""
    import onnx

    model = onnx.load(path)
    sizes = {t.name: math.prod(t.dims) for t in model.graph.initializer if t.data_type in FLOATS}
    held: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            held[node.op_type] += max((sizes.get(name, 0) for name in node.input), default=0)
    return held


def quantized_nodes(path: Path) -> int:
    """How many nodes of the graph quantize, dequantize or compute in integers."""
    import onnx

    return sum(
        node.op_type in QUANTIZED or node.op_type.startswith("QLinear")
        for node in onnx.load(path, load_external_data=False).graph.node
    )


def replace_nodes(model: "onnx.ModelProto", nodes: "list[onnx.NodeProto]") -> None:
    """Put `nodes` in the place of the graph's, and drop weights that none of them reads.

    Raises Refused for a graph with branches or loops, whose bodies read weights too.
    """
    if held := [node.op_type for node in nodes if any(entry.HasField("g") or entry.graphs for entry in node.attribute)]:
        raise Refused(f"the graph has {held[0]} with a body of its own, which this quantization does not look into")
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    used = {name for node in copies for name in node.input} | {value.name for value in model.graph.output}
    kept = [type(t).FromString(t.SerializeToString()) for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
