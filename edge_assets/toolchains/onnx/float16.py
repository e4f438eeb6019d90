"""fp16: weights and arithmetic in half precision, inputs and outputs kept as declared.

Half precision ends at 65504: what the calibration data drive beyond, sums and squares most often, stays in fp32 with
the operators around it. A CPU may compute such a graph in fp32 all the same and hide the overflow that a GPU has.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.axes import sizing_parameters
from edge_assets.core.session import CalibrationData
from edge_assets.core.variant import BuildRequest
from edge_assets.hashing import Json
from edge_assets.later import np
from edge_assets.toolchains.onnx import beside
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.onnx.calibration import BATCH, MEMORY_BYTES, extremes_of, first_samples, fitting_batch
from edge_assets.toolchains.onnx.graph import set_nodes, sizing_nodes
from edge_assets.toolchains.onnx.layers import name_nodes

if TYPE_CHECKING:
    import onnx

    from edge_assets.spec.model import ModelSpec
    from edge_assets.targets import Target

LARGEST = 65504.0  # of IEEE 754 binary16
SMALLEST = 2.0**-14  # normal number of it: what is smaller has fewer bits
TOLD = 0.01  # of the weights that may be smaller before a note says so: any bell around zero has some
SAMPLES = 64  # that are looked at: calibration samples
NOT_LOOKED_AT = "larger than one ONNX file, so not run to find values beyond fp16's 65504"
SHOWN = 4  # operators named in a note


def build(request: BuildRequest) -> Mapping[str, Any]:
    """Convert every float32 tensor and operator that has a half-precision form and stays within its range."""
    path = request.output / onnx_format.FILE
    notes = convert(request.source, path, request.calibration)
    for note in notes:
        request.log(note)
    facts: dict[str, Any] = {"recipe": "fp16"}
    if notes:
        facts["notes"] = notes
    return onnx_format.finish(path, request.source) | facts


def convert(source: Path, path: Path, calibration: CalibrationData) -> list[str]:
    """Write the graph in half precision but for what exceeds it; returns sentences on what stayed in fp32.

    Inputs and outputs stay float32. Raises ExportError, and DataError if the graph gives NaN. A graph that has its
    weights beside it is written tensor by tensor, and not run for its range.
    """
    if source.is_dir():
        converted = beside.halved(beside.read(source))
        sort_topologically(converted)
        beside.write(converted, source, path)
        onnx_format.check(str(path))
        return [NOT_LOOKED_AT]
    with tempfile.TemporaryDirectory() as scratch:
        named = Path(scratch) / onnx_format.FILE
        shutil.copyfile(source, named)
        name_nodes(named)
        too_large = beyond_range(named, calibration)
        _convert(named, path, too_large)
    notes = [_note(too_large)] if too_large else []
    subnormal, weights = _subnormal(path)
    if subnormal > TOLD * weights:
        notes.append(
            f"{subnormal} weights ({100 * subnormal / weights:.0f} %) are below fp16's smallest normal number, "
            f"{SMALLEST:.1e}, and lose precision"
        )
    return notes


def _subnormal(path: Path) -> tuple[int, int]:
    """How many weights the graph in half precision has below its smallest normal number, and how many in all.

    Zeros are exact. What would become one is not, and is counted: the converter writes the smallest number instead.
    """
    import onnx

    count, weights = 0, 0
    for tensor in onnx.load(path).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            sizes = np.abs(onnx.numpy_helper.to_array(tensor))
            count += int(np.count_nonzero((sizes > 0) & (sizes < SMALLEST)))
            weights += sizes.size
    return count, weights


def beyond_range(graph: Path, calibration: CalibrationData) -> dict[str, float]:
    """Nodes that give values which half precision cannot hold, on the first calibration samples, and the largest.

    The nodes of `graph` have names. Raises DataError if the graph gives NaN.
    """
    import onnx

    few = first_samples(calibration, SAMPLES)
    batch = fitting_batch(graph, few, BATCH, MEMORY_BYTES)
    largest = {}
    for tensor, bounds in extremes_of(graph, few, (), batch).items():
        largest[tensor] = float(np.abs(bounds).max())
    found = {}
    for node in onnx.load(graph, load_external_data=False).graph.node:
        values = [largest.get(name, 0.0) for name in node.output]
        if max(values, default=0.0) > LARGEST:
            found[node.name] = max(values)
    return found


def _note(too_large: Mapping[str, float]) -> str:
    """What stays in fp32, in a sentence."""
    named = [f"{name} ({value:.3g})" for name, value in list(too_large.items())[:SHOWN]]
    more = f" and {len(too_large) - SHOWN} more" if len(too_large) > SHOWN else ""
    return f"beyond fp16's 65504 on calibration data, so kept in fp32: {', '.join(named)}{more}"


def _convert(source: Path, path: Path, keep: Collection[str]) -> None:
    """Write the graph in half precision but for the nodes that `keep` names and those that read what they give.

    What computes sizes stays as it is too.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    kept = sorted(_with_readers(model.graph, keep) | sizing_nodes(model.graph))
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    _pass_directly(converted, kept)
    sort_topologically(converted)
    # the converter writes types down that are not those of its nodes' inputs, such as of a Resize's scales
    del converted.graph.value_info[:]
    onnx_format.save(converted, path)


def _pass_directly(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Hand what a kept node gives to kept readers as it is: the converter casts it to half precision and back."""
    from onnx import TensorProto

    given: set[str] = set()
    for node in model.graph.node:
        if node.name in kept:
            given.update(node.output)
    halved: dict[str, str] = {}  # value in half precision -> as it was
    for node in model.graph.node:
        if _casts_to(node, TensorProto.FLOAT16) and node.input[0] in given:
            halved[node.output[0]] = node.input[0]
    for node in model.graph.node:
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in halved:
            node.op_type, node.input[0] = "Identity", halved[node.input[0]]
            del node.attribute[:]


def _casts_to(node: onnx.NodeProto, data_type: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == data_type


def _with_readers(graph: onnx.GraphProto, nodes: Collection[str]) -> set[str]:
    """These nodes, and those that read what they give."""
    values: set[str] = set()
    for node in graph.node:
        if node.name in nodes:
            values.update(node.output)
    found = set(nodes)
    for node in graph.node:
        if values & set(node.input):
            found.add(node.name)
    return found


def sort_topologically(model: onnx.ModelProto) -> None:
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


def parameters(spec: ModelSpec, _target: Target) -> dict[str, Json]:
    """Inputs and outputs stay as they are, and so does what computes sizes."""
    return {"keep_io_types": True, **sizing_parameters(spec)}


VARIANT = replace(
    onnx_format.FROM_MODEL,
    name="onnx_fp16",
    description="Half precision: half the size; CPUs without half-precision arithmetic gain no speed from it.",
    precision="fp16",
    build=build,
    code_version="2",
    needs=frozenset({"calibration"}),
    parameters=parameters,
)
