"""What a LiteRT file gives where values are half precision, as on the GPUs of phones: computed here, on a CPU.

A copy of the file rounds what each operator gives to fp16 and back, and LiteRT's interpreter runs it. So what overflows
becomes infinite, and what is too fine is lost, as it would there; sums within an operator are kept in fp32, where a GPU
may keep them in fp16.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.toolchains.litert.session import LiteRTSession

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, SubGraphT


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    channels_last: Sequence[str] = (),
) -> LiteRTSession:
    """As of the file itself, with every operator's values rounded to fp16."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=rounded(path), num_threads=threads)
    return LiteRTSession(interpreter, inputs, outputs, channels_last)


def rounded(path: Path) -> bytes:
    """The file with two casts behind each operator that gives fp32: to fp16, and back."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    code = _cast_code(model)
    for graph in model.subgraphs:
        _round(graph, code)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _round(graph: SubGraphT, code: int) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    rounding: list[OperatorT] = []
    for operator in graph.operators:
        rounding.append(operator)
        for position, output in enumerate(operator.outputs):
            if graph.tensors[output].type != TensorType.FLOAT32:
                continue
            whole = _like(graph, output, TensorType.FLOAT32)
            half = _like(graph, output, TensorType.FLOAT16)
            operator.outputs[position] = whole
            rounding += [_cast(code, whole, half), _cast(code, half, output)]
    graph.operators = rounding


def _like(graph: SubGraphT, tensor: int, kind: int) -> int:
    """The index of a new tensor of that shape, which the graph computes."""
    made = copy(graph.tensors[tensor])
    made.name = b"%s/%d" % (made.name, len(graph.tensors))
    made.type = kind
    made.buffer = 0
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _cast(code: int, given: int, made: int) -> OperatorT:
    from ai_edge_litert.schema_py_generated import OperatorT

    operator = OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = [given], [made]
    return operator


def _cast_code(model: ModelT) -> int:
    """The position of CAST among the file's kinds of operators, added where it is not there."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, OperatorCodeT

    for position, known in enumerate(model.operatorCodes):
        if known.builtinCode == BuiltinOperator.CAST:
            return position
    code = OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = BuiltinOperator.CAST
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
