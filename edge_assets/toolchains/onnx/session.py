"""Sessions of ONNX Runtime on a CPU. Needs NumPy and onnxruntime alone: devices hold a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.later import np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "model.onnx"


class OnnxSession:
    """ONNX Runtime on the CPU execution provider."""

    def __init__(self, session: InferenceSession, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.session = session
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = self.session.run(self.outputs, {name: feeds[name] for name in self.inputs})
        return {name: values[position] for position, name in enumerate(self.outputs)}


def open_session(path: Path, *, threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> OnnxSession:
    """An ONNX Runtime session with all graph optimisations, `threads` intra-op threads and one inter-op."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph_file(path), options, providers=["CPUExecutionProvider"])
    return OnnxSession(session, inputs, outputs)


def graph_file(path: Path) -> Path:
    """The graph of an artifact: the file itself, or the one in its folder, which has its weights beside it."""
    return path / FILE if path.is_dir() else path
