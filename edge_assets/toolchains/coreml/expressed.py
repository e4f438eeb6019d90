"""An exported program as coremltools takes it: recurrent layers step by step, pooling with the stride written out."""

from typing import TYPE_CHECKING

from edge_assets.errors import ExportError, told

if TYPE_CHECKING:
    import torch

RECURRENT = (  # layers and their cells, of the namespace aten
    *("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"),
    *("lstm_cell.default", "gru_cell.default", "rnn_tanh_cell.default", "rnn_relu_cell.default"),
)
POOLING = ("max_pool1d", "max_pool2d", "max_pool3d")
WITHOUT_STRIDE = 2  # arguments: the values and the kernel


def expressed(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """The same program in operators that coremltools has a form for. Raises ExportError where PyTorch cannot."""
    if any(_operator(node) in RECURRENT for node in program.graph.nodes):
        program = _unrolled(program)
    return with_strides(program)


def with_strides(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """The same program, in whose nodes for pooling the stride is written out."""
    for node in program.graph.nodes:
        name = _operator(node).partition(".")[0].removesuffix("_with_indices")
        if name in POOLING and len(node.args) == WITHOUT_STRIDE and not node.kwargs:
            _values, kernel = node.args
            node.insert_arg(WITHOUT_STRIDE, kernel)  # no stride is the kernel's size
    return program


def _operator(node: "torch.fx.Node") -> str:
    """An operator of PyTorch's with its overload, such as `gru.input`; nothing for inputs and outputs."""
    if node.op != "call_function":
        return ""
    return str(node.target).removeprefix("aten.")


def _unrolled(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """Recurrent layers as operators for each step. Their number is the program's own: torch.export fixed it."""
    import torch

    every = torch.export.default_decompositions()
    layers = {node.target for node in program.graph.nodes if _operator(node) in RECURRENT}
    layers.add(torch.ops.aten.unsafe_split.Tensor)  # what a cell becomes
    try:
        unrolled: torch.export.ExportedProgram = program.run_decompositions({layer: every[layer] for layer in layers})
    except Exception as error:
        raise ExportError(f"recurrent layers could not be written out step by step: {told(error)}") from error
    return unrolled
