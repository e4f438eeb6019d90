"""Dynamic int8: weights quantized ahead of time, activations at run time. No calibration data.

Only matrix products are quantized: dynamic convolutions run as ConvInteger, which ONNX Runtime's CPU
provider has no fast kernel for (4 to 12 times slower than fp32 on the CNNs we measured). A graph that keeps
most of its weights in convolutions is therefore refused instead of being shipped slow or nearly unchanged.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_assets.core.errors import Refused
from edge_assets.core.formats import onnx as onnx_format
from edge_assets.core.quantization.graph import quantized_nodes, weight_elements
from edge_assets.core.variant import BuildRequest, Variant

if TYPE_CHECKING:
    from edge_assets.model import ModelSpec
    from edge_assets.targets import Target

OPERATORS = ("MatMul", "Gemm")
LEAST_SHARE = 0.5  # of the graph's weights that must be in OPERATORS


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize matrix products. Raises Refused where they hold too little of the model."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    held = weight_elements(request.source)
    share = sum(held[name] for name in OPERATORS) / max(1, held.total())
    if share < LEAST_SHARE:
        convolutions = 100 * (held["Conv"] + held["ConvTranspose"]) / max(1, held.total())
        raise Refused(
            f"{convolutions:.0f} % of the weights are in convolutions, which dynamic int8 runs as ConvInteger, 4 to 12 "
            f"times slower than fp32 on CPUs; matrix products hold {100 * share:.0f} % (at least "
            f"{100 * LEAST_SHARE:.0f} % needed). Use onnx_int8_static."
        )
    path = request.output / onnx_format.FILE
    quantize_dynamic(
        request.source,
        path,
        op_types_to_quantize=list(OPERATORS),
        per_channel=request.parameters["per_channel"],
        reduce_range=request.parameters["reduce_range"],
        weight_type=QuantType.QInt8 if request.parameters["weights"] == "int8" else QuantType.QUInt8,
    )
    if not (count := quantized_nodes(path)):
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return onnx_format.describe(path) | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def parameters(_spec: "ModelSpec", target: "Target") -> dict[str, Any]:
    """Weight type, granularity and range of the target's kernels."""
    flavour = target.quantization
    granularity = "perchannel" if flavour.per_channel else "pertensor"
    return {
        "recipe": f"int8_dynamic_{flavour.flavour[2:].lower()}_{granularity}",
        "weights": flavour.weights,
        "per_channel": flavour.per_channel,
        "reduce_range": flavour.reduce_range,
    }


VARIANT = Variant(
    name="onnx_int8_dynamic",
    description="Int8 matrix products with activations quantized at run time; for graphs made of matrix products.",
    format="onnx",
    precision="int8",
    source=onnx_format.MODEL.name,
    runtime="onnx",
    build=build,
    parameters=parameters,
    code_version="1",
    tools=("onnx", "onnxruntime"),
    kinds=("onnx",),
    mlflow_flavor="onnx",
)
