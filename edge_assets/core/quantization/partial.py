"""Quantization schemes that can leave layers of a graph alone: what mixed precision and the search choose from.

int8    the int8 scheme that suits the graph: dynamic where matrix products hold the weights, else static
every   all that suit it
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edge_assets.core.quantization import float16, int8_dynamic, int8_static
from edge_assets.core.quantization.calibration import Ranges, observe
from edge_assets.core.quantization.graph import weight_elements
from edge_assets.core.quantization.int8_static import Flavour
from edge_assets.core.quantization.layers import Layer, layers, name_nodes
from edge_assets.core.variant import BuildRequest
from edge_assets.model import CalibrationMethod

if TYPE_CHECKING:
    from edge_assets.model import ModelSpec
    from edge_assets.targets import Target


@dataclass(frozen=True)
class Scheme:
    """A scheme, ready to be applied to one graph again and again."""

    recipe: str
    parameters: Mapping[str, Any]  # everything but the layers left alone that shapes the result
    layers: tuple[Layer, ...]  # that it quantizes; empty: all or nothing
    rest: tuple[str, ...]  # nodes that belong to none of these
    variant: str  # the artifact that applies it to all layers
    write: Callable[[Collection[str], Path], None]  # names of nodes to leave alone; the file. May raise Refused

    def write_keeping(self, kept: Collection[str], path: Path) -> None:
        """Write the graph with the layers of those names left alone."""
        self.write([node for layer in self.layers if layer.name in kept for node in layer.nodes], path)


@dataclass(frozen=True)
class Prepared:
    """A graph with shapes, fused operators and named nodes, its layers, and its ranges by calibration method."""

    path: Path
    layers: tuple[Layer, ...]
    nodes: tuple[str, ...]
    ranges: Callable[[CalibrationMethod, tuple[str, ...]], Ranges]


def int8(request: BuildRequest, scratch: Path) -> Scheme:
    """The int8 scheme that suits the graph."""
    prepared = _prepared(request, scratch)
    if int8_dynamic.suits(weight_elements(request.source)):
        return _dynamic(request.parameters["dynamic"], prepared)
    return _static(request.parameters["static"], prepared)


def every(request: BuildRequest, scratch: Path) -> list[Scheme]:
    """All schemes that suit the graph, each with all layers that it can quantize."""
    prepared = _prepared(request, scratch)
    parameters = request.parameters
    found = [_static({**parameters["static"], **other}, prepared) for other in parameters["methods"]]
    if int8_dynamic.suits(weight_elements(request.source)):
        found.append(_dynamic(parameters["dynamic"], prepared))
    return [*found, _half(request.source)]


def _prepared(request: BuildRequest, scratch: Path) -> Prepared:
    import onnx

    path = int8_static.prepare(request.source, scratch)
    name_nodes(path)
    batch = request.parameters["static"]["batch"]

    @cache
    def ranges(method: CalibrationMethod, operators: tuple[str, ...]) -> Ranges:
        return observe(path, request.calibration(), method, operators, batch=batch)

    nodes = tuple(node.name for node in onnx.load(path, load_external_data=False).graph.node)
    return Prepared(path, tuple(layers(path, request.source)), nodes, ranges)


def _rest(prepared: Prepared, chosen: Collection[Layer]) -> tuple[str, ...]:
    named = {node for layer in chosen for node in layer.nodes}
    return tuple(node for node in prepared.nodes if node not in named)


def _static(parameters: Mapping[str, Any], prepared: Prepared) -> Scheme:
    flavour = Flavour.of(parameters)

    def write(left: Collection[str], path: Path) -> None:
        ranges = prepared.ranges(parameters["method"], flavour.operators)
        int8_static.quantize_with(prepared.path, ranges, flavour, path, left)

    chosen = prepared.layers
    rest = _rest(prepared, chosen)
    return Scheme(parameters["recipe"], parameters, chosen, rest, int8_static.VARIANT.name, write)


def _dynamic(parameters: Mapping[str, Any], prepared: Prepared) -> Scheme:
    chosen = tuple(layer for layer in prepared.layers if layer.operator in int8_dynamic.OPERATORS and layer.weights)

    def write(left: Collection[str], path: Path) -> None:
        int8_dynamic.quantize(prepared.path, path, parameters, left)

    rest = _rest(prepared, chosen)
    return Scheme(parameters["recipe"], parameters, chosen, rest, int8_dynamic.VARIANT.name, write)


def _half(source: Path) -> Scheme:
    def write(_left: Collection[str], path: Path) -> None:
        float16.convert(source, path)

    return Scheme("fp16", {"recipe": "fp16"}, (), (), float16.VARIANT.name, write)


def int8_parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """Parameters of both int8 schemes: which one is used, the graph decides."""
    static = int8_static.parameters(spec, target)
    return {"recipe": "int8_mixed", "static": static, "dynamic": int8_dynamic.parameters(spec, target)}


def every_parameters(spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """Parameters of all schemes."""
    return int8_parameters(spec, target) | {"methods": list(_methods(spec, target))}


def _methods(spec: "ModelSpec", target: "Target") -> Iterator[dict[str, str]]:
    for method in get_args(CalibrationMethod):
        parameters = int8_static.parameters(spec, target, method)
        yield {"recipe": parameters["recipe"], "method": method}
