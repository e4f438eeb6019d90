"""ONNX Runtime Web in a browser: opens an ONNX file, or a bundle through its own loader.

The model runs in the page. Tensors cross as base64, and a query is timed by the page's clock around the runtime's
call alone, so the crossing is in no number.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from edge_assets.core.layout import Layout
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import Refused
from edge_assets.later import np
from edge_assets.toolchains.onnx import export as onnx_format
from edge_assets.toolchains.web.chromium import RUNTIME, WEB, Server
from edge_assets.toolchains.web.engine import Engine, ScriptError, open_engine

# scripts of a page are modules, which may not have run yet when it counts as loaded
READY = "async () => { while (!window.edge) await new Promise((resolve) => setTimeout(resolve, 20)); }"


class EncodedTensor(TypedDict):
    """An array as it crosses between this process and the page."""

    type: str  # NumPy's name
    dims: list[int]
    data: str  # the buffer in base64


class OrtWebSession:
    """A page with one model loaded. `load_ms` is the runtime's own loading; `baseline_bytes` the page's before it."""

    untimed: str | None = None  # why nothing is timed in it

    def __init__(
        self,
        path: Path,
        threads: int,
        outputs: Sequence[str],
        execution_provider: str,
        browser: str,
        layout: Layout | None = None,
    ) -> None:
        self.server = Server(routes(path))
        try:
            self.engine = open_engine(browser, webgpu=execution_provider == "webgpu")
        except BaseException:
            self.server.close()
            raise
        try:
            open_harness(self.engine, self.server)
            self.baseline_bytes = self.engine.peak_memory_bytes()
            names = list(outputs)
            if path.is_dir():  # whose manifest has the layout
                opened = self._call("openBundle", execution_provider, threads, names)
            else:
                opened = self._call("openFile", execution_provider, threads, names, layout)
        except BaseException:
            self.close()
            raise
        self.load_ms: float = opened["session_ms"]
        if execution_provider == "webgpu":
            self.untimed = why_untimed(self._call("adapter"))

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name. Raises Refused with the runtime's words if it cannot run this graph."""
        return self._outputs("run", feeds)

    def run_steps(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs [steps, ...] for inputs [steps, ...], and the states after the last, which the page keeps."""
        return self._outputs("runSteps", feeds)

    def time(self, feeds: Feeds) -> float:
        """One query's milliseconds, by the page's clock. Raises Refused on an adapter that is software."""
        self._demand_clock()
        return float(self._call("time", encode(feeds)))

    def time_step(self, feeds: Feeds, is_first: bool) -> float:
        """The next step's milliseconds, as `time`, with the states that the page has of the one before."""
        self._demand_clock()
        return float(self._call("timeStep", encode(feeds), is_first))

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the page's process."""
        return self.engine.peak_memory_bytes()

    def close(self) -> None:
        """End browser and server."""
        self.engine.close()
        self.server.close()

    def _demand_clock(self) -> None:
        if self.untimed is not None:
            raise Refused(self.untimed)

    def _outputs(self, function: str, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs: dict[str, EncodedTensor] = self._call(function, encode(feeds))
        return {name: decode(tensor) for name, tensor in outputs.items()}

    def _call(self, function: str, *arguments: object) -> Any:
        try:
            return self.engine.evaluate(f"(...given) => edge.{function}(...given)", arguments)
        except ScriptError as error:
            raise Refused(f"ONNX Runtime Web cannot run this model: {error}") from error


def open_session(
    path: Path,
    *,
    threads: int,
    inputs: Sequence[str],  # noqa: ARG001  # the page's runtime takes them by name
    outputs: Sequence[str],
    execution_provider: str,
    browser: str = "chromium",
    layout: Layout | None = None,
) -> Session:
    """`path`, a file or a bundle's folder, in a new browser. Raises Refused naming what the runtime lacks.

    `layout` is that of a model with states, or with its batch elsewhere than first.
    """
    if (path / onnx_format.FILE).is_file():
        onnx_format.one_file(path, "ONNX Runtime Web")
    return OrtWebSession(path, threads, outputs, execution_provider, browser, layout)


def routes(path: Path) -> dict[str, Path]:
    """What a server shows the page: its own files, the runtime, and the ONNX file or the bundle."""
    model = "/bundle/" if path.is_dir() else "/model"
    return {"/": WEB, "/runtime/": RUNTIME, model: path}


def open_harness(engine: Engine, server: Server) -> None:
    """The page, ready for calls of its `edge` object."""
    engine.open(f"{server.url}/harness.html")
    engine.evaluate(READY)


def why_untimed(adapter: Mapping[str, object] | None) -> str | None:
    """Why WebGPU is not timed on what a page says of its adapter; None: it is."""
    if adapter is None:
        return "not measured: this browser has no WebGPU adapter"
    if adapter["isSoftware"]:
        return f"not measured: WebGPU runs on a software adapter here ({adapter['name']})"
    return None


def encode(feeds: Feeds) -> dict[str, EncodedTensor]:
    """Arrays as the page takes them."""
    encoded: dict[str, EncodedTensor] = {}
    for name, array in feeds.items():
        content = np.ascontiguousarray(array).tobytes()
        encoded[name] = {
            "type": array.dtype.name,
            "dims": list(array.shape),
            "data": base64.b64encode(content).decode(),
        }
    return encoded


def decode(tensor: EncodedTensor) -> np.ndarray:
    """What `encode` made of one array."""
    values = np.frombuffer(base64.b64decode(tensor["data"]), np.dtype(tensor["type"]))
    return values.reshape(tensor["dims"])
