"""The CPU family: servers, desktops and single-board computers that run ONNX Runtime or PyTorch."""

from edge_assets.assets.family import Family
from edge_assets.core.formats import onnx
from edge_assets.core.quantization import (
    float16,
    int8_dynamic,
    int8_static,
    mixed,
    qat,
    search,
    sensitivity,
    torch_static,
)

CPU = Family(
    name="cpu",
    description="CPUs that run ONNX Runtime or PyTorch",
    variants=(
        onnx.MODEL,
        onnx.OPTIMIZED,
        float16.VARIANT,
        int8_dynamic.VARIANT,
        int8_static.VARIANT,
        sensitivity.VARIANT,
        mixed.VARIANT,
        search.SEARCH,
        search.SEARCHED,
        torch_static.VARIANT,
        qat.TRAINED,
        qat.ONNX,
    ),
)
