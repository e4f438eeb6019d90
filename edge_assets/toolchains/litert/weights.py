"""LiteRT variants with smaller weights and float interfaces, made by ai-edge-quantizer without calibration data.

fp16          weights in half precision, computed in fp32 on CPUs and in fp16 on GPUs
int8 dynamic  int8 weights per channel; activations quantized at run time, integer arithmetic
int4 weights  int4 weights per channel of convolutions and matrix products; activations quantized at run time

Which operators a scheme covers is the quantizer's policy (depthwise convolutions have no int4 form, for example).
A result that leaves most of the weights as they were is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_assets.core.variant import BuildRequest, Precision, Variant
from edge_assets.errors import Refused
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.onnx.graph import LEAST_SHARE

if TYPE_CHECKING:
    from ai_edge_quantizer.qtyping import ModelQuantizationRecipe

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

Scheme = Literal["fp16", "int8_dynamic_s8_perchannel", "int4_dynamic_s4_perchannel"]
WEIGHT_TYPE: dict[Scheme, str] = {
    "fp16": "FLOAT16",
    "int8_dynamic_s8_perchannel": "INT8",
    "int4_dynamic_s4_perchannel": "INT4",
}


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the weights. Raises Refused where fewer than half of them changed."""
    from ai_edge_quantizer import quantizer

    scheme: Scheme = request.parameters["recipe"]
    path = request.output / litert.FILE
    quantized = quantizer.Quantizer(str(request.source), _recipe(scheme)).quantize()
    quantized.export_model(str(path))
    litert.inline_buffers(path)
    share = changed_share(path, WEIGHT_TYPE[scheme])
    if share < LEAST_SHARE:
        raise Refused(
            f"only {100 * share:.0f} % of the weights have a form in {WEIGHT_TYPE[scheme]} in LiteRT (at least "
            f"{100 * LEAST_SHARE:.0f} % needed), so the result would be nearly the float model under another name. "
            f"Use litert_int8_static."
        )
    return litert.describe(path, request.spec) | {"recipe": scheme, "quantized_weights_share": round(share, 4)}


def changed_share(path: Path, kind: str) -> float:
    """Share of the weights' elements that are of that type."""
    held = litert.weights_by_type(path)
    return held[kind] / max(1, held.total())


def _recipe(scheme: Scheme) -> "ModelQuantizationRecipe":
    from ai_edge_quantizer import qtyping, recipe, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if scheme == "int8_dynamic_s8_perchannel":
        return recipe.dynamic_wi8_afp32()
    if scheme == "int4_dynamic_s4_perchannel":
        return recipe.dynamic_wi4_afp32()
    manager = recipe_manager.RecipeManager()
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    manager.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=half,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def _variant(name: str, precision: Precision, scheme: Scheme, description: str) -> Variant:
    def parameters(_spec: "ModelSpec", _target: "Target") -> dict[str, object]:
        return {"recipe": scheme}

    return replace(
        litert.QUANTIZED,
        name=name,
        description=description,
        precision=precision,
        build=build,
        parameters=parameters,
    )


FP16 = _variant(
    name="litert_fp16",
    precision="fp16",
    scheme="fp16",
    description="Half-precision weights: half the size; CPUs compute in fp32, GPUs in fp16.",
)
INT8_DYNAMIC = _variant(
    name="litert_int8_dynamic",
    precision="int8",
    scheme="int8_dynamic_s8_perchannel",
    description="Int8 weights per channel, activations quantized at run time; needs no calibration data.",
)
INT4 = _variant(
    name="litert_int4",
    precision="int4",
    scheme="int4_dynamic_s4_perchannel",
    description="Int4 weights per channel where LiteRT has a form, activations quantized at run time.",
)
