"""The Android family: phones that run LiteRT or ExecuTorch."""

from edge_assets.assets.family import Family
from edge_assets.core.formats import executorch, litert
from edge_assets.core.quantization import executorch_8da4w, executorch_int8, litert_static, litert_weights, qat

ANDROID = Family(
    name="android",
    description="Android phones that run LiteRT or ExecuTorch",
    variants=(
        litert.FP32,
        litert_weights.FP16,
        litert_weights.INT8_DYNAMIC,
        litert_static.STATIC,
        litert_weights.INT4,
        executorch.FP32,
        executorch_int8.STATIC,
        executorch_int8.DYNAMIC,
        executorch_8da4w.VARIANT,
        executorch.VULKAN,
        qat.TRAINED,
        qat.EXECUTORCH,
    ),
)
