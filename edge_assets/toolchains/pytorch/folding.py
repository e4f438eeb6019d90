"""BatchNorm folded into the convolution before it, in a graph of torch.export.

A trained BatchNorm is a scale and a shift per channel. Folded first, the graph that is trained with fake quantization
is the very one that is exported, its weights are quantized as they ship, and no statistics of small batches disturb it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.fx.node import Argument

CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
BATCH_NORM = "aten.batch_norm.default"


def fold_batch_norm(model: "torch.fx.GraphModule") -> int:
    """Fold in place wherever a convolution of its own weight feeds a BatchNorm alone; returns how many were folded."""
    found = [node for node in model.graph.nodes if str(node.target) == BATCH_NORM and _folds(node)]
    for node in found:
        _fold(model, node)
    model.graph.eliminate_dead_code()
    model.recompile()
    return len(found)


def _folds(norm: "torch.fx.Node") -> bool:
    """Whether the convolution is read by nothing else, and all parameters of both are the model's own."""
    convolution = _convolution(norm)
    if str(convolution.target) not in CONVOLUTIONS or len(convolution.users) != 1:
        return False
    for node in _given(convolution.args[1:3]):
        if node.op != "get_attr" or len(node.users) != 1:
            return False
    return all(node.op == "get_attr" for node in _given(norm.args[1:5]))


def _convolution(norm: "torch.fx.Node") -> "torch.fx.Node":
    """What a BatchNorm is applied to."""
    from torch.fx import Node

    node = norm.args[0]
    assert isinstance(node, Node)
    return node


def _given(arguments: "Iterable[Argument]") -> "list[torch.fx.Node]":
    """The nodes among a call's arguments, where those that are optional may be None."""
    from torch.fx import Node

    return [argument for argument in arguments if isinstance(argument, Node)]


def _fold(model: "torch.fx.GraphModule", norm: "torch.fx.Node") -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    convolution = _convolution(norm)
    weight, *biases = _given(convolution.args[1:3])
    bias = biases[0] if biases else None
    scale, shift, mean, variance = norm.args[1:5]
    epsilon = norm.args[7]
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
    if bias is None:
        with model.graph.inserting_before(convolution):
            bias = model.graph.get_attr(name)
        convolution.args = (*convolution.args[:2], bias, *convolution.args[3:])
    norm.replace_all_uses_with(convolution)
    model.graph.erase_node(norm)


def _tensor(model: "torch.fx.GraphModule", node: "Argument") -> "torch.Tensor":
    """The parameter or statistic that a node reads."""
    from torch.fx import Node

    assert isinstance(node, Node)
    path, _, attribute = str(node.target).rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), attribute)
    return tensor


def _optional_tensor(model: "torch.fx.GraphModule", node: "Argument") -> "torch.Tensor | None":
    return None if node is None else _tensor(model, node)


def _set(model: "torch.fx.GraphModule", target: str, parameter: "torch.nn.Parameter") -> None:
    path, _, attribute = target.rpartition(".")
    setattr(model.get_submodule(path), attribute, parameter)
