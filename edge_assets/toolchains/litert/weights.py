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
from typing import TYPE_CHECKING, Any

from edge_assets.core.scheme import Scheme
from edge_assets.core.variant import BuildRequest, Variant
from edge_assets.errors import Refused
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.onnx.graph import LEAST_SHARE

if TYPE_CHECKING:
    from ai_edge_quantizer.qtyping import ModelQuantizationRecipe

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

HALF = Scheme(precision="fp16")
DYNAMIC_INT8 = Scheme(precision="int8", kind="dynamic", weights="s8", granularity="perchannel")
DYNAMIC_INT4 = Scheme(precision="int4", kind="dynamic", weights="s4", granularity="perchannel")
WEIGHT_TYPE = {HALF.name: "FLOAT16", DYNAMIC_INT8.name: "INT8", DYNAMIC_INT4.name: "INT4"}


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Convert the weights. Raises Refused where fewer than half of them changed."""
    from ai_edge_quantizer import quantizer

    scheme: str = request.parameters["recipe"]
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


def _recipe(scheme: str) -> "ModelQuantizationRecipe":
    from ai_edge_quantizer import qtyping, recipe, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if scheme == DYNAMIC_INT8.name:
        return recipe.dynamic_wi8_afp32()
    if scheme == DYNAMIC_INT4.name:
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


def _variant(name: str, scheme: Scheme, description: str) -> Variant:
    def parameters(_spec: "ModelSpec", _target: "Target") -> dict[str, object]:
        return {"recipe": scheme.name}

    return replace(
        litert.QUANTIZED,
        name=name,
        description=description,
        precision=scheme.precision,
        build=build,
        parameters=parameters,
    )


FP16 = replace(
    _variant(
        name="litert_fp16",
        scheme=HALF,
        description="Half-precision weights: half the size; CPUs compute in fp32, GPUs in fp16.",
    ),
    also_in="litert_half",
)
INT8_DYNAMIC = _variant(
    name="litert_int8_dynamic",
    scheme=DYNAMIC_INT8,
    description="Int8 weights per channel, activations quantized at run time; needs no calibration data.",
)
INT4 = _variant(
    name="litert_int4",
    scheme=DYNAMIC_INT4,
    description="Int4 weights per channel where LiteRT has a form, activations quantized at run time.",
)
