"""Sessions of LiteRT's interpreter on a CPU. Needs NumPy and ai-edge-litert alone: devices hold a copy.

Images are NHWC at the interface, as cameras and LiteRT's kernels have them; the session transposes, so that it takes
what the model takes in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from edge_assets.core.one_sample import check_sizes, one_by_one
from edge_assets.later import np

if TYPE_CHECKING:
    from typing import TypeAlias

    from ai_edge_litert.interpreter import Interpreter

Feeds: TypeAlias = "Mapping[str, np.ndarray]"


class AffineQuantization(TypedDict):
    """The scales and zero points of a tensor: empty where it has none."""

    scales: np.ndarray
    zero_points: np.ndarray


class TensorDetails(TypedDict):
    """What the interpreters of LiteRT and TFLite Micro say of a tensor, as far as it is read here."""

    dtype: type[np.generic]
    shape: np.ndarray
    quantization_parameters: AffineQuantization


class IndexedTensorDetails(TensorDetails):
    """LiteRT's interpreter also says where the tensor is."""

    index: int


@dataclass(frozen=True)
class Port:
    """One input or output as the file has it: dtype, affine quantization and layout."""

    index: int  # by which the interpreter knows it
    dtype: type[np.generic]
    scale: float | None
    zero_point: int
    channels_last: bool

    @classmethod
    def of(cls, details: TensorDetails, index: int, channels_last: bool) -> Port:
        """From what the interpreter says of a tensor."""
        dtype = details["dtype"]
        quantization = details["quantization_parameters"]
        scale, zero_point = None, 0
        if len(quantization["scales"]) and np.issubdtype(dtype, np.integer):
            scale = float(quantization["scales"][0])
            zero_point = int(quantization["zero_points"][0])
        return cls(index, dtype, scale, zero_point, channels_last)

    def encode(self, array: np.ndarray) -> np.ndarray:
        """The model's input as the file takes it: q = round(x / scale) + zero point, saturated."""
        value = np.moveaxis(array, 1, -1) if self.channels_last else array
        if self.scale is not None:
            limits = np.iinfo(np.dtype(self.dtype))
            steps = np.rint(value / self.scale)
            value = np.clip(steps + self.zero_point, limits.min, limits.max)
        return np.asarray(value, self.dtype, order="C")  # a scalar stays one

    def decode(self, array: np.ndarray) -> np.ndarray:
        """The model's output from the file's: x = scale * (q - zero point)."""
        value = np.array(array)
        if self.scale is not None:
            centred = value.astype(np.float32) - self.zero_point
            value = (self.scale * centred).astype(np.float32)
        return np.moveaxis(value, -1, 1) if self.channels_last else value


def encoded(ports: Mapping[str, Port], feeds: Feeds) -> Iterator[tuple[int, np.ndarray]]:
    """One sample as the file takes it, by the interpreter's index."""
    for name, port in ports.items():
        yield port.index, port.encode(feeds[name])


def decoded(ports: Mapping[str, Port], output: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
    """The model's outputs of one sample; `output` gives the file's, by the interpreter's index."""
    return {name: port.decode(output(port.index)) for name, port in ports.items()}


class LiteRTSession:
    """The LiteRT interpreter on this CPU, with its default XNNPACK delegate."""

    def __init__(
        self,
        interpreter: Interpreter,
        inputs: Sequence[str],
        outputs: Sequence[str],
        channels_last: Sequence[str],
    ) -> None:
        interpreter.allocate_tensors()
        self.interpreter = interpreter
        runner = interpreter.get_signature_runner()  # not kept: the interpreter refuses to run while others hold it
        details = runner.get_input_details()
        self.inputs = ports(details, inputs, channels_last)
        self.outputs = ports(runner.get_output_details(), outputs, channels_last)
        self.shapes = {}  # as in PyTorch, by input
        for name, port in self.inputs.items():
            self.shapes[name] = _as_in_pytorch(details[name]["shape"], port.channels_last)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_sizes(feeds, self.shapes)
        return one_by_one(self.run_one, feeds)

    def run_one(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs for one sample, as the model takes it."""
        for index, value in encoded(self.inputs, feeds):
            self.interpreter.set_tensor(index, value)
        self.interpreter.invoke()
        return decoded(self.outputs, self.interpreter.get_tensor)


def ports(
    details: Mapping[str, IndexedTensorDetails],
    names: Sequence[str],
    channels_last: Sequence[str],
) -> dict[str, Port]:
    """By name, from what LiteRT's interpreter says of a signature's inputs or outputs."""
    found = {}
    for name in names:
        tensor = details[name]
        found[name] = Port.of(tensor, tensor["index"], name in channels_last)
    return found


def _as_in_pytorch(shape: Sequence[int], channels_last: bool) -> Sequence[int]:
    """A shape of the file's, with the channels where PyTorch has them."""
    if not channels_last:
        return shape
    batch, *spatial, channels = shape
    return [batch, channels, *spatial]


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    channels_last: Sequence[str] = (),
) -> LiteRTSession:
    """The interpreter with `threads` threads; `channels_last` names what the file has in NHWC."""
    return LiteRTSession(interpreter(path, threads), inputs, outputs, channels_last)


def interpreter(path: Path, threads: int = 1) -> Interpreter:
    """LiteRT's interpreter of a file, not yet allocated."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=threads)
