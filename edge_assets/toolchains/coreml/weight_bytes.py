"""In which precisions a CoreML package holds its weights."""

from collections import Counter
from math import prod
from pathlib import Path

from edge_assets.toolchains.coreml import mil
from edge_assets.toolchains.coreml.evaluator import main_block
from edge_assets.toolchains.coreml.mil import MilOperation
from edge_assets.toolchains.coreml.package import package_in

# what holds the codes of a compressed constant, by the names that MIL has in iOS 16 and in iOS 18
CODES = ("quantized_data", "data", "indices")
FLOATS = {2: "fp16", 4: "fp32"}  # by bytes per element


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of constant tensors of two axes and more by precision, without scales and palettes."""
    package = path if path.suffix == ".mlpackage" else package_in(path)
    held: Counter[str] = Counter()
    for operation in main_block(package).operations:
        variable = operation.outputs[0]
        if len(variable.shape) < 2:
            continue
        elements = prod(variable.shape)
        if mil.holds_compressed(operation):
            bits = _bits(operation)
            held[_precision(operation, bits)] += elements * bits // 8
        elif mil.is_plain_weight(operation):
            width = mil.element_bytes(variable)
            held[FLOATS[width]] += elements * width
    return dict(held)


def _precision(operation: MilOperation, bits: int) -> str:
    return f"lut{bits}" if "lut" in operation.op_type else f"int{bits}"


def _bits(operation: MilOperation) -> int:
    """Bits per weight: of a palette, those that count its values."""
    from coremltools.converters.mil.mil import types

    if "lut" in operation.op_type:
        palette = operation.inputs["lut"]
        assert palette is not None and not isinstance(palette, tuple | list)
        values = palette.shape[0] if palette.rank == 1 else palette.shape[-2]
        return (values - 1).bit_length()
    for name in CODES:
        codes = operation.inputs.get(name)
        if codes is not None and not isinstance(codes, tuple | list):
            name_of_type: str = types.builtin_to_string(codes.dtype)
            return int(name_of_type.removeprefix("u").removeprefix("int"))
    raise AssertionError(f"{operation.op_type} has no codes")
