"""MIL, the intermediate language of coremltools, as far as this package reads it: coremltools itself has no types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from edge_assets.later import np

MilValue: TypeAlias = "np.ndarray | np.generic | str | bool | int | float"


class MilVariable(Protocol):
    """One value: a constant, an input of the program, or an output of an operation."""

    name: str
    op: MilOperation | None  # what gives it; None for an input of the program
    child_ops: list[MilOperation]  # what takes it
    shape: tuple[int, ...]
    rank: int
    dtype: type  # MIL's own
    val: MilValue  # of a constant


MilArgument: TypeAlias = "MilVariable | tuple[MilVariable, ...] | list[MilVariable] | None"


class MilOperation(Protocol):
    """One operation. `const` and `constexpr_...` hold a constant, plain or compressed; all others compute."""

    op_type: str
    inputs: Mapping[str, MilArgument]
    outputs: list[MilVariable]

    def materialized_val_inference(self) -> MilValue:
        """What a `constexpr_...` holds, decompressed."""
        ...


class MilBlock(Protocol):
    """The body of a function."""

    operations: list[MilOperation]
    inputs: Mapping[str, MilVariable]
    outputs: list[MilVariable]


def holds_compressed(operation: MilOperation) -> bool:
    """Whether an operation holds a compressed constant."""
    return operation.op_type.startswith("constexpr_")


def is_plain_weight(operation: MilOperation) -> bool:
    """Whether an operation holds a floating-point array that nothing decompresses further."""
    held = operation.outputs[0]
    if operation.op_type != "const" or not held.rank:
        return False
    is_float = np.issubdtype(np.asarray(held.val).dtype, np.floating)
    return is_float and not any(holds_compressed(child) for child in held.child_ops)


def computes(operation: MilOperation) -> bool:
    """Whether an operation computes, rather than holds a constant."""
    return operation.op_type != "const" and not holds_compressed(operation)


def is_constant(variable: MilVariable) -> bool:
    """Whether a value is a constant of the program."""
    return variable.op is not None and not computes(variable.op)


def taken_by(operation: MilOperation) -> list[MilVariable]:
    """Every value that an operation takes, constants included."""
    variables: list[MilVariable] = []
    for argument in operation.inputs.values():
        if isinstance(argument, tuple | list):
            variables.extend(argument)
        elif argument is not None:
            variables.append(argument)
    return variables


def read_by(operation: MilOperation) -> list[MilVariable]:
    """The values that an operation takes and that were computed or fed: all but constants."""
    return [variable for variable in taken_by(operation) if not is_constant(variable)]


def element_type(variable: MilVariable) -> type[np.generic]:
    """The NumPy type of a value's elements."""
    from coremltools.converters.mil.mil import types

    numpy_type: type[np.generic] = types.nptype_from_builtin(variable.dtype)
    return numpy_type


def element_bytes(variable: MilVariable) -> int:
    """Bytes per element of a value."""
    return np.dtype(element_type(variable)).itemsize
