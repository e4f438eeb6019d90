"""Quantization schemes that can leave layers of a graph alone: what mixed precision and the search choose from.

int8    the int8 scheme that suits the graph: dynamic where matrix products hold the weights, else static
every   all that suit it
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edge_assets.core.scheme import renamed
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.spec.model import CalibrationMethod
from edge_assets.toolchains.onnx import block_weights, float16, int4_weights, int8_dynamic, int8_static, int8_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.block_weights import Blocks
from edge_assets.toolchains.onnx.calibration import Ranges, observe
from edge_assets.toolchains.onnx.export import one_file
from edge_assets.toolchains.onnx.graph import weight_elements
from edge_assets.toolchains.onnx.int8_static import Flavour
from edge_assets.toolchains.onnx.layers import Layer, layers, name_nodes

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

INT4 = (int4_weights.RTN, int4_weights.HQQ, int4_weights.GPTQ)
# what dynamic int8 keeps sensitive layers as: blocks have scales of their own, in weights and, at run time, in
# activations, which is nearly as exact as fp32 and faster
KEPT = Blocks(bits=8, size=128, symmetric=True, accuracy_level=4)


@dataclass(frozen=True)
class Scheme:
    """A scheme, ready to be applied to one graph again and again."""

    recipe: str
    parameters: Mapping[str, Json]  # everything but the layers left alone that shapes the result
    layers: tuple[Layer, ...]  # that it quantizes; empty: all or nothing
    rest: tuple[str, ...]  # nodes that belong to none of these
    variant: str  # the artifact that applies it to all layers
    write: Callable[[Collection[str], Path], None]  # names of nodes to leave alone; the file. May raise Refused
    keep: Callable[[Collection[str], Path], None] | None = None  # as `write`, those nodes not in fp32 but as `kept_as`
    kept_as: str = ""
    precision: str = "int8"

    @property
    def kept_in(self) -> str:
        """What kept layers are, in words."""
        return f"int8 blocks of {KEPT.size}" if self.keep else "fp32"

    def write_keeping(self, kept: Collection[str], path: Path) -> None:
        """Write the graph with the layers of those names kept in high precision."""
        nodes: list[str] = []
        for layer in self.layers:
            if layer.name in kept:
                nodes += layer.nodes
        write = self.keep or self.write
        write(nodes, path)

    def recipe_keeping(self, count: int) -> str:
        """The recipe's name with that many layers kept."""
        if not count:
            return self.recipe
        return renamed(
            self.recipe,
            kept_layers=count,
            kept_block=KEPT.size if self.kept_as else None,
        )


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
    static = request.parameters["static"]
    ranges = prepared.ranges(static["method"], Flavour.of(static).operators)
    recipe = renamed(static["recipe"], method=ranges.method)  # the method that was used
    return _static({**static, "recipe": recipe}, prepared)


def every(request: BuildRequest, scratch: Path) -> list[Scheme]:
    """All schemes that suit the graph, each with all layers that it can quantize."""
    prepared = _prepared(request, scratch)
    parameters = request.parameters
    found = [_static({**parameters["static"], **other}, prepared) for other in parameters["statics"]]
    if int8_dynamic.suits(weight_elements(request.source)):
        found.append(_dynamic(parameters["dynamic"], prepared))
    half = _whole(
        float16.VARIANT,
        {"recipe": "fp16", **parameters["float16"]},
        partial(_half, request),
    )
    weights = _whole(
        int8_weights.VARIANT,
        parameters["weights"],
        partial(int8_weights.quantize, request.source),
    )
    found += [half, weights]
    for variant, own in zip(INT4, parameters["int4"], strict=True):
        quantize = partial(
            int4_weights.quantize,
            request.source,
            method=own["method"],
            calibration=request.calibration,
        )
        found.append(_whole(variant, own, quantize))
    return found


def _half(request: BuildRequest, path: Path) -> None:
    float16.convert(request.source, path, request.calibration)


