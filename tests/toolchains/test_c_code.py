"""Int8 networks as C: compiled here, and equal to TFLite Micro's interpreter to the last bit."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_assets.errors import Refused
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from edge_assets.toolchains.litert import c_code
from edge_assets.toolchains.litert import convert as litert
from resources import checkpoints
from resources.store import ArtifactStore
from tests import native
from tests.tiny.spec import TINY

NEEDED = ("ai_edge_litert", "tflite_micro")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="needs the extra microcontroller"
)
SAMPLES = 64
UNDEFINED = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")
MAIN = """
#include <stdio.h>
#include "network.h"

int main(void) {
    static INPUT input[INPUTS];
    static OUTPUT output[OUTPUTS];
    while (fread(input, sizeof input, 1, stdin) == 1) {
        net_invoke(input, output);
        fwrite(output, sizeof output, 1, stdout);
    }
    return 0;
}
"""
DTYPES = {"int8_t": np.int8, "float": np.float32}


def in_tflite_micro(model: bytes, samples: np.ndarray) -> np.ndarray:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=2**22)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy())
    return np.stack(outputs)


def in_c(program: c_code.Program, samples: np.ndarray, folder: Path) -> np.ndarray:
    """What the program computes; anything undefined or out of bounds in it ends it."""
    program.write(folder)
    (taken,), (given,) = program.inputs, program.outputs
    words = {"INPUTS": taken.elements, "OUTPUTS": given.elements, "INPUT": taken.c_type, "OUTPUT": given.c_type}
    main = MAIN
    for word, value in words.items():
        main = main.replace(f"{word} ", f"{value} ").replace(f"[{word}]", f"[{value}]")
    (folder / "main.c").write_text(main)
    command = [native.compiler("gcc"), "-std=c99", *native.STRICT, *UNDEFINED]
    subprocess.run([*command, "main.c", c_code.SOURCE, "-o", "main"], cwd=folder, check=True, timeout=120)
    printed = subprocess.run(
        [str(folder / "main")], input=samples.tobytes(), capture_output=True, check=True, timeout=120
    ).stdout
    return np.frombuffer(printed, DTYPES[given.c_type]).reshape(len(samples), *given.shape)


def of(model: bytes) -> c_code.Program:
    return c_code.program(model, "net", ["given"], ["result"])


def check(model: bytes, folder: Path, kind: type[np.generic] = np.int8) -> np.ndarray:
    """The outputs of random samples, which must be the same in both."""
    program = of(model)
    random = np.random.default_rng(3)
    shape = (SAMPLES, *program.inputs[0].shape)
    samples = random.integers(-128, 128, size=shape).astype(kind)
    if kind == np.float32:
        samples = random.normal(size=shape).astype(np.float32) * 4
    expected = in_tflite_micro(model, samples)
    assert np.array_equal(in_c(program, samples, folder), expected)
    assert len(np.unique(expected)) > 4, "a constant output proves nothing"
    return expected


# --- models of one operator ----------------------------------------------------------------------------


@dataclass
class Made:
    """A tensor of a model of one operator. Without scales it is no int8."""

    shape: Sequence[int]
    kind: str = "INT8"
    scales: Sequence[float] = (0.05,)
    zero: int = 0
    data: np.ndarray | None = None
    axis: int = 0


@dataclass
class OneOperator:
    """A model of one operator: its first tensor is the input, the last the output."""

    name: str
    tensors: list[Made]
    options: Mapping[str, object] = field(default_factory=dict)
    option_type: str | None = None

    def bytes(self) -> bytes:
        import flatbuffers  # type: ignore[import-untyped]
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT()
        model.version, model.description = 3, b"one operator"
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, self.name)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        model.operatorCodes = [code]
        model.buffers = [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors = [self._tensor(schema, model, made) for made in self.tensors]
        operator = schema.OperatorT()
        last = len(self.tensors) - 1
        operator.inputs, operator.outputs = list(range(last)), [last]
        if self.option_type:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, self.option_type)
            operator.builtinOptions = getattr(schema, f"{self.option_type}T")()
            for key, value in self.options.items():
                setattr(operator.builtinOptions, key, value)
        graph.operators, graph.inputs, graph.outputs = [operator], [0], [last]
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def _tensor(schema: object, model: object, made: Made) -> object:
        tensor = schema.TensorT()  # type: ignore[attr-defined]
        tensor.shape, tensor.name = list(made.shape), b"tensor"
        tensor.type = getattr(schema.TensorType, made.kind)  # type: ignore[attr-defined]
        tensor.buffer = 0
        if made.data is not None:
            buffer = schema.BufferT()  # type: ignore[attr-defined]
            buffer.data = np.frombuffer(made.data.tobytes(), np.uint8)
            model.buffers.append(buffer)  # type: ignore[attr-defined]
            tensor.buffer = len(model.buffers) - 1  # type: ignore[attr-defined]
        if made.scales:
            quantization = schema.QuantizationParametersT()  # type: ignore[attr-defined]
            quantization.scale = np.array(made.scales, np.float32)
            quantization.zeroPoint = np.full(len(made.scales), made.zero, np.int64)
            quantization.quantizedDimension = made.axis
            tensor.quantization = quantization
        return tensor


def weights(*shape: int, axis: int) -> Made:
    random = np.random.default_rng(1)
    data = random.integers(-127, 128, size=shape).astype(np.int8)
    return Made(shape, scales=random.uniform(0.001, 0.02, size=shape[axis]).tolist(), data=data, axis=axis)


def bias(length: int) -> Made:
    data = np.random.default_rng(2).integers(-3000, 3000, size=length).astype(np.int32)
    return Made([length], "INT32", [0.0005] * length, data=data)


def integers(*values: int, shape: Sequence[int] | None = None) -> Made:
    return Made(shape or [len(values)], "INT32", (), data=np.array(values, np.int32))


def convolution(padding: int, stride: int, dilation: int, activation: int, size: int, filters: Made) -> OneOperator:
    options = {
        "padding": padding,
        "strideW": stride,
        "strideH": stride,
        "dilationWFactor": dilation,
        "dilationHFactor": dilation,
        "fusedActivationFunction": activation,
    }
    outputs = filters.shape[0]
    result = Made([1, size, size, outputs], scales=[0.11], zero=-7)
    tensors = [Made([1, 9, 9, 6], scales=[0.04], zero=11), filters, bias(outputs), result]
    return OneOperator("CONV_2D", tensors, options, "Conv2DOptions")


def pool(name: str, padding: int, size: int) -> OneOperator:
    options = {
        "padding": padding,
        "strideW": 2,
        "strideH": 2,
        "filterWidth": 3,
        "filterHeight": 3,
        "fusedActivationFunction": 1,
    }
    tensors = [Made([1, 8, 8, 5], zero=-20), Made([1, size, size, 5], zero=-20)]
    return OneOperator(name, tensors, options, "Pool2DOptions")


def pair(name: str, second: Made, activation: int = 0) -> OneOperator:
    options = {"fusedActivationFunction": activation}
    tensors = [Made([1, 6, 6, 8], scales=[0.03], zero=5), second, Made([1, 6, 6, 8], scales=[0.07], zero=-3)]
    return OneOperator(name, tensors, options, f"{name.capitalize()}Options")


def constant(*shape: int) -> Made:
    data = np.random.default_rng(5).integers(-128, 128, size=shape).astype(np.int8)
    return Made(shape, scales=[0.021], zero=-9, data=data)


def unary(name: str, scale: float, result: Made, zero: int = 4) -> OneOperator:
    return OneOperator(name, [Made([1, 300], scales=[scale], zero=zero), result])


SIGMOID = Made([1, 300], scales=[1 / 256], zero=-128)
DEPTHWISE = {
    "padding": 0,
    "strideW": 1,
    "strideH": 2,
    "depthMultiplier": 2,
    "dilationWFactor": 1,
    "dilationHFactor": 1,
    "fusedActivationFunction": 3,
}
OPERATORS: Mapping[str, OneOperator] = {
    "convolution, same": convolution(0, 2, 1, 0, 5, weights(8, 3, 3, 6, axis=0)),
    "convolution, valid, relu": convolution(1, 1, 1, 1, 7, weights(8, 3, 3, 6, axis=0)),
    "convolution, dilated, relu6": convolution(1, 1, 2, 3, 5, weights(8, 3, 3, 6, axis=0)),
    "convolution, grouped": convolution(1, 1, 1, 0, 7, weights(9, 3, 3, 2, axis=0)),
    "depthwise": OneOperator(
        "DEPTHWISE_CONV_2D",
        [Made([1, 7, 7, 3], zero=-30), weights(1, 3, 3, 6, axis=3), bias(6), Made([1, 4, 7, 6], scales=[0.04])],
        DEPTHWISE,
        "DepthwiseConv2DOptions",
    ),
    "fully connected": OneOperator(
        "FULLY_CONNECTED",
        [Made([3, 40], zero=9), weights(10, 40, axis=0), bias(10), Made([3, 10], scales=[0.2], zero=1)],
        {"fusedActivationFunction": 0},
        "FullyConnectedOptions",
    ),
    "fully connected, one scale": OneOperator(
        "FULLY_CONNECTED",
        [
            Made([1, 40], zero=9),
            Made([10, 40], scales=[0.0123], data=weights(10, 40, axis=0).data),
            Made([10], "INT32", [0.05 * 0.0123], data=bias(10).data),
            Made([1, 10], scales=[0.2], zero=1),
        ],
        {"fusedActivationFunction": 1},
        "FullyConnectedOptions",
    ),
    "add a constant to each channel": pair("ADD", constant(8)),
    "add one value, relu": pair("ADD", constant(1), activation=1),
    "multiply by an image": pair("MUL", constant(1, 6, 6, 8)),
    "multiply by a constant of each channel": pair("MUL", constant(1, 1, 1, 8), activation=3),
    "average pool, same": pool("AVERAGE_POOL_2D", 0, 4),
    "average pool, valid": pool("AVERAGE_POOL_2D", 1, 3),
    "max pool, same": pool("MAX_POOL_2D", 0, 4),
    "mean of an image": OneOperator(
        "MEAN",
        [Made([1, 7, 5, 6], zero=-12), integers(1, 2), Made([1, 6], scales=[0.013], zero=3)],
        {"keepDims": False},
        "ReducerOptions",
    ),
    "mean of channels": OneOperator(
        "MEAN",
        [Made([1, 7, 5, 6], zero=-12), integers(-1), Made([1, 7, 5, 1], scales=[0.06], zero=3)],
        {"keepDims": True},
        "ReducerOptions",
    ),
    "transpose": OneOperator(
        "TRANSPOSE",
        [Made([1, 4, 5, 6]), integers(0, 3, 1, 2), Made([1, 6, 4, 5])],
        {},
        "TransposeOptions",
    ),
    "pad": OneOperator(
        "PAD",
        [Made([1, 4, 5, 3], zero=17), integers(0, 0, 1, 2, 0, 1, 0, 0, shape=[4, 2]), Made([1, 7, 6, 3], zero=17)],
        {},
        "PadOptions",
    ),
    "reshape": OneOperator("RESHAPE", [Made([1, 4, 6]), integers(1, 24), Made([1, 24])]),
    "softmax": OneOperator(
        "SOFTMAX",
        [Made([2, 17], scales=[0.09], zero=5), Made([2, 17], scales=[1 / 256], zero=-128)],
        {"beta": 1.0},
        "SoftmaxOptions",
    ),
    "softmax, steep": OneOperator(
        "SOFTMAX",
        [Made([1, 5], scales=[0.7], zero=5), Made([1, 5], scales=[1 / 256], zero=-128)],
        {"beta": 1.3},
        "SoftmaxOptions",
    ),
    "softmax, flat": OneOperator(
        "SOFTMAX",
        [Made([1, 5], scales=[0.004], zero=5), Made([1, 5], scales=[1 / 256], zero=-128)],
        {"beta": 1.0},
        "SoftmaxOptions",
    ),
    "logistic": unary("LOGISTIC", 0.05, SIGMOID),
    "logistic, steep": unary("LOGISTIC", 0.4, SIGMOID),
    "hard swish": unary("HARD_SWISH", 0.05, Made([1, 300], scales=[0.03], zero=-110)),
    "hard swish, steep": unary("HARD_SWISH", 0.4, Made([1, 300], scales=[0.4], zero=-100)),
    "hard swish, flat": unary("HARD_SWISH", 0.008, Made([1, 300], scales=[0.006], zero=-60)),
    "relu": unary("RELU", 0.05, Made([1, 300], scales=[0.03], zero=-128)),
    "relu6": unary("RELU6", 0.06, Made([1, 300], scales=[0.06], zero=4)),
    "requantize": unary("QUANTIZE", 0.05, Made([1, 300], scales=[0.07], zero=-9)),
    "dequantize": unary("DEQUANTIZE", 0.05, Made([1, 300], "FLOAT32", ())),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_kernel_computes_what_tflite_micro_does(name: str, tmp_path: Path) -> None:
    check(OPERATORS[name].bytes(), tmp_path)


def test_floats_are_quantized_at_the_edge(tmp_path: Path) -> None:
    operator = OneOperator("QUANTIZE", [Made([1, 300], "FLOAT32", ()), Made([1, 300], scales=[0.05], zero=-9)])
    check(operator.bytes(), tmp_path, np.float32)


def test_an_operator_without_a_kernel_is_named_with_its_position() -> None:
    with pytest.raises(Refused, match=r"operator 0 \(TANH\) has no form in C: there are kernels for ADD, "):
        of(unary("TANH", 0.05, Made([1, 300], scales=[1 / 128])).bytes())


def test_what_a_kernel_does_not_take_is_named() -> None:
    filters = Made([10, 40], scales=[0.01], zero=3, data=weights(10, 40, axis=0).data)
    tensors = [Made([1, 40]), filters, Made([1, 10])]
    operator = OneOperator("FULLY_CONNECTED", tensors, {"fusedActivationFunction": 0}, "FullyConnectedOptions")
    with pytest.raises(Refused, match=r"operator 0 \(FULLY_CONNECTED\).*its weights have a zero point"):
        of(operator.bytes())


# --- a model that was trained --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(store: ArtifactStore, checkpoint_file: Path) -> Callable[[], bytes]:
    """The tiny model in full int8."""

    def find() -> bytes:
        pytest.importorskip("litert_torch")
        pytest.importorskip("ai_edge_quantizer")
        where = target("cortex-m4")
        checkpoint = checkpoints.register(store, TINY.name, str(checkpoint_file))
        built = Cell(TINY, FAMILIES[where.family], where, checkpoint, store, log=lambda _line: None).build(
            "litert_int8_full"
        )
        assert built.artifact is not None
        return (store.checkout(built.artifact) / litert.FILE).read_bytes()

    return find


def test_a_trained_network_computes_what_tflite_micro_does(tiny: Callable[[], bytes], tmp_path: Path) -> None:
    check(tiny(), tmp_path)


def test_the_arena_is_no_larger_than_what_lives_at_once(tiny: Callable[[], bytes], tmp_path: Path) -> None:
    """Inputs and outputs are the caller's."""
    path = tmp_path / litert.FILE
    path.write_bytes(tiny())
    assert 0 < of(tiny()).arena_bytes <= litert.live_tensor_bytes(path)
