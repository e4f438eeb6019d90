"""The Android family: phones that run LiteRT or ExecuTorch."""

from edge_assets.families.family import Family
from edge_assets.toolchains.executorch import int8 as executorch_int8
from edge_assets.toolchains.executorch import program as executorch
from edge_assets.toolchains.executorch import weights_8da4w as executorch_8da4w
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import int8_static as litert_static
from edge_assets.toolchains.litert import weights as litert_weights
from edge_assets.toolchains.pytorch import qat

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