def _prepared(request: BuildRequest, scratch: Path) -> Prepared:
    import onnx

    path = int8_static.prepare(one_file(request.source, "the search for schemes"), scratch)
    name_nodes(path)
    batch = request.parameters["static"]["batch"]

    @cache
    def ranges(method: CalibrationMethod, operators: tuple[str, ...]) -> Ranges:
        return observe(path, request.calibration, method, operators, batch=batch)

    graph = onnx.load(path, load_external_data=False).graph
    return Prepared(
        path=path,
        layers=tuple(layers(path, request.source)),
        nodes=tuple(node.name for node in graph.node),
        ranges=ranges,
    )


def _rest(prepared: Prepared, chosen: Collection[Layer]) -> tuple[str, ...]:
    named: set[str] = set()
    for layer in chosen:
        named.update(layer.nodes)
    return tuple(node for node in prepared.nodes if node not in named)


def _static(parameters: Mapping[str, Any], prepared: Prepared) -> Scheme:
    flavour = Flavour.of(parameters)

    def write(left: Collection[str], path: Path) -> None:
        ranges = prepared.ranges(parameters["method"], flavour.operators)
        if ranges.method not in parameters["recipe"]:
            raise Refused(f"calibration by {parameters['method']} fails: {ranges.fallback}")
        int8_static.quantize_with(prepared.path, ranges, flavour, path, left)

    return Scheme(
        recipe=parameters["recipe"],
        parameters=parameters,
        layers=prepared.layers,
        rest=_rest(prepared, prepared.layers),
        variant=int8_static.VARIANT.name,
        write=write,
    )


def _dynamic(parameters: Mapping[str, Json], prepared: Prepared) -> Scheme:
    import onnx

    chosen = []
    for layer in prepared.layers:
        if layer.operator in int8_dynamic.OPERATORS and layer.weights:
            chosen.append(layer)

    def write(left: Collection[str], path: Path) -> None:
        int8_dynamic.quantize(prepared.path, path, parameters, left)

    def keep(left: Collection[str], path: Path) -> None:
        write(left, path)
        model = onnx.load(path)
        products = {node.name for node in model.graph.node if node.op_type == "MatMul"}
        exact = block_weights.to_nearest(model, KEPT, ["MatMul"], products - set(left))
        onnx_format.save(exact, path)

    kept_as = f"_int8block{KEPT.size}"
    return Scheme(
        recipe=str(parameters["recipe"]),
        parameters={**parameters, "kept_as": kept_as},
        layers=tuple(chosen),
        rest=_rest(prepared, chosen),
        variant=int8_dynamic.VARIANT.name,
        write=write,
        keep=keep,
        kept_as=kept_as,
    )


def _whole(
    variant: Variant,
    parameters: Mapping[str, Json],
    write: Callable[[Path], object],
) -> Scheme:
    """A scheme that takes the graph as a whole: nothing of it is relaxed, and it is tried once."""

    def all_of_it(_left: Collection[str], path: Path) -> None:
        write(path)

    return Scheme(
        recipe=str(parameters["recipe"]),
        parameters=parameters,
        layers=(),
        rest=(),
        variant=variant.name,
        write=all_of_it,
        precision=variant.precision,
    )


def int8_parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """Parameters of both int8 schemes: which one is used, the graph decides."""
    return {
        "recipe": "int8_mixed",
        "static": _of(int8_static.VARIANT, spec, target),
        "dynamic": _of(int8_dynamic.VARIANT, spec, target),
    }


def every_parameters(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """Parameters of all schemes."""
    statics = [int8_static.parameters(spec, target, method) for method in get_args(CalibrationMethod)]
    statics.append(int8_static.a16w8(spec, target))
    differing: list[Json] = []
    for static in statics:
        differing.append({name: static[name] for name in ("recipe", "method", "activations")})
    return {
        **int8_parameters(spec, target),
        "statics": differing,
        "float16": _of(float16.VARIANT, spec, target),
        "weights": _of(int8_weights.VARIANT, spec, target),
        "int4": [_of(variant, spec, target) for variant in INT4],
    }


def _of(variant: Variant, spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """A scheme's own parameters, and the version of its code: a trial of older code says nothing of this one."""
    return {**variant.parameters(spec, target), "code_version": variant.code_version}
