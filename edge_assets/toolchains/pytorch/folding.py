"""BatchNorm folded into the convolution before it, in a graph of torch.export.

A trained BatchNorm is a scale and a shift per channel. Folded first, the graph that is trained with fake quantization
is the very one that is exported, its weights are quantized as they ship, and no statistics of small batches disturb it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

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


def _folds(norm: Any) -> bool:
    convolution = norm.args[0]
    return (
        str(convolution.target) in CONVOLUTIONS
        and len(convolution.users) == 1
        and all(node.op == "get_attr" and len(node.users) == 1 for node in _parameters(convolution))
        and all(node is None or node.op == "get_attr" for node in norm.args[1:5])
    )


def _parameters(convolution: Any) -> list[Any]:
    """The nodes of its weight and, where it has one, its bias."""
    return [node for node in convolution.args[1:3] if node is not None]


def _fold(model: "torch.fx.GraphModule", norm: Any) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    convolution = norm.args[0]
    weight, *biases = _parameters(convolution)
    scale, shift, mean, variance = (_tensor(model, node) for node in norm.args[1:5])
    epsilon = norm.args[7]
    bias = _tensor(model, biases[0]) if biases else None
    folded = fuse_conv_bn_weights(_tensor(model, weight), bias, mean, variance, epsilon, scale, shift)
    name = biases[0].target if biases else f"{weight.target}_bias"
    for target, parameter in zip((weight.target, name), folded, strict=True):
        path, _, attribute = target.rpartition(".")
        setattr(model.get_submodule(path), attribute, parameter)
    if not biases:
        with model.graph.inserting_before(convolution):
            convolution.args = (*convolution.args[:2], model.graph.get_attr(name), *convolution.args[3:])
    norm.replace_all_uses_with(convolution)
    model.graph.erase_node(norm)


def _tensor(model: "torch.fx.GraphModule", node: Any) -> Any:
    if node is None:
        return None
    path, _, attribute = node.target.rpartition(".")
    return getattr(model.get_submodule(path), attribute)
