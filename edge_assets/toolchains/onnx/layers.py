"""The layers of an ONNX graph: the units that mixed precision keeps high or quantizes.

A layer is a convolution or matrix product and the operators after it, up to the next ones. Attention's products of
activations are layers like any other: what is sensitive comes out of the measurement.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
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
    found: list[Layer] = []
    members: dict[str, list[str]] = {}
    owner: dict[str, str] = {}  # tensor -> the layer that it comes out of
    for node in graph.node:
        if node.op_type in COMPUTE:
            weights = max((sizes.get(name, 0) for name in node.input[1:2]), default=0)
            name = _label(node, scopes, weights > 0)
            taken = {layer.name for layer in found}
            found.append(Layer(name if name not in taken else node.name, node.op_type, node.name, (), weights))
            members[node.name] = [node.name]
            current = node.name
        else:
            # of several producers, the last in the graph's order: a residual sum belongs to the branch it ends
            owners = [owner[name] for name in node.input if name in owner]
            if not owners:
                continue
            current = max(owners, key=list(members).index)
            members[current].append(node.name)
        owner |= dict.fromkeys(node.output, current)
    return [Layer(entry.name, entry.operator, entry.node, tuple(members[entry.node]), entry.weights) for entry in found]


def _scopes(graph: "onnx.GraphProto") -> Mapping[str, list[str]]:
    """Module paths of the exported nodes by node name, outermost first."""
    found = {}
    for node in graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES:
                found[node.name] = [scope for scope in ast.literal_eval(entry.value)[:-1] if scope]
    return found


def _label(node: "onnx.NodeProto", scopes: Mapping[str, list[str]], weighted: bool) -> str:
    """A parameter's name tells its module; a fused or transposed one lost it, and then the exporter's scope does."""
    module, _, kind = node.input[1].rpartition(".") if weighted else ("", "", "")
    if module and kind == "weight":
        return module
    inner = scopes.get(node.name)
    if not inner:
        return node.name
    return inner[-1] if weighted else f"{inner[-1]} ({node.name})"
