"""Runs a saved CoreML package where there is no CoreML: its MIL program, walked operation by operation in PyTorch.

`load` reads a package into a `MilProgram`, a list of `Step`s; `MilProgram.run` walks it, one dictionary holding the
values by name, and drops a value after the last step that reads it.

What is read is the package's file, so conversion, compression and serialisation are all part of what is verified.
Constants have the values that the package stores (compressed ones decoded). Each operation computes in fp32, and what
it gives is rounded to the type that the program declares for it, fp16 mostly: beyond 65504 it is infinite, as on the
Neural Engine and the GPU. How those accumulate inside of an operation is not modelled.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from edge_assets.errors import Refused
from edge_assets.toolchains.coreml import mil
from edge_assets.toolchains.coreml.mil import MilBlock, MilOperation, MilVariable
from edge_assets.toolchains.coreml.operations import OPERATIONS, Constant, Operation

WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights"


# --- the program ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """An argument that is computed or fed: the name of its value."""

    name: str


Argument: TypeAlias = Reference | Constant | list[Reference | Constant]
Values: TypeAlias = dict[str, Tensor]  # those in memory, by name


@dataclass(frozen=True)
class Step:
    """One operation of the program."""

    kind: str
    function: Operation
    arguments: Mapping[str, Argument]  # by MIL's name
    outputs: tuple[str, ...]
    halves: frozenset[str]  # outputs that the program holds in fp16
    dead: tuple[str, ...]  # values that no later step reads

    def compute(self, values: Values) -> None:
        """Add the outputs to `values`. Raises Refused for a mode of the operation that is not computed here."""
        arguments = {}
        for name, argument in self.arguments.items():
            arguments[name] = _resolved(argument, values)
        results = self.function(**arguments)
        if not isinstance(results, tuple):
            results = (results,)
        for name, result in zip(self.outputs, results, strict=True):
            values[name] = result.half().float() if name in self.halves else result

    def drop_dead(self, values: Values) -> None:
        """Take from `values` what no later step reads."""
        for name in self.dead:
            del values[name]


def _resolved(argument: Argument, values: Values) -> Constant | list[Constant]:
    """What an operation is called with: the value where the argument is a reference."""
    if isinstance(argument, list):
        return [_resolved_one(item, values) for item in argument]
    return _resolved_one(argument, values)


def _resolved_one(argument: Reference | Constant, values: Values) -> Constant:
    if isinstance(argument, Reference):
        return values[argument.name]
    return argument


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
        return dict(Counter(step.kind for step in self.steps).most_common())

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Raises Refused for a mode of an operation that is not computed here."""
        values = dict(feeds)
        for step in self.steps:
            step.compute(values)
            step.drop_dead(values)
        return {name: values[name] for name in self.outputs}

    def peak_bytes(self, feeds: Mapping[str, Tensor]) -> int:
        """The most bytes that values in memory at the same time take, at the program's own precision."""
        values = dict(feeds)
        peak = 0
        for step in self.steps:
            step.compute(values)
            peak = max(peak, self._bytes(values))
            step.drop_dead(values)
        return peak

    def _bytes(self, values: Values) -> int:
        total = 0
        for name, value in values.items():
            total += value.numel() * self.bytes_of[name]
        return total


# --- reading a package ---------------------------------------------------------------------------------


def load(package: Path) -> MilProgram:
    """Read a package back. Raises Refused naming an operation that the evaluator lacks, and the package."""
    block = main_block(package)
    operations = [operation for operation in block.operations if mil.computes(operation)]
    _check_known(operations, package)
    return MilProgram(
        inputs=_element_types(block.inputs.values()),
        outputs=_element_types(block.outputs),
        steps=_steps(operations, block),
        bytes_of=_bytes_of(operations, block),
        weights_bytes=_weights_bytes(operations),
    )


