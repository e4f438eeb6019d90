"""TensorFlow Lite for Microcontrollers (TFLite Micro): its own interpreter and reference kernels on this machine.

The same C++ interpreter, memory planner and integer arithmetic as on the device; only the kernels there are faster
(CMSIS-NN) and the pointers smaller. Int8 inputs and outputs are quantized and dequantized here by the tensors' scale
and zero point, so that parity is that of the file that ships.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.one_sample import one_by_one
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import ExportError
from edge_assets.later import np
from edge_assets.toolchains.litert.c_array import FILE as C_ARRAY
from edge_assets.toolchains.litert.c_array import read_array
from edge_assets.toolchains.litert.session import Port, decoded, encoded

if TYPE_CHECKING:
    from tflite_micro.python.tflite_micro.runtime import Interpreter

HOST_ARENA = 64 * 2**20  # bytes; what a model really takes of it is recorded
RESOLVER_WORDS = {  # of operators' names, where MicroMutableOpResolver's methods do not merely capitalize them
    "2D": "2D",
    "CUMSUM": "CumSum",
    "LSTM": "LSTM",
    "MATMUL": "MatMul",
    "PADV2": "PadV2",
}
# in a process of its own: the allocator prints what it recorded and returns nothing
PRINT_ALLOCATIONS = """
import sys
from tflite_micro.python.tflite_micro import runtime

interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))
interpreter.invoke()
interpreter.print_allocations()
"""


def operators() -> frozenset[str]:
    """The builtin operators that TFLite Micro has kernels for."""
    lines = Path(__file__).with_name("tflite_micro_operators.txt").read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def resolver_method(operator: str) -> str:
    """The method of MicroMutableOpResolver that registers a builtin operator's kernel: CONV_2D gives AddConv2D."""
    words = [RESOLVER_WORDS.get(word, word.capitalize()) for word in operator.split("_")]
    return "Add" + "".join(words)


class MicroSession:
    """TFLite Micro's interpreter on this machine, one sample at a time."""

    def __init__(
        self,
        interpreter: Interpreter,
        inputs: Sequence[str],
        outputs: Sequence[str],
        channels_last: Sequence[str],
    ) -> None:
        self.interpreter = interpreter
        self.inputs = {}
        for i, name in enumerate(inputs):
            details = interpreter.get_input_details(i)
            self.inputs[name] = Port.of(details, i, name in channels_last)
        self.outputs = {}
        for i, name in enumerate(outputs):
            details = interpreter.get_output_details(i)
            self.outputs[name] = Port.of(details, i, name in channels_last)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return one_by_one(self.run_one, feeds)

    def run_one(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs for one sample, as the model takes it."""
        for index, value in encoded(self.inputs, feeds):
            self.interpreter.set_input(value, index)
        self.interpreter.invoke()
        return decoded(self.outputs, self.interpreter.get_output)


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    channels_last: Sequence[str] = (),
) -> Session:
    """The interpreter of a .tflite file, or of the C array in a folder. It runs in one thread, whatever `threads`."""
    del threads
    model = read_array(path / C_ARRAY) if path.is_dir() else path.read_bytes()
    return MicroSession(_interpreter(model), inputs, outputs, channels_last)


def _interpreter(model: bytes) -> Interpreter:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(model, arena_size=_host_arena(len(model)))


def _host_arena(model_bytes: int) -> int:
    """Bytes of the arena that any model of that size should find enough."""
    return max(HOST_ARENA, 10 * model_bytes)


def record_arena(path: Path) -> Mapping[str, int]:
    """Bytes of the arena that TFLite Micro allocates for a model on this machine: total, head and tail.

    The head holds activations and scratch buffers, placed by its greedy memory planner; the tail its structures, with
    64-bit pointers here. Raises ExportError if the interpreter does not say, or does not take the model.
    """
    size = _host_arena(path.stat().st_size)
    result = subprocess.run(
        [sys.executable, "-c", PRINT_ALLOCATIONS, str(path), str(size)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    text = result.stdout + result.stderr
    found = {}
    for part, size_bytes in re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text):
        found[part] = int(size_bytes)
    if result.returncode or len(found) != 3:
        raise ExportError(f"TFLite Micro does not run the model: {text.strip()[-1000:]}")
    return found
