"""A full-int8 .tflite file as a program in plain C99: no interpreter, no heap, no library.

Weights are constant arrays, activations lie in one static arena whose plan is made here, and each operator is a call of
a kernel of `kernels.h`. What it computes equals TFLite Micro's reference kernels to the last bit.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.memory import Lifetime
from edge_assets.errors import Refused
from edge_assets.later import np
from edge_assets.toolchains.litert import fixed_point
from edge_assets.toolchains.litert.fixed_point import Affine, Factor

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, TensorT

SOURCE, HEADER, KERNELS = "network.c", "network.h", "kernels.h"
ALIGNMENT = 8  # bytes, of each tensor in the arena
MOST_AXES = 4
SAME = 0  # padding, in the schema
PER_LINE = 24
C_TYPES: Mapping[str, tuple[str, int]] = {"INT8": ("int8_t", 1), "INT32": ("int32_t", 4), "FLOAT32": ("float", 4)}
C_KEYWORDS = (
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"
)
ACTIVATIONS = {0: "none", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}


@dataclass(frozen=True)
class Port:
    """An input or an output of the network."""

    name: str
    shape: tuple[int, ...]
    c_type: str
    affine: Affine | None  # None: float

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Program:
    """A network in C."""

    symbol: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: Mapping[str, str]  # by name
    arena_bytes: int
    constant_bytes: int  # of weights, biases, factors and tables

    @property
    def head(self) -> str:
        """The function's head, as the header declares it."""
        return _signature(self.symbol, _identifiers(self.inputs, "input_"), _identifiers(self.outputs, "output_"))

    def write(self, folder: Path) -> None:
        for name, text in self.files.items():
            (folder / name).write_text(text)


