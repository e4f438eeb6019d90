"""The layers of an ONNX graph: the units that mixed precision keeps high or quantizes.

A layer is a convolution or matrix product and the operators after it, up to the next ones. Attention's products of
activations are layers like any other: what is sensitive comes out of the measurement.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.toolchains.onnx.export import SCOPES

if TYPE_CHECKING:
    import onnx

COMPUTE = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Layer:
    """One layer of a graph whose nodes have names."""

    name: str  # for people: the path of the module in PyTorch where the graph tells it
    operator: str
    node: str  # the convolution or matrix product
    nodes: tuple[str, ...]  # it and what follows
    weights: int  # elements it multiplies by; 0 for a product of two activations


def name_nodes(path: Path) -> None:
    """Give every node of the file a name of its own: layers are told apart by them."""
    import onnx

    model = onnx.load(path)
    seen: set[str] = set()
    for i, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}"
        seen.add(node.name)
    onnx.save(model, path)


def layers(path: Path, exported: Path) -> list[Layer]:
    """The layers of a graph in its order; `exported` is the graph as exported, which knows the modules' names."""
    import onnx

    graph = onnx.load(path).graph
    scopes = _scopes(onnx.load(exported, load_external_data=False).graph)
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Layer] = {}  # by the name of the convolution or matrix product
    owner: dict[str, str] = {}  # tensor -> the layer that it comes out of
    names: set[str] = set()
    for node in graph.node:
        if node.op_type in COMPUTE:
            weights = sizes.get(node.input[1], 0)
            name = _label(node, scopes, weights > 0)
            if name in names:
                name = node.name
            names.add(name)
            found[node.name] = Layer(name, node.op_type, node.name, (node.name,), weights)
            current = node.name
        else:
            # of several producers, the last in the graph's order: a residual sum belongs to the branch it ends
            owners = [owner[name] for name in node.input if name in owner]
            if not owners:
                continue
            current = max(owners, key=list(found).index)
            layer = found[current]
            found[current] = replace(layer, nodes=(*layer.nodes, node.name))
        owner |= dict.fromkeys(node.output, current)
    return list(found.values())


def _scopes(graph: "onnx.GraphProto") -> Mapping[str, list[str]]:
    """Module paths of the exported nodes by node name, outermost first."""
    found = {}
    for node in graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES:
                modules = ast.literal_eval(entry.value)[:-1]  # the last is the operator
                found[node.name] = [scope for scope in modules if scope]
    return found


def _label(node: "onnx.NodeProto", scopes: Mapping[str, list[str]], weighted: bool) -> str:
    """A parameter's name tells its module; a fused or transposed one lost it, and then the exporter's scope does."""
    if weighted:
        parameter: str = node.input[1]
        module, _, kind = parameter.rpartition(".")
        if module and kind == "weight":
            return module
    if not scopes.get(node.name):
        return node.name
    innermost = scopes[node.name][-1]
    return innermost if weighted else f"{innermost} ({node.name})"
