"""Static int8 in QDQ form: weights and activations quantized ahead of time, ranges observed on calibration data.

The flavour is the target's: U8S8 per channel on x86-64, with 7-bit weights (reduced range) where there is no
VNNI, S8S8 on ARM.

`observe` (calibration) and `quantize_with` are apart, so that one calibration serves many quantizations of the same
graph.
"""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_assets.core.axes import sizing_parameters
from edge_assets.core.scheme import Scheme, granularity_of, renamed, short_type
from edge_assets.core.variant import BuildRequest, Variant, in_depth
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.calibration import BATCH, Ranges, observe
from edge_assets.toolchains.onnx.compact import compact
from edge_assets.toolchains.onnx.graph import quantized_nodes, sizing_nodes
from edge_assets.toolchains.onnx.layers import name_nodes

if TYPE_CHECKING:
    import onnx

    from edge_assets.spec.model import CalibrationMethod, ModelSpec
    from edge_assets.targets import Target

# ONNX Runtime quantizes float biases as it loads: int32 biases, their scales and zero points only weigh in the file
OPTIONS: Mapping[str, Json] = {"QuantizeBias": False}
Integer = Literal["int8", "uint8", "int16", "uint16"]


@dataclass(frozen=True)
class Flavour:
    """How QDQ nodes are placed and typed."""

    activations: Integer
    weights: Integer
    per_channel: bool
    reduce_range: bool = False
    operators: tuple[str, ...] = ()  # quantized; empty: all that have a quantized form
    options: Mapping[str, Json] = field(default_factory=lambda: OPTIONS)  # ONNX Runtime's extra_options

    @classmethod
    def of(cls, parameters: Mapping[str, Any], options: Mapping[str, Json] = OPTIONS) -> "Flavour":
        """The flavour that a variant's parameters name."""
        return cls(
            activations=parameters["activations"],
            weights=parameters["weights"],
            per_channel=parameters["per_channel"],
            reduce_range=parameters["reduce_range"],
            operators=tuple(parameters.get("operators", ())),
            options=options,
        )


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Calibrate and quantize. Raises Refused if no node changed."""
    path = request.output / onnx_format.FILE
    facts = quantize(request, path, Flavour.of(request.parameters))
    return onnx_format.finish(path, request.source) | facts


def quantize(request: BuildRequest, path: Path, flavour: Flavour) -> dict[str, Any]:
    """Prepare, calibrate and quantize into `path`; returns facts. Raises Refused if no node changed."""
    parameters = request.parameters
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(request.source, Path(scratch))
        ranges = observe(
            prepared,
            request.calibration,
            parameters["method"],
            flavour.operators,
            batch=parameters["batch"],
        )
        if ranges.unfit:
            request.log(ranges.kept)
        if ranges.fallback:
            request.log(f"calibrating with minmax instead: {ranges.fallback}")
        count = quantize_with(prepared, ranges, flavour, path)
    recipe = renamed(parameters["recipe"], method=ranges.method)
    return {"recipe": recipe, "quantized_nodes": count, **ranges.facts}


def prepare(source: Path, scratch: Path) -> Path:
    """Shapes inferred and operators fused, as calibration and the quantizer want their input.

    Without symbolic shape inference: it gives up on graphs with computed shapes, such as BERT's, and the quantizer
    reads types and ranks only.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    source = onnx_format.one_file(source, "the static quantizer, which has the weights in memory several times,")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    name_nodes(prepared)
    return prepared


