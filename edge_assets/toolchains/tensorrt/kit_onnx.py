"""A rebuild kit's ONNX graph in ONNX Runtime: what can be verified of a TensorRT engine where its GPU is not."""

from collections.abc import Sequence
from pathlib import Path

from edge_assets.core.session import Session
from edge_assets.toolchains.onnx import session as onnx_session
from edge_assets.toolchains.onnx import weight_bytes as of_graph
from edge_assets.toolchains.tensorrt import kit as tensorrt_kit


def open_session(path: Path, *, threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> Session:
    """An ONNX Runtime session of the kit at `path`, on the CPU."""
    graph = path / tensorrt_kit.MODEL
    return onnx_session.open_session(graph, threads=threads, inputs=inputs, outputs=outputs)


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of weights by precision, of the graph that the engine is built from."""
    return of_graph.weight_bytes(path / tensorrt_kit.MODEL)
