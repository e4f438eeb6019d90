"""Dynamic int8: weights quantized ahead of time, activations at run time. No calibration data.

Tables of embeddings are int8 too, with a scale per row. Of what computes, matrix products and LSTMs are quantized:
dynamic convolutions run as ConvInteger, which ONNX Runtime's CPU provider has no fast kernel for (4 to 12 times slower
than fp32 on the CNNs we measured), and GRUs have no int8 kernel. A graph that keeps most of its weights in those is
therefore refused instead of being shipped slow or nearly unchanged.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Scheme, granularity_of, short_type
from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.hashing import Json
from edge_assets.toolchains.onnx import beside, block_weights
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.graph import LEAST_SHARE, fold_recurrent_weights, quantized_nodes, weight_elements
from edge_assets.toolchains.onnx.tables import quantize_rows

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

OPERATORS = ("MatMul", "Gemm", "LSTM")
NO_KERNEL = ("GRU", "RNN")  # ONNX Runtime's only int8 kernel of a recurrent layer is DynamicQuantizeLSTM


def share(held: Counter[str]) -> float:
    """Part of a graph's weights that is in `OPERATORS`. Tables of embeddings, which only are read, do not count."""
    return sum(held[name] for name in OPERATORS) / _computing(held)


def _computing(held: Counter[str]) -> int:
    """Weights that operators compute with; at least 1, to divide by."""
    return max(1, held.total() - held["Gather"])


def suits(held: Counter[str]) -> bool:
    """Whether matrix products and LSTMs hold enough of a graph's weights."""
    return share(held) >= LEAST_SHARE


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize matrix products and LSTMs. Raises Refused where they hold too little of the model."""
    held = weight_elements(request.source)
    if not suits(held):
        raise _refused(held)
    path = request.output / onnx_format.FILE
    count = quantize(request.source, path, request.parameters)
    described = onnx_format.finish(path, request.source)
    return described | {"recipe": request.parameters["recipe"], "quantized_nodes": count}


def _refused(held: Counter[str]) -> Refused:
    """By the operators without a kernel that hold most of the weights."""
    products = f"matrix products hold {100 * share(held):.0f} % (at least {100 * LEAST_SHARE:.0f} % needed)"
    convolutions = held["Conv"] + held["ConvTranspose"]
    recurrent = sum(held[name] for name in NO_KERNEL)
    if recurrent > convolutions:
        named = " and ".join(name for name in NO_KERNEL if held[name])
        return Refused(
            f"{100 * recurrent / _computing(held):.0f} % of the weights are in {named}, which ONNX Runtime has no int8 "
            f"kernel for (of recurrent layers it has LSTM's alone); {products}. Use "
            f"onnx_int8_weights (ModelSpec(schemes='all')), onnx_fp16, or an LSTM."
        )
    return Refused(
        f"{100 * convolutions / _computing(held):.0f} % of the weights are in convolutions, which dynamic int8 runs as "
        f"ConvInteger, 4 to 12 times slower than fp32 on CPUs; {products}. Use onnx_int8_static."
    )


def quantize(
    source: Path,
    path: Path,
    parameters: Mapping[str, Json],
    exclude: Collection[str] = (),
) -> int:
    """Write `source` with int8 products and tables to `path`; returns how many nodes quantize or compute in integers.

    `exclude` names nodes that stay in floating point. Raises Refused if no product changed.
    """
    if source.is_dir():
        beside.quantize_dynamic(source, path, parameters, exclude)
    else:
        _quantize(source, path, parameters, exclude)
    count = quantized_nodes(path)
    if not count:
        raise Refused("no node of this graph was changed, so the result would be fp32 under an int8 name")
    return count


def _quantize(
    source: Path,
    path: Path,
    parameters: Mapping[str, Json],
    exclude: Collection[str],
) -> None:
    """By ONNX Runtime's quantizer, which has the weights in memory several times."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # split here: the quantizer would do it itself, under names that `exclude` misses
    model = block_weights.split_gemm(onnx.load(source))
    fold_recurrent_weights(model, ("LSTM",))
    quantize_rows(model, exclude)
    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=list(OPERATORS),
        per_channel=parameters["per_channel"],
        reduce_range=parameters["reduce_range"],
        weight_type=types[str(parameters["weights"])],
        nodes_to_exclude=list(exclude),
    )


def parameters(_spec: "ModelSpec", target: "Target") -> dict[str, Json]:
    """Weight type, granularity and range of the target's kernels."""
    flavour = target.quantization
    scheme = Scheme(
        precision="int8",
        kind="dynamic",
        weights=short_type(flavour.weights),
        granularity=granularity_of(flavour.per_channel),
        has_reduced_range=flavour.reduce_range,
    )
    return {
        "recipe": scheme.name,
        "weights": flavour.weights,
        "per_channel": flavour.per_channel,
        "reduce_range": flavour.reduce_range,
    }


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_int8_dynamic",
    description="Int8 products and embeddings, activations quantized at run time; for graphs made of matrix products.",
    precision="int8",
    build=build,
    parameters=parameters,
    code_version="6",
)