def program(model: bytes, symbol: str, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    """The C program of a model, its inputs and outputs named in the file's order.

    Raises Refused naming an operator that has no kernel here, and its position.
    """
    graph = Graph(model)
    writer = Writer(graph)
    for position, operator in enumerate(graph.operators):
        try:
            _emit(writer, operator)
        except Refused as error:
            raise Refused(f"operator {position} ({graph.name_of(operator)}) has no form in C: {error}") from None
    written = {call.writes for call in writer.calls}
    if missing := set(graph.outputs) - written:
        raise Refused(f"no operator gives the output tensor {min(missing)}")
    places = _places(graph, writer)
    named_inputs = _ports(graph, graph.inputs, inputs)
    named_outputs = _ports(graph, graph.outputs, outputs)
    kernels = Path(__file__).with_name(KERNELS).read_text()
    header = _header(symbol, named_inputs, named_outputs, places.size)
    source = _source(symbol, named_inputs, named_outputs, graph, writer, places)
    return Program(
        symbol=symbol,
        inputs=tuple(named_inputs),
        outputs=tuple(named_outputs),
        files={SOURCE: source, HEADER: header, KERNELS: kernels},
        arena_bytes=places.size,
        constant_bytes=writer.constant_bytes,
    )


def _ports(graph: "Graph", tensors: Sequence[int], names: Sequence[str]) -> list[Port]:
    found = []
    for tensor, name in zip(tensors, names, strict=True):
        kind = graph.type_of(tensor)
        affine = None
        if kind == "INT8":
            affine = graph.affine(tensor)
        elif kind != "FLOAT32":
            raise Refused(f"{name} is of type {kind}: inputs and outputs are int8 or float in C")
        found.append(Port(name, graph.shape(tensor), C_TYPES[kind][0], affine))
    return found


# --- what the file says --------------------------------------------------------------------------------


class Graph:
    """The main graph of a .tflite file."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self.model: ModelT = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
        self.graph = self.model.subgraphs[0]
        self.inputs = [int(tensor) for tensor in self.graph.inputs]
        self.outputs = [int(tensor) for tensor in self.graph.outputs]

    @cached_property
    def operators(self) -> list["OperatorT"]:
        return list(self.graph.operators)

    def name_of(self, operator: "OperatorT") -> str:
        from ai_edge_litert.tools import flatbuffer_utils

        return str(flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex))

    def tensor(self, index: int) -> "TensorT":
        return self.graph.tensors[index]

    def type_of(self, index: int) -> str:
        from ai_edge_litert.tools import flatbuffer_utils

        return str(flatbuffer_utils.type_to_name(self.tensor(index).type))

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self.tensor(index).shape
        return () if shape is None else tuple(int(axis) for axis in shape)

    def elements(self, index: int) -> int:
        return math.prod(self.shape(index))

    def bytes_of(self, index: int) -> int:
        return self.elements(index) * C_TYPES[self.type_of(index)][1]

    def scales(self, index: int) -> list[float]:
        """One, or one for each channel."""
        return [float(scale) for scale in self.tensor(index).quantization.scale]

    def affine(self, index: int) -> Affine:
        """Of a tensor of activations, which has one scale. Raises Refused for any other."""
        quantization = self.tensor(index).quantization
        if self.type_of(index) != "INT8" or quantization is None or quantization.scale is None:
            raise Refused(f"tensor {index} is of type {self.type_of(index)}, and kernels in C take int8")
        if len(quantization.scale) != 1:
            raise Refused(f"tensor {index} has a scale for each channel")
        return Affine(float(quantization.scale[0]), int(quantization.zeroPoint[0]))

    def constant(self, index: int) -> "np.ndarray | None":
        """A constant's values; None for a tensor that is computed."""
        data = self.model.buffers[self.tensor(index).buffer].data
        if data is None or len(data) == 0:
            return None
        kinds = {"INT8": np.int8, "INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32}
        kind = self.type_of(index)
        if kind not in kinds:
            raise Refused(f"a constant is of type {kind}")
        return np.frombuffer(bytes(data), kinds[kind]).reshape(self.shape(index))

    def demanded_constant(self, index: int, what: str) -> "np.ndarray":
        """Raises Refused for one that is computed."""
        values = self.constant(index)
        if values is None:
            raise Refused(f"its {what} is computed, not constant")
        return values


# --- what is written -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One kernel's call. `reads` and `writes` are tensors; in `arguments` they are `{N}`."""

    kernel: str
    arguments: tuple[str, ...]
    reads: tuple[int, ...]
    writes: int


@dataclass
class Writer:
    """Constants and calls, in order."""

    graph: Graph
    constants: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    same: dict[int, int] = field(default_factory=dict)  # tensors that are another one in another shape
    constant_bytes: int = 0

    def root(self, tensor: int) -> int:
        """The tensor whose bytes a tensor has."""
        while tensor in self.same:
            tensor = self.same[tensor]
        return tensor

    def call(self, kernel: str, output: int, inputs: Sequence[int], *arguments: str) -> None:
        """A call; arguments name tensors as `{N}`."""
        self.calls.append(Call(kernel, arguments, tuple(inputs), output))

    def array(self, what: str, c_type: str, values: Iterable[str], size_bytes: int) -> str:
        """A constant array of this operator. Returns its name."""
        name = f"{what}_{len(self.calls)}"
        body = "\n".join(f"    {line}" for line in _lines(values))
        self.constants.append(f"static const {c_type} {name}[] = {{\n{body}\n}};")
        self.constant_bytes += size_bytes
        return name

    def numbers(self, what: str, values: "np.ndarray | Sequence[int]", c_type: str) -> str:
        flat = np.asarray(values).reshape(-1)
        width = {"int8_t": 1, "int32_t": 4}[c_type]
        written = (str(int(value)) if value != fixed_point.INT32_MIN else "INT32_MIN" for value in flat)
        return self.array(what, c_type, written, len(flat) * width)

    def factors(self, factors: Sequence[Factor]) -> str:
        return self.array("factors", "Factor", (_c(factor) for factor in factors), len(factors) * 8)

    def layer(self, c_type: str, **fields: object) -> str:
        """A kernel's parameters. Returns their address."""
        name = f"layer_{len(self.calls)}"
        body = ", ".join(f".{key} = {_c(value)}" for key, value in fields.items())
        self.constants.append(f"static const {c_type} {name} = {{{body}}};")
        return f"&{name}"


def _c(value: object) -> str:
    """A value as C initializes it."""
    if isinstance(value, Factor):
        return f"{{{value.multiplier}, {value.shift}}}"
    if isinstance(value, dict):
        return "{" + ", ".join(f".{key} = {_c(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "{" + ", ".join(_c(inner) for inner in value) + "}"
    return str(value)


def _lines(values: Iterable[str]) -> Iterator[str]:
    line: list[str] = []
    for value in values:
        line.append(value)
        if len(line) == PER_LINE:
            yield ", ".join(line) + ","
            line = []
    if line:
        yield ", ".join(line) + ","


# --- operators -----------------------------------------------------------------------------------------


def _emit(writer: Writer, operator: "OperatorT") -> None:
    name = writer.graph.name_of(operator)
    if name not in EMITTERS:
        raise Refused(f"there are kernels for {', '.join(sorted(EMITTERS))}. TFLite Micro runs the model as it is")
    EMITTERS[name](writer, operator)


def _one_in_one_out(operator: "OperatorT") -> tuple[int, int]:
    return int(operator.inputs[0]), int(operator.outputs[0])


def _range(activation: int, output: Affine) -> dict[str, int]:
    """What a fused activation leaves of the output's range."""
    least, most = fixed_point.SMALLEST, fixed_point.LARGEST

    def quantized(value: float) -> int:
        steps = np.float32(value) / np.float32(output.scale)
        return output.zero + fixed_point.rounded(float(steps))

    kind = ACTIVATIONS.get(activation)
    if kind is None:
        raise Refused(f"it has the fused activation {activation}, and kernels have {', '.join(ACTIVATIONS.values())}")
    if kind in ("RELU", "RELU6"):
        least = max(least, quantized(0))
    if kind == "RELU6":
        most = min(most, quantized(6))
    if kind == "RELU_N1_TO_1":
        least, most = max(least, quantized(-1)), min(most, quantized(1))
    return {"min": least, "max": most}


def _image(shape: Sequence[int]) -> dict[str, int]:
    if len(shape) != MOST_AXES or shape[0] != 1:
        raise Refused(f"it works on {list(shape)}, and kernels take one image, [1, height, width, channels]")
    return {"height": shape[1], "width": shape[2], "channels": shape[3]}


def _window(
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: int,
) -> dict[str, int]:
    pads = [0, 0]
    if padding == SAME:
        for i in range(2):
            reach = (size[i] - 1) * dilations[i] + 1
            lacking = (output_shape[i + 1] - 1) * strides[i] + reach - input_shape[i + 1]
            pads[i] = max(lacking, 0) // 2
    return {
        "height": size[0],
        "width": size[1],
        "stride_height": strides[0],
        "stride_width": strides[1],
        "dilation_height": dilations[0],
        "dilation_width": dilations[1],
        "pad_top": pads[0],
        "pad_left": pads[1],
    }


def _weights_and_bias(writer: Writer, operator: "OperatorT") -> tuple[str, str]:
    """Names of both arrays; NULL for a bias that is not given."""
    graph = writer.graph
    weights = graph.demanded_constant(int(operator.inputs[1]), "weights")
    if weights.dtype != np.int8:
        raise Refused(f"its weights are {weights.dtype}, and kernels take int8")
    zeros = graph.tensor(int(operator.inputs[1])).quantization.zeroPoint
    if zeros is not None and any(zeros):
        raise Refused("its weights have a zero point")
    weights_name = writer.numbers("weights", weights, "int8_t")
    bias_name = "0"
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = graph.demanded_constant(int(operator.inputs[2]), "bias")
        if bias.dtype != np.int32:
            raise Refused(f"its bias is {bias.dtype}, and kernels take int32")
        bias_name = writer.numbers("bias", bias, "int32_t")
    return weights_name, bias_name


def _factors(writer: Writer, source: Affine, scales: Sequence[float], output: Affine, channels: int) -> str:
    factors = []
    for channel in range(channels):
        scale = scales[channel] if len(scales) > 1 else scales[0]
        factors.append(Factor.of(source.scale * scale / output.scale))
    return writer.factors(factors)


def _convolution(writer: Writer, operator: "OperatorT") -> None:
    _any_convolution(writer, operator, is_depthwise=False)


def _depthwise_convolution(writer: Writer, operator: "OperatorT") -> None:
    _any_convolution(writer, operator, is_depthwise=True)


def _any_convolution(writer: Writer, operator: "OperatorT", is_depthwise: bool) -> None:
    graph, options = writer.graph, operator.builtinOptions
    source, target = _one_in_one_out(operator)
    filters = graph.shape(int(operator.inputs[1]))
    input_image, output_image = _image(graph.shape(source)), _image(graph.shape(target))
    before, after = graph.affine(source), graph.affine(target)
    window = _window(
        graph.shape(source),
        graph.shape(target),
        size=(filters[1], filters[2]),
        strides=(options.strideH, options.strideW),
        dilations=(options.dilationHFactor, options.dilationWFactor),
        padding=options.padding,
    )
    weights, bias = _weights_and_bias(writer, operator)
    factors = _factors(writer, before, graph.scales(int(operator.inputs[1])), after, output_image["channels"])
    group = filters[3]
    if is_depthwise:
        group = output_image["channels"] // input_image["channels"]
    layer = writer.layer(
        "Convolution",
        input=input_image,
        output=output_image,
        window=window,
        input_zero=before.zero,
        output_zero=after.zero,
        group_channels=group,
        range=_range(options.fusedActivationFunction, after),
    )
    kernel = "convolve_depthwise" if is_depthwise else "convolve"
    writer.call(kernel, target, [source], layer, f"{{{source}}}", weights, bias, factors, f"{{{target}}}")


def _fully_connected(writer: Writer, operator: "OperatorT") -> None:
    graph, options = writer.graph, operator.builtinOptions
    source, target = _one_in_one_out(operator)
    outputs, inputs = graph.shape(int(operator.inputs[1]))
    before, after = graph.affine(source), graph.affine(target)
    weights, bias = _weights_and_bias(writer, operator)
    scales = graph.scales(int(operator.inputs[1]))
    if len(scales) == 1:  # then the scales' product is a float32
        product = float(np.float32(before.scale) * np.float32(scales[0]))
        factors = writer.factors([Factor.of(product / after.scale)] * outputs)
    else:
        factors = _factors(writer, before, scales, after, outputs)
    layer = writer.layer(
        "Dense",
        rows=graph.elements(target) // outputs,
        inputs=inputs,
        outputs=outputs,
        input_zero=before.zero,
        output_zero=after.zero,
        range=_range(options.fusedActivationFunction, after),
    )
    writer.call("connect", target, [source], layer, f"{{{source}}}", weights, bias, factors, f"{{{target}}}")


def _four(shape: Sequence[int], filler: int = 1) -> list[int]:
    """A shape with four axes, the first ones added. Raises Refused for more."""
    if len(shape) > MOST_AXES:
        raise Refused(f"it works on {len(shape)} axes, and kernels take at most {MOST_AXES}")
    return [filler] * (MOST_AXES - len(shape)) + list(shape)


def _strides(shape: Sequence[int]) -> list[int]:
    """Elements from one position of each axis to the next."""
    found = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        found[axis] = found[axis + 1] * shape[axis + 1]
    return found


def _operand(writer: Writer, tensor: int) -> str:
    """A tensor as an argument: a constant gets an array of its own."""
    values = writer.graph.constant(tensor)
    if values is None:
        return f"{{{tensor}}}"
    return writer.numbers(f"operand{tensor}", values, "int8_t")


def _add(writer: Writer, operator: "OperatorT") -> None:
    before = [writer.graph.affine(int(tensor)) for tensor in operator.inputs]
    after = writer.graph.affine(int(operator.outputs[0]))
    larger = 2 * max(affine.scale for affine in before)
    factors = [Factor.of(affine.scale / larger) for affine in before]
    _pairwise(writer, operator, "add", factors, Factor.of(larger / (2**20 * after.scale)))


def _multiply(writer: Writer, operator: "OperatorT") -> None:
    first, second = [writer.graph.affine(int(tensor)) for tensor in operator.inputs]
    after = writer.graph.affine(int(operator.outputs[0]))
    unused = [Factor(0, 0), Factor(0, 0)]
    _pairwise(writer, operator, "multiply", unused, Factor.of(first.scale * second.scale / after.scale))


def _pairwise(
    writer: Writer,
    operator: "OperatorT",
    kernel: str,
    factors: Sequence[Factor],
    output: Factor,
) -> None:
    graph = writer.graph
    pair = [int(tensor) for tensor in operator.inputs]
    target = int(operator.outputs[0])
    after = graph.affine(target)
    strides = []
    for tensor in pair:
        shape = _four(graph.shape(tensor))
        of_shape = zip(shape, _strides(shape), strict=True)
        strides.append([stride if length > 1 else 0 for length, stride in of_shape])
    operands = [_operand(writer, tensor) for tensor in pair]
    layer = writer.layer(
        "Pairwise",
        shape=_four(graph.shape(target)),
        strides=strides,
        zeros=[graph.affine(tensor).zero for tensor in pair],
        output_zero=after.zero,
        factors=factors,
        output=output,
        range=_range(operator.builtinOptions.fusedActivationFunction, after),
    )
    computed = [tensor for tensor in pair if graph.constant(tensor) is None]
    writer.call(kernel, target, computed, layer, *operands, f"{{{target}}}")


def _pool_average(writer: Writer, operator: "OperatorT") -> None:
    _pool(writer, operator, "pool_average")


def _pool_max(writer: Writer, operator: "OperatorT") -> None:
    _pool(writer, operator, "pool_max")


def _pool(writer: Writer, operator: "OperatorT", kernel: str) -> None:
    graph, options = writer.graph, operator.builtinOptions
    source, target = _one_in_one_out(operator)
    layer = writer.layer(
        "Pool",
        input=_image(graph.shape(source)),
        output=_image(graph.shape(target)),
        window=_window(
            graph.shape(source),
            graph.shape(target),
            size=(options.filterHeight, options.filterWidth),
            strides=(options.strideH, options.strideW),
            dilations=(1, 1),
            padding=options.padding,
        ),
        range=_range(options.fusedActivationFunction, graph.affine(target)),
    )
    writer.call(kernel, target, [source], layer, f"{{{source}}}", f"{{{target}}}")


def _mean(writer: Writer, operator: "OperatorT") -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    before, after = graph.affine(source), graph.affine(target)
    shape = graph.shape(source)
    axes = set()
    for axis in graph.demanded_constant(int(operator.inputs[1]), "list of axes").reshape(-1):
        axes.add(int(axis) % len(shape) + MOST_AXES - len(shape))
    full = _four(shape)
    kept, reduced = [1] * MOST_AXES, [1] * MOST_AXES
    for axis, length in enumerate(full):
        (reduced if axis in axes else kept)[axis] = length
    count = math.prod(reduced)
    layer = writer.layer(
        "Mean",
        kept=kept,
        reduced=reduced,
        strides=_strides(full),
        sum_of_zeros=before.zero * count,
        output_zero=after.zero,
        factor=Factor.of(before.scale / after.scale).mean_of(count),
    )
    writer.call("average", target, [source], layer, f"{{{source}}}", f"{{{target}}}")


def _transpose(writer: Writer, operator: "OperatorT") -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    order = graph.demanded_constant(int(operator.inputs[1]), "order of axes").reshape(-1)
    strides = _strides(graph.shape(source))
    layer = writer.layer(
        "Transpose",
        shape=_four(graph.shape(target)),
        strides=_four([strides[int(axis)] for axis in order], filler=0),
    )
    _demand_int8(graph, source, target)
    writer.call("transpose", target, [source], layer, f"{{{source}}}", f"{{{target}}}")


def _pad(writer: Writer, operator: "OperatorT") -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    amounts = graph.demanded_constant(int(operator.inputs[1]), "list of amounts").reshape(-1, 2)
    layer = writer.layer(
        "Pad",
        shape=_four(graph.shape(source)),
        before=_four([int(amount) for amount in amounts[:, 0]], filler=0),
        after=_four([int(amount) for amount in amounts[:, 1]], filler=0),
        value=graph.affine(target).zero,
    )
    writer.call("pad", target, [source], layer, f"{{{source}}}", f"{{{target}}}")


def _reshape(writer: Writer, operator: "OperatorT") -> None:
    """The same bytes, which are copied only where they come in or go out."""
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    _demand_int8(graph, source, target)
    if target not in graph.outputs and graph.constant(source) is None:
        writer.same[target] = source
        return
    operand = _operand(writer, source)
    writer.call("copy", target, [source], operand, f"{{{target}}}", str(graph.elements(target)))


def _demand_int8(graph: Graph, *tensors: int) -> None:
    for tensor in tensors:
        if graph.type_of(tensor) != "INT8":
            raise Refused(f"it works on {graph.type_of(tensor)}, and kernels take int8")


def _softmax(writer: Writer, operator: "OperatorT") -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    graph.affine(target)
    exponentials = fixed_point.exponentials(graph.affine(source), float(operator.builtinOptions.beta))
    table = writer.numbers("exponentials", exponentials, "int32_t")
    length = graph.shape(source)[-1]
    rows = graph.elements(source) // length
    writer.call("softmax", target, [source], table, f"{{{source}}}", f"{{{target}}}", str(rows), str(length))


def _by_table(writer: Writer, operator: "OperatorT", table: Callable[[Affine, Affine], list[int]]) -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    values = writer.numbers("table", table(graph.affine(source), graph.affine(target)), "int8_t")
    count = str(graph.elements(target))
    writer.call("look_up", target, [source], values, f"{{{source}}}", f"{{{target}}}", count)


def _table(table: Callable[[Affine, Affine], list[int]]) -> Callable[[Writer, "OperatorT"], None]:
    return lambda writer, operator: _by_table(writer, operator, table)


def _quantize(writer: Writer, operator: "OperatorT") -> None:
    graph = writer.graph
    source, target = _one_in_one_out(operator)
    if graph.type_of(source) == "FLOAT32":
        _convert(writer, "quantize", graph.affine(target), source, target)
    else:
        _by_table(writer, operator, fixed_point.requantized)


def _dequantize(writer: Writer, operator: "OperatorT") -> None:
    source, target = _one_in_one_out(operator)
    _convert(writer, "dequantize", writer.graph.affine(source), source, target)


def _convert(writer: Writer, kernel: str, affine: Affine, source: int, target: int) -> None:
    """Between float and int8."""
    scale = f"{float(np.float32(affine.scale)).hex()}f"
    count = str(writer.graph.elements(target))
    writer.call(kernel, target, [source], scale, str(affine.zero), f"{{{source}}}", f"{{{target}}}", count)


EMITTERS: Mapping[str, Callable[[Writer, "OperatorT"], None]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _pool_average,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise_convolution,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "HARD_SWISH": _table(fixed_point.hard_swish),
    "LOGISTIC": _table(fixed_point.logistic),
    "MAX_POOL_2D": _pool_max,
    "MEAN": _mean,
    "MUL": _multiply,
    "PAD": _pad,
    "QUANTIZE": _quantize,
    "RELU": _table(fixed_point.relu),
    "RELU6": _table(fixed_point.relu6),
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "TRANSPOSE": _transpose,
}


# --- the arena -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where in the arena each tensor lies, in bytes, and how large it is."""

    offsets: Mapping[int, int]
    size: int


def _places(graph: Graph, writer: Writer) -> Places:
    """The plan: the largest tensor first, each at the lowest place that is free while it lives.

    Inputs and outputs are the caller's and have none.
    """
    outside = {writer.root(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, call in enumerate(writer.calls):
        first.setdefault(writer.root(call.writes), step)
        for tensor in (call.writes, *call.reads):
            last[writer.root(tensor)] = step
    lifetimes = {}
    for tensor, start in first.items():
        if tensor not in outside:
            lifetimes[tensor] = Lifetime(_aligned(graph.bytes_of(tensor)), start, last[tensor])
    offsets: dict[int, int] = {}
    for tensor in sorted(lifetimes, key=lambda each: (-lifetimes[each].bytes, each)):
        offsets[tensor] = _lowest_free(lifetimes[tensor], lifetimes, offsets)
    ends = [offset + lifetimes[tensor].bytes for tensor, offset in offsets.items()]
    return Places(offsets, max(ends, default=0))


def _lowest_free(wanted: Lifetime, lifetimes: Mapping[int, Lifetime], offsets: Mapping[int, int]) -> int:
    taken = []
    for tensor, offset in offsets.items():
        other = lifetimes[tensor]
        if other.first <= wanted.last and wanted.first <= other.last:
            taken.append((offset, offset + other.bytes))
    place = 0
    for start, end in sorted(taken):
        if place + wanted.bytes <= start:
            break
        place = max(place, end)
    return place


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# --- the files -----------------------------------------------------------------------------------------


def _signature(symbol: str, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> str:
    """The function's head, with its parameters by the names that are given."""
    parameters = [f"const {port.c_type} *{name}" for name, port in inputs.items()]
    parameters += [f"{port.c_type} *{name}" for name, port in outputs.items()]
    return f"void {symbol}_invoke({', '.join(parameters)})"


def _identifiers(ports: Sequence[Port], prefix: str) -> dict[str, Port]:
    """Ports by the specs' names where these are C's too, by position where they are not."""
    found: dict[str, Port] = {}
    for position, port in enumerate(ports):
        is_name = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", port.name) and port.name not in C_KEYWORDS.split()
        found[port.name if is_name else f"{prefix}{position}"] = port
    return found


def _by_position(ports: Sequence[Port], prefix: str) -> dict[str, Port]:
    return {f"{prefix}{position}": port for position, port in enumerate(ports)}


def _header(symbol: str, inputs: Sequence[Port], outputs: Sequence[Port], arena: int) -> str:
    guard = f"{symbol.upper()}_NETWORK_H"
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", ""]
    for port in (*inputs, *outputs):
        shape = ", ".join(str(axis) for axis in port.shape)
        meaning = ""
        if port.affine:
            meaning = f"; real value = {port.affine.scale!r} * (q - ({port.affine.zero}))"
        lines.append(f"/* {port.name}: {port.c_type} [{shape}]{meaning} */")
    lines += [f"#define {symbol.upper()}_ARENA_BYTES {arena}", ""]
    lines += ["/* Computes the outputs of one sample. Not to be called by two threads at once: the arena is one. */"]
    # the definition names its parameters otherwise: these may be names of its constants or kernels
    head = _signature(symbol, _identifiers(inputs, "input_"), _identifiers(outputs, "output_"))
    lines += [f"{head};", "", "#endif", ""]
    return "\n".join(lines)


def _source(
    symbol: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    graph: Graph,
    writer: Writer,
    places: Places,
) -> str:
    taken, given = _by_position(inputs, "input_"), _by_position(outputs, "output_")
    names = dict(zip([*graph.inputs, *graph.outputs], [*taken, *given], strict=True))
    lines = [f'#include "{HEADER}"', f'#include "{KERNELS}"', "", *writer.constants, ""]
    if places.size:
        lines += ["/* of 64-bit words, so that every tensor is aligned */"]
        lines += [f"static int64_t arena[{places.size // ALIGNMENT}];", ""]
    lines += [f"{_signature(symbol, taken, given)} {{"]
    for call in writer.calls:
        arguments = [_argument(argument, graph, writer, places, names) for argument in call.arguments]
        lines.append(f"    {call.kernel}({', '.join(arguments)});")
    lines += ["}", ""]
    return "\n".join(lines)


def _argument(argument: str, graph: Graph, writer: Writer, places: Places, names: Mapping[int, str]) -> str:
    if not argument.startswith("{"):
        return argument
    tensor = writer.root(int(argument.strip("{}")))
    if tensor in names:
        return names[tensor]
    c_type = C_TYPES[graph.type_of(tensor)][0]
    return f"({c_type} *)(arena + {places.offsets[tensor] // ALIGNMENT})"
