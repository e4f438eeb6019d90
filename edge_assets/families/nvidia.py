"""The NVIDIA family: GPUs that run TensorRT engines. ONNX graphs are what engines are made of, not candidates."""

from dataclasses import replace

from edge_assets.families.family import Family
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx import float16
from edge_assets.toolchains.tensorrt import engine, torch_program
from edge_assets.toolchains.tensorrt import int8 as int8_tensorrt

NVIDIA = Family(
    name="nvidia",
    description="NVIDIA GPUs that run TensorRT engines",
    baseline_device="cuda",
    variants=(
        replace(onnx_format.MODEL, is_candidate=False),
        replace(float16.VARIANT, is_candidate=False),
        int8_tensorrt.VARIANT,
        *engine.ENGINES,
        torch_program.VARIANT,
    ),
)
