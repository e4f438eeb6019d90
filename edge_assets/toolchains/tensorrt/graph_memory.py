"""How much memory an ONNX graph needs, estimated from the graph alone: for hardware that is not at hand."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.memory import Lifetime, peak_live_bytes
from edge_assets.toolchains.onnx.graph import fix_input_shapes, initializers, tensor_bytes, with_input_shapes

if TYPE_CHECKING:
    import onnx


def weights_and_peak(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int] | None:
    """Bytes of the weights and of the activations alive at once at the worst point, with inputs of these shapes.

    Nodes run in the graph's order, one at a time, none in place, none fused; what is computed from weights alone is
    not counted. None if a tensor's shape cannot be inferred.
    """
    import onnx

    graph = with_input_shapes(onnx.load(path), shapes).graph
    if None in _sizes(graph).values():
        graph = with_input_shapes(_folded(path, shapes), shapes).graph
    weights = 0
    for tensor in graph.initializer:
        weights += len(onnx.numpy_helper.to_array(tensor).tobytes())
    sizes = _sizes(graph)
    lifetimes = []
    for name, steps in _steps(graph).items():
        size = sizes.get(name)
        if size is None:
            return None
        lifetimes.append(Lifetime(size, min(steps), max(steps)))
    return weights, peak_live_bytes(lifetimes)


def _steps(graph: "onnx.GraphProto") -> dict[str, list[int]]:
    """The steps at which each tensor is made or read; an input is there from the first, an output to the last."""
    constant = {"", *initializers(graph)}  # "": an optional input that is not given
    steps: dict[str, list[int]] = {}
    for value in graph.input:
        if value.name not in constant:
            steps[value.name] = [0]
    step = 0
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
            continue
        for name in {*node.input, *node.output} - constant:
            steps.setdefault(name, []).append(step)
        step += 1
    for value in graph.output:
        if value.name in steps:
            steps[value.name].append(step)
    return steps


def _folded(path: Path, shapes: Mapping[str, Sequence[int]]) -> "onnx.ModelProto":
    """The graph with what its shapes alone decide computed by ONNX Runtime, such as the length of a Range."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    fix_input_shapes(model, shapes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = str(Path(scratch) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _sizes(graph: "onnx.GraphProto") -> dict[str, int | None]:
    """Bytes of every value that is computed, and of inputs; None where the shape is not known."""
    sizes: dict[str, int | None] = {}
    for node in graph.node:
        for name in node.output:
            if name:
                sizes[name] = None
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes[value.name] = tensor_bytes(value)
    return sizes
