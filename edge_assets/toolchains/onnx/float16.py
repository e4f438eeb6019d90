"""fp16: weights and arithmetic in half precision, inputs and outputs kept as declared."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.variant import BuildRequest
from edge_assets.toolchains.onnx import beside
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.graph import set_nodes

if TYPE_CHECKING:
    import onnx


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Convert every float32 tensor and operator that has a half-precision form."""
    path = request.output / onnx_format.FILE
    convert(request.source, path)
    return onnx_format.describe(path) | {"recipe": "fp16"}


def convert(source: Path, path: Path) -> None:
    """Write the graph in half precision; inputs and outputs stay float32. Raises ExportError."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if source.is_dir():
        converted = beside.halved(beside.read(source))
        sort_topologically(converted)
        beside.write(converted, source, path)
        onnx_format.check(str(path))
        return
    converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    sort_topologically(converted)
    onnx_format.save(converted, path)


def sort_topologically(model: "onnx.ModelProto") -> None:
    """Order nodes so that each follows its inputs' producers: the converter appends Casts at the end."""
    nodes = list(model.graph.node)
    producers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        producers |= dict.fromkeys(node.output, i)
    order: list[int] = []
    state = [0] * len(nodes)  # 0 unseen, 1 waiting for its inputs, 2 placed
    stack = list(range(len(nodes) - 1, -1, -1))
    while stack:
        i = stack[-1]
        if state[i] == 0:
            state[i] = 1
            sources = [producers[name] for name in nodes[i].input if name in producers]
            stack += [source for source in sources if state[source] == 0]
        else:
            stack.pop()
            if state[i] == 1:
                state[i] = 2
                order.append(i)
    set_nodes(model.graph, [nodes[i] for i in order])


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_fp16",
    description="Half precision: half the size; CPUs without half-precision arithmetic gain no speed from it.",
    precision="fp16",
    build=build,
    parameters=lambda _spec, _target: {"keep_io_types": True},
)
