"""How often a network's recurrent layers take a step, for formats in which each step is operators of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def recurrent_steps(model: "torch.nn.Module", example: "Sequence[torch.Tensor]") -> int:
    """Steps of all recurrent layers and cells on that example, each layer and direction counted; runs the network."""
    import torch

    steps = [0]

    def count(
        module: torch.nn.Module,
        inputs: tuple[object, ...],
        named: dict[str, object],
    ) -> None:
        values = inputs[0] if inputs else named["input"]
        steps[0] += _steps(module, values)

    handles = []
    for module in model.modules():
        if isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
            handles.append(module.register_forward_pre_hook(count, with_kwargs=True))
    if not handles:
        return 0
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return steps[0]


def _steps(layer: "torch.nn.Module", values: object) -> int:
    """Of one call with `values` [steps, features], or with a batch before or after the steps. A cell takes one."""
    import torch
    from torch.nn.utils.rnn import PackedSequence

    if not isinstance(layer, torch.nn.RNNBase):
        return 1
    directions = 2 if layer.bidirectional else 1
    if isinstance(values, PackedSequence):
        return len(values.batch_sizes) * layer.num_layers * directions
    assert isinstance(values, torch.Tensor)
    axis = 1 if layer.batch_first and values.ndim == 3 else 0
    return values.shape[axis] * layer.num_layers * directions