def main_block(package: Path) -> MilBlock:
    """The operations of a package's main function, as the file has them."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load as load_mil

    specification = coremltools.utils.load_spec(str(package))
    program = load_mil(
        specification,
        specification.specificationVersion,
        str(package / WEIGHTS),
    )
    block: MilBlock = program.functions["main"]
    return block


def _check_known(operations: Sequence[MilOperation], package: Path) -> None:
    """Raises Refused naming the operations that the evaluator lacks."""
    kinds = {operation.op_type for operation in operations}
    if lacking := sorted(kinds - set(OPERATIONS)):
        raise Refused(
            f"the evaluator has no {', '.join(lacking)}, which {package.name} uses: verify it on a Mac, or use an ONNX "
            f"variant"
        )


def _element_types(variables: Iterable[MilVariable]) -> dict[str, type[np.generic]]:
    return {variable.name: mil.element_type(variable) for variable in variables}


def _steps(operations: Sequence[MilOperation], block: MilBlock) -> tuple[Step, ...]:
    """The operations, in the order of the program."""
    kept = {variable.name for variable in block.outputs}
    last_use = _last_uses(operations)
    steps = []
    for index, operation in enumerate(operations):
        step = Step(
            kind=operation.op_type,
            function=OPERATIONS[operation.op_type],
            arguments=_arguments(operation),
            outputs=tuple(variable.name for variable in operation.outputs),
            halves=frozenset(_in_half(operation.outputs)),
            dead=tuple(_dead_after(index, operation, last_use) - kept),
        )
        steps.append(step)
    return tuple(steps)


def _in_half(variables: Iterable[MilVariable]) -> Iterator[str]:
    """Names of the values in fp16."""
    for variable in variables:
        if mil.element_type(variable) is np.float16:
            yield variable.name


def _last_uses(operations: Sequence[MilOperation]) -> dict[str, int]:
    """The index of the last operation that reads each value. A value that none reads is absent."""
    last_use = {}
    for index, operation in enumerate(operations):
        for variable in mil.read_by(operation):
            last_use[variable.name] = index
    return last_use


def _dead_after(
    index: int,
    operation: MilOperation,
    last_use: Mapping[str, int],
) -> set[str]:
    """Names of what the operation at `index` read or gave and no later one reads."""
    dead = set()
    for variable in mil.read_by(operation) + operation.outputs:
        if last_use.get(variable.name, index) == index:
            dead.add(variable.name)
    return dead


def _bytes_of(operations: Sequence[MilOperation], block: MilBlock) -> dict[str, int]:
    """Bytes per element of everything that is fed or computed, by name."""
    variables = list(block.inputs.values())
    for operation in operations:
        variables.extend(operation.outputs)
    return {variable.name: mil.element_bytes(variable) for variable in variables}


def _weights_bytes(operations: Sequence[MilOperation]) -> int:
    """Bytes of all constants but scalars, decompressed; what several operations take counts once."""
    sizes = {}
    for operation in operations:
        for variable in mil.taken_by(operation):
            if mil.is_constant(variable) and variable.rank:
                elements = int(np.prod(variable.shape))
                sizes[variable.name] = elements * mil.element_bytes(variable)
    return sum(sizes.values())


# --- arguments -----------------------------------------------------------------------------------------


def _arguments(operation: MilOperation) -> dict[str, Argument]:
    """What an operation takes, by MIL's name; arguments that are not given are left out."""
    arguments = {}
    for name, argument in operation.inputs.items():
        if argument is not None:
            arguments[name] = _argument(argument)
    return arguments


def _argument(argument: MilVariable | tuple[MilVariable, ...] | list[MilVariable]) -> Argument:
    if isinstance(argument, tuple | list):
        return [_one_argument(variable) for variable in argument]
    return _one_argument(argument)


def _one_argument(variable: MilVariable) -> Reference | Constant:
    if variable.op is not None and not mil.computes(variable.op):
        return _constant(variable, variable.op)
    return Reference(variable.name)


def _constant(variable: MilVariable, operation: MilOperation) -> Constant:
    """What `operation` holds. Strings and scalars are Python's own; arrays are tensors, of fp32 or int64."""
    value = operation.materialized_val_inference() if mil.holds_compressed(operation) else variable.val
    if isinstance(value, str | bool | int | float):
        return value
    if np.ndim(value) == 0:
        scalar: bool | int | float = value.item()
        return scalar
    array = np.asarray(value)
    if array.dtype == bool:
        return torch.from_numpy(array.copy())
    if np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array.astype(np.int64))


def to_tensors(feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Tensor]:
    """Arrays as the evaluator wants them: floats in fp32, integers in int64."""
    tensors = {}
    for name in names:
        tensor = torch.from_numpy(np.asarray(feeds[name], order="C"))
        dtype = torch.float32 if tensor.is_floating_point() else torch.int64
        tensors[name] = tensor.to(dtype)
    return tensors
