"""Runs a saved CoreML package where there is no CoreML: its MIL program, walked operation by operation in PyTorch.

What is read is the package's file, so conversion, compression and serialisation are all part of what is verified.
Arithmetic is fp32: constants have the values that the package stores (compressed ones decoded), but the Neural
Engine's and the GPU's fp16 arithmetic is not modelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

    from edge_assets.toolchains.coreml.operations import Operation

WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights"


@dataclass(frozen=True)
class Reference:
    """An argument that is computed: the name of its value."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation of the program."""

    kind: str
    function: "Operation"
    arguments: Mapping[str, Any]  # by MIL's name: a constant, a Reference, or a list of both
    outputs: tuple[str, ...]
    dead: tuple[str, ...]  # values that no later step reads


@dataclass(frozen=True)
class MilProgram:
    """The main function of a package."""

    inputs: Mapping[str, type[np.generic]]  # element types that the package takes, by name
    outputs: Mapping[str, type[np.generic]]
    steps: tuple[Step, ...]
    bytes_of: Mapping[str, int]  # bytes per element on the device, by value
    weights_bytes: int  # of all constants, decompressed

    @cached_property
    def operators(self) -> dict[str, int]:
        """How often each operation occurs."""
        from collections import Counter

        return dict(Counter(step.kind for step in self.steps).most_common())

    def run(self, feeds: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Outputs by name. Raises Refused for a mode of an operation that is not computed here."""
        return self._walk(feeds)[0]

    def peak_bytes(self, feeds: Mapping[str, "Tensor"]) -> int:
        """The most bytes that values alive at the same time take, at the program's own precision."""
        return self._walk(feeds)[1]

    def _walk(self, feeds: Mapping[str, "Tensor"]) -> tuple[dict[str, "Tensor"], int]:
        values, peak = dict(feeds), 0
        for step in self.steps:
            arguments = {name: _resolve(value, values) for name, value in step.arguments.items()}
            results = step.function(**arguments)
            results = results if isinstance(results, tuple | list) else (results,)
            values |= dict(zip(step.outputs, results, strict=True))
            peak = max(peak, sum(value.numel() * self.bytes_of[name] for name, value in values.items()))
            for name in step.dead:
                del values[name]
        return {name: values[name] for name in self.outputs}, peak


def _resolve(argument: Any, values: Mapping[str, "Tensor"]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.name]
    return [_resolve(item, values) for item in argument] if isinstance(argument, list) else argument


def load(package: Path) -> MilProgram:
    """Read a package back. Raises Refused naming an operation that the evaluator lacks, and the package."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load as load_mil

    from edge_assets.toolchains.coreml.operations import OPERATIONS

    specification = coremltools.utils.load_spec(str(package))
    version = specification.specificationVersion
    block = load_mil(specification, version, str(package / WEIGHTS)).functions["main"]
    operations = [op for op in block.operations if op.op_type != "const" and not op.op_type.startswith("constexpr_")]
    if lacking := sorted({op.op_type for op in operations} - set(OPERATIONS)):
        raise Refused(
            f"the evaluator has no {', '.join(lacking)}, which {package.name} uses: verify it on a Mac, or use an ONNX "
            f"variant"
        )
    last_use = {var.name: i for i, op in enumerate(operations) for var in _read(op)}
    kept = {var.name for var in block.outputs}
    steps = tuple(
        Step(
            kind=op.op_type,
            function=OPERATIONS[op.op_type],
            arguments={name: _argument(value) for name, value in op.inputs.items() if value is not None},
            outputs=tuple(var.name for var in op.outputs),
            dead=tuple(
                name for name in {var.name for var in (*_read(op), *op.outputs)} - kept if last_use.get(name, i) == i
            ),
        )
        for i, op in enumerate(operations)
    )
    constants = {var.name: var for op in operations for var in _vars(op) if _is_constant(var)}
    variables = [*block.inputs.values(), *(var for op in operations for var in op.outputs)]
    return MilProgram(
        inputs={name: _numpy_type(var) for name, var in block.inputs.items()},
        outputs={var.name: _numpy_type(var) for var in block.outputs},
        steps=steps,
        bytes_of={var.name: np.dtype(_numpy_type(var)).itemsize for var in variables},
        weights_bytes=sum(
            int(np.prod(var.shape)) * np.dtype(_numpy_type(var)).itemsize for var in constants.values() if var.rank
        ),
    )


def _vars(op: Any) -> list[Any]:
    """Every value that an operation takes."""
    found: list[Any] = []
    for value in op.inputs.values():
        found += value if isinstance(value, tuple | list) else [value] if value is not None else []
    return found


def _read(op: Any) -> list[Any]:
    return [var for var in _vars(op) if not _is_constant(var)]


def _is_constant(var: Any) -> bool:
    return var.op is not None and (var.op.op_type == "const" or var.op.op_type.startswith("constexpr_"))


def _argument(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_argument(item) for item in value]
    return _constant(value) if _is_constant(value) else Reference(value.name)


def _constant(var: Any) -> Any:
    """A string or a scalar as Python's own, an array as a tensor: floats in fp32, integers in int64."""
    import torch

    value = var.op.materialized_val_inference() if var.op.op_type.startswith("constexpr_") else var.val
    if isinstance(value, str | bool | int | float):
        return value
    if np.ndim(value) == 0:
        return value.item()
    array = np.asarray(value)
    if array.dtype == bool:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.astype(np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64))


def _numpy_type(var: Any) -> type[np.generic]:
    from coremltools.converters.mil.mil import types

    return types.nptype_from_builtin(var.dtype)


def to_tensors(feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, "Tensor"]:
    """Arrays as the evaluator wants them: floats in fp32, integers in int64."""
    import torch

    tensors = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in names}
    return {name: tensor.float() if tensor.is_floating_point() else tensor.long() for name, tensor in tensors.items()}