def quantize_with(
    prepared: Path,
    ranges: Ranges,
    flavour: Flavour,
    path: Path,
    exclude: Collection[str] = (),
) -> int:
    """Write `prepared` in QDQ form with known ranges to `path`; returns how many nodes quantize or dequantize.

    `exclude` names nodes of `prepared` that stay in floating point, as do those at a tensor without a usable range and
    those that compute sizes.
    Types that the graph's operator set has no QuantizeLinear for (16 bits below opset 21) use ONNX Runtime's own.
    Raises Refused if no node changed.
    """
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.quant_utils import add_infer_metadata
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    types = {
        "int8": QuantType.QInt8,
        "uint8": QuantType.QUInt8,
        "int16": QuantType.QInt16,
        "uint16": QuantType.QUInt16,
    }
    model = onnx.load(prepared)
    add_infer_metadata(model)  # its shapes are inferred: do not do it again
    known = {}
    for name, (least, most) in ranges.by_tensor.items():
        known[name] = TensorData(lowest=least, highest=most)
    excluded = {*exclude, *_nodes_at(model.graph, ranges.unfit), *sizing_nodes(model.graph)}
    quantizable = {*QLinearOpsRegistry, *QDQRegistry}
    quantizer = QDQQuantizer(
        model,
        per_channel=flavour.per_channel,
        reduce_range=flavour.reduce_range,
        weight_qType=types[flavour.weights],
        activation_qType=types[flavour.activations],
        tensors_range=known,
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=list(flavour.operators) or sorted(quantizable),
        extra_options=dict(flavour.options),
    )
    quantizer.quantize_model()
    quantized = quantizer.model.model
    compact(quantized)
    onnx.save(quantized, path)
    count = quantized_nodes(path)
    if not count:
        why = f": {ranges.kept}" if ranges.unfit else ""
        raise Refused(f"no node of this graph was changed, so the result would be fp32 under an int8 name{why}")
    return count


def _nodes_at(graph: "onnx.GraphProto", tensors: Collection[str]) -> set[str]:
    """Names of the nodes that read or give one of the tensors."""
    found = set()
    for node in graph.node:
        if any(name in tensors for name in (*node.input, *node.output)):
            found.add(node.name)
    return found


def parameters(
    spec: "ModelSpec",
    target: "Target",
    method: "CalibrationMethod | None" = None,
) -> dict[str, Json]:
    """The target's flavour and the calibration method, the model's own unless `method` is given."""
    flavour = target.quantization
    method = method or spec.calibration.method
    scheme = Scheme(
        precision="int8",
        kind="static",
        form="qdq",
        activations=short_type(flavour.activations),
        weights=short_type(flavour.weights),
        granularity=granularity_of(flavour.per_channel),
        has_reduced_range=flavour.reduce_range,
        method=method,
    )
    return {
        "recipe": scheme.name,
        "activations": flavour.activations,
        "weights": flavour.weights,
        "per_channel": flavour.per_channel,
        "reduce_range": flavour.reduce_range,
        "method": method,
        "batch": BATCH,
        **sizing_parameters(spec),
    }


def a16w8(spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """The target's flavour with activations in 16 bits, the recipe's name said so."""
    found = parameters(spec, target)
    wide = target.quantization.activations.replace("8", "16")
    recipe = renamed(str(found["recipe"]), activations=f"{wide[0]}16")
    return found | {"recipe": recipe, "activations": wide}


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_static",
    description="Calibrated int8 in QDQ form, in the flavour that the target's kernels are fast with.",
    precision="int8",
    build=build,
    parameters=parameters,
    code_version="4",
    needs=frozenset({"calibration"}),
)


def _calibrated_by(method: "CalibrationMethod", ranges: str) -> Variant:
    """The variant whose ranges are found by `method`, whatever the model's own is."""
    return replace(
        VARIANT,
        name=f"onnx_int8_static_{method}",
        description=f"Calibrated int8 in QDQ form with ranges that {ranges}.",
        parameters=lambda spec, target: parameters(spec, target, method),
        offered=in_depth,
    )


ENTROPY = _calibrated_by("entropy", "lose the least information (Kullback-Leibler)")
PERCENTILE = _calibrated_by("percentile", "leave out the outermost 0.001 % of the values")
A16W8 = replace(
    VARIANT,
    name="onnx_int8_a16w8",
    description="int8 weights with calibrated 16-bit activations in QDQ form: for NPUs; CPUs compute it in fp32.",
    parameters=a16w8,
    offered=in_depth,
)
