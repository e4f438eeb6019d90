"""The microcontroller family: Cortex-M class devices that run TFLite Micro from flash."""

from dataclasses import replace

from edge_assets.families.family import Family
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import micro as litert_micro

MICROCONTROLLER = Family(
    name="microcontroller",
    description="Microcontrollers that run TFLite Micro",
    variants=(
        replace(litert.FP32, is_candidate=False),  # the same conversion as Android's, and only where int8 starts from
        litert_micro.FULL,
    ),
)
