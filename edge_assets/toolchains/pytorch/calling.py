"""One way to call every network: tensors by position in, a flat tuple of tensors out, in the spec's order.

In: by position, as `forward` takes them. By name where all of the spec's inputs are parameters of `forward` that do
not come first and in this order: keyword-only ones, and those behind optional ones that are left out.

Out: a tensor; or mappings, dataclasses, named tuples, tuples and lists of them, nested. A tensor's name is its path,
the keys joined by "_" (`boxes`, `head_boxes`, `hidden_0`). Where every name of the spec's outputs is such a name, these
are the outputs, and others are left out; else all tensors in their order are. None is left out.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.axes import example_sizes
from edge_assets.core.checkpoint import load_model
from edge_assets.errors import EdgeAssetsError
from edge_assets.toolchains.pytorch.session import flattened, is_tensor

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import ModelSpec

EXAMPLE_BATCH = 2  # a batch of one would be specialised by torch.export
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def example_inputs(spec: "ModelSpec", batch: int = EXAMPLE_BATCH) -> tuple["torch.Tensor", ...]:
    """Inputs of the declared dtypes and shapes; dynamic axes have sizes of their ranges."""
    import torch

    sizes = example_sizes(spec, batch)
    generator = torch.Generator().manual_seed(0)
    examples = []
    for tensor in spec.inputs:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        values = torch.rand(shape, generator=generator)  # drawn even if not used: the next input's numbers follow it
        if dtype.is_floating_point:
            examples.append(values.to(dtype))
        else:
            examples.append(torch.ones(shape, dtype=dtype))
    return tuple(examples)


def load_network(spec: "ModelSpec", path: Path) -> "torch.nn.Module":
    """The architecture with the checkpoint's weights, called as converters call it. Raises CheckpointError."""
    model = load_model(spec.architecture, path)
    return plain(model, spec)


def network_bytes(model: "torch.nn.Module") -> int:
    """Bytes of parameters and buffers."""
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        total += tensor.numel() * tensor.element_size()
    return total


def plain(model: "torch.nn.Module", spec: "ModelSpec") -> "torch.nn.Module":
    """The network, in a class derived from its own where its `forward` is to be called in another way."""
    import torch

    inputs = [tensor.name for tensor in spec.inputs]
    outputs = [tensor.name for tensor in spec.outputs]
    by_name = takes_by_name(model, inputs)
    example = example_inputs(spec)
    with torch.no_grad():
        result = model(**dict(zip(inputs, example, strict=True))) if by_name else model(*example)
    if by_name or not _is_flat(result, len(outputs)):
        adapt(model, inputs, outputs, by_name)
    return model


def takes_by_name(model: "torch.nn.Module", inputs: Sequence[str]) -> bool:
    """Whether inputs are given by name. Raises EdgeAssetsError for a keyword-only parameter that is not given."""
    parameters = inspect.signature(model.forward).parameters
    needed = []
    positional = []
    for name, parameter in parameters.items():
        if parameter.kind in POSITIONAL:
            positional.append(name)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty:
            needed.append(name)
    missing = [name for name in needed if name not in inputs]
    if missing:
        raise EdgeAssetsError(
            f"forward() of {type(model).__name__} needs the keyword {', '.join(missing)}, and the spec's inputs are "
            f"{', '.join(inputs)}: name an input so, or give the parameter a default"
        )
    names_all = all(name in parameters and parameters[name].kind not in VARIABLE for name in inputs)
    if needed and not names_all:
        raise EdgeAssetsError(
            f"forward() of {type(model).__name__} takes {', '.join(needed)} by keyword alone: name every input of the "
            f"spec as its parameter ({', '.join(parameters)})"
        )
    return names_all and positional[: len(inputs)] != list(inputs)


def adapt(
    model: "torch.nn.Module",
    inputs: Sequence[str],
    outputs: Sequence[str],
    by_name: bool,
) -> None:
    """Give the network a `forward` that takes its inputs by position and returns a flat tuple.

    In its class, not around it: the names of its modules and parameters stay what they are.
    """
    kind = type(model)
    names, declared = tuple(inputs), tuple(outputs)
    inner = kind.forward

    def forward(self: "torch.nn.Module", *arguments: "torch.Tensor") -> tuple["torch.Tensor", ...]:
        if by_name:
            return flattened(inner(self, **dict(zip(names, arguments, strict=True))), declared)
        return flattened(inner(self, *arguments), declared)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # by it torch names what it traces
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def is_adapted(model: "torch.nn.Module") -> bool:
    """Whether `adapt` gave the network its `forward`."""
    return hasattr(type(model).forward, "__signature__")


def _is_flat(result: object, count: int) -> bool:
    """Whether converters take it as it is: one tensor, or a tuple or list of as many as there are outputs."""
    if is_tensor(result):
        return count == 1
    if not isinstance(result, tuple | list) or hasattr(result, "_fields"):
        return False
    return len(result) == count and all(is_tensor(value) for value in result)
