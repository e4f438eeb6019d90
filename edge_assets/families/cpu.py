"""The CPU family: servers, desktops and single-board computers that run ONNX Runtime or PyTorch."""

from dataclasses import replace

from edge_assets.core.variant import in_depth
from edge_assets.families.family import Family
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import float16, int4_weights, int8_dynamic, int8_static, int8_weights
from edge_assets.toolchains.onnx.search import mixed, search, sensitivity
from edge_assets.toolchains.pytorch import int8_static as torch_static
from edge_assets.toolchains.pytorch import qat

CPU = Family(
    name="cpu",
    description="CPUs that run ONNX Runtime or PyTorch",
    variants=(
        onnx_format.MODEL,
        onnx_format.OPTIMIZED,
        float16.VARIANT,
        int8_dynamic.VARIANT,
        int8_static.VARIANT,
        int8_static.ENTROPY,
        int8_static.PERCENTILE,
        int8_static.A16W8,
        int8_weights.VARIANT,
        replace(int4_weights.RTN, offered=in_depth),
        int4_weights.HQQ,
        int4_weights.GPTQ,
        sensitivity.VARIANT,
        mixed.VARIANT,
        search.SEARCH,
        search.SEARCHED,
        torch_static.VARIANT,
        qat.TRAINED,
        qat.ONNX,
    ),
)
