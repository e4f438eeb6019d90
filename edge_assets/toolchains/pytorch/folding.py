"""BatchNorm folded into the convolution before it, in a graph of torch.export.

A trained BatchNorm is a scale and a shift per channel. Folded first, the graph that is trained with fake quantization
is the very one that is exported, its weights are quantized as they ship, and no statistics of small batches disturb it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.fx.node import Argument

CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
BATCH_NORM = "aten.batch_norm.default"


def fold_batch_norm(model: torch.fx.GraphModule) -> int:
    """Fold in place wherever a convolution of its own weight feeds a BatchNorm alone; returns how many were folded.

    A convolution that is called several times is folded where the same BatchNorm follows each call.
    """
    by_weight: dict[Argument, list[torch.fx.Node]] = {}
    for node in model.graph.nodes:
        if str(node.target) == BATCH_NORM and _feeds_it_alone(_convolution(node)):
            by_weight.setdefault(_convolution(node).args[1], []).append(node)
    found = [norms for norms in by_weight.values() if _folds(norms)]
    for norms in found:
        _fold(model, norms)
    model.graph.eliminate_dead_code()
    model.recompile()
    return sum(len(norms) for norms in found)


def unfolded_calls(model: torch.fx.GraphModule) -> list[str]:
    """Weights of convolutions that are called several times with other BatchNorms behind them, which no fold holds."""
    found = set()
    for node in model.graph.nodes:
        if str(node.target) != BATCH_NORM or not _feeds_it_alone(_convolution(node)):
            continue
        weight = _given(_convolution(node).args[1:2])
        if weight and len(weight[0].users) > 1:
            found.add(str(weight[0].target))
    return sorted(found)


def _feeds_it_alone(convolution: torch.fx.Node) -> bool:
    return str(convolution.target) in CONVOLUTIONS and len(convolution.users) == 1


def _folds(norms: list[torch.fx.Node]) -> bool:
    """Whether nothing else reads the convolution's parameters, all are the model's own, and all norms are the same."""
    convolutions = {_convolution(norm) for norm in norms}
    some = _convolution(norms[0])
    for norm in norms:
        if norm.args[1:] != norms[0].args[1:] or _convolution(norm).args[1:3] != some.args[1:3]:
            return False
    for node in _given(some.args[1:3]):
        if node.op != "get_attr" or set(node.users) != convolutions:
            return False
    return all(node.op == "get_attr" for node in _given(norms[0].args[1:5]))


def _convolution(norm: torch.fx.Node) -> torch.fx.Node:
    """What a BatchNorm is applied to."""
    from torch.fx import Node

    node = norm.args[0]
    assert isinstance(node, Node)
    return node


def _given(arguments: Iterable[Argument]) -> list[torch.fx.Node]:
    """The nodes among a call's arguments, where those that are optional may be None."""
    from torch.fx import Node

    return [argument for argument in arguments if isinstance(argument, Node)]


def _fold(model: torch.fx.GraphModule, norms: list[torch.fx.Node]) -> None:
    """Fold the same BatchNorm behind each call of one convolution."""
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    weight, *biases = _given(_convolution(norms[0]).args[1:3])
    bias = biases[0] if biases else None
    scale, shift, mean, variance = norms[0].args[1:5]
    epsilon = norms[0].args[7]
    assert isinstance(epsilon, float | int)
    folded_weight, folded_bias = fuse_conv_bn_weights(
        conv_w=_tensor(model, weight),
        conv_b=_optional_tensor(model, bias),
        bn_rm=_tensor(model, mean),
        bn_rv=_tensor(model, variance),
        bn_eps=epsilon,
        bn_w=_optional_tensor(model, scale),
        bn_b=_optional_tensor(model, shift),
    )
    name = f"{weight.target}_bias" if bias is None else str(bias.target)
    _set(model, str(weight.target), folded_weight)
    _set(model, name, folded_bias)
    for norm in norms:
        convolution = _convolution(norm)
        if bias is None:
            with model.graph.inserting_before(convolution):
                own = model.graph.get_attr(name)
            convolution.args = (*convolution.args[:2], own, *convolution.args[3:])
        norm.replace_all_uses_with(convolution)
        model.graph.erase_node(norm)


def _tensor(model: torch.fx.GraphModule, node: Argument) -> torch.Tensor:
    """The parameter or statistic that a node reads."""
    from torch.fx import Node

    assert isinstance(node, Node)
    path, _, attribute = str(node.target).rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), attribute)
    return tensor


def _optional_tensor(model: torch.fx.GraphModule, node: Argument) -> torch.Tensor | None:
    return None if node is None else _tensor(model, node)


def _set(model: torch.fx.GraphModule, target: str, parameter: torch.nn.Parameter) -> None:
    path, _, attribute = target.rpartition(".")
    setattr(model.get_submodule(path), attribute, parameter)
