"""Full int8 for microcontrollers: int8 inputs and outputs, integer arithmetic alone, operators that TFLite Micro has.

The artifact holds the model as a file and as C source. Sessions read it back from the C source, so that what was
verified is the array that firmware compiles.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_assets.core.variant import BuildRequest
from edge_assets.errors import Refused
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from edge_assets.toolchains.litert import c_array, tflite_micro
from edge_assets.toolchains.litert import convert as litert
from edge_assets.toolchains.litert import int8_static as litert_static

FLOATS = ("FLOAT32", "FLOAT16")


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Quantize all of the graph, check that TFLite Micro runs it, and record its arena.

    Raises Refused naming operators that TFLite Micro does not have or that stayed in floating point.
    """
    facts = litert_static.build(request)
    path = request.output / litert.FILE
    check_operators(path)
    check_integer(path)
    arena = tflite_micro.record_arena(path)
    return {
        **{name: fact for name, fact in facts.items() if name != "delegation"},  # there is no delegate on the device
        **c_array.write(path, symbol=request.parameters["symbol"]),
        "size_bytes": path.stat().st_size,  # of flash: the array becomes as many bytes
        "arena": {**arena, "peak_live_tensor_bytes": litert.live_tensor_bytes(path)},
        "memory_estimate": {
            "bytes": arena["total"],
            "how": "tensor arena that TFLite Micro's greedy planner and allocator take for it, recorded on this "
            "machine with 64-bit structures, larger than a Cortex-M's; without scratch buffers of CMSIS-NN",
        },
        "session": session(path, request.spec),
    }


def check_operators(path: Path) -> None:
    """Raises Refused naming the graph's operators that TFLite Micro does not have."""
    used = {operator.name for operator in litert.operators(path)}
    if missing := sorted(used - tflite_micro.operators()):
        raise Refused(
            f"TFLite Micro has no kernel for {', '.join(missing)}. The nearest alternative format is LiteRT, on a "
            f"processor that runs Linux or Android (litert_int8_static); else replace the operator in the model."
        )


def check_integer(path: Path) -> None:
    """Raises Refused naming the operators that still work on floating-point tensors."""
    if floating := sorted(litert.operators_on(path, FLOATS)):
        raise Refused(
            f"ai-edge-quantizer has no int8 form of {', '.join(floating)}, so the graph would not be integer alone. "
            f"The nearest alternative format is LiteRT with float parts (litert_int8_static); else replace it."
        )


def session(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """What opens the file in TFLite Micro, which knows inputs and outputs by position: names in the file's order."""
    inputs, outputs = litert.interface_order(path)
    return {"channels_last": litert.channels_last(spec), "inputs": inputs, "outputs": outputs}


def _parameters(spec: ModelSpec, target: Target) -> dict[str, object]:
    return litert_static.parameters(spec, target, integer_interface=True) | {"symbol": f"{spec.name}_model"}


FULL = replace(
    litert.QUANTIZED,
    name="litert_int8_full",
    description="Int8 weights, activations, inputs and outputs, as a file and as a C array, for TFLite Micro.",
    precision="int8",
    runtime="tflite_micro",
    build=build,
    parameters=_parameters,
    tools=(*litert.QUANTIZED.tools, "tflite-micro"),
    kinds=("tensorflow", "c"),
    needs=frozenset({"calibration"}),
    extra="microcontroller",
    seconds=3600,  # reference kernels: some ten times slower than XNNPACK
)
