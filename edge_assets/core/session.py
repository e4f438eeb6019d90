"""Loaded models: what a session of any runtime can do, what it is fed, and how to open one in any process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_assets.core.data import read_arrays
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.preprocess import Preprocessing
from edge_assets.targets import Target

Feeds = Mapping[str, np.ndarray]


class Session(Protocol):
    """A loaded model of any runtime.

    A session whose model runs outside this process also has `time(feeds) -> float`, one query's milliseconds by the
    clock beside the model, `peak_memory_bytes() -> int`, `close()`, and `load_ms` and `baseline_bytes`: how long the
    runtime took to load the model, and that process's peak memory before.
    """

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, one batch."""
        ...


@dataclass(frozen=True)
class SavedFeeds:
    """A data artifact's model inputs, read when called: picklable, so that a converter process can be told."""

    path: Path
    preprocess: Preprocessing

    def __call__(self) -> dict[str, np.ndarray]:
        return self.preprocess.apply(read_arrays(self.path))


@dataclass(frozen=True)
class Loadable:
    """How to open an artifact in any process: JSON-able, so that a benchmark worker can be told."""

    runtime: str
    path: str
    options: Mapping[str, Any]

    def import_runtime(self) -> None:
        """Import the runtime's library, so that its cost can be told from the model's."""
        import_module(RUNTIMES[self.runtime].library)

    def open(self, threads: int) -> Session:
        """Load the model with `threads` intra-op threads."""
        module = import_module(f"edge_assets.toolchains.{RUNTIMES[self.runtime].module}")
        session: Session = module.open_session(Path(self.path), threads=threads, **self.options)
        return session

    def weight_bytes(self) -> Mapping[str, int] | None:
        """Bytes of the weights in the file by precision; None where its format does not tell."""
        module = RUNTIMES[self.runtime].weights
        if module is None:
            return None
        found: Mapping[str, int] = import_module(f"edge_assets.toolchains.{module}").weight_bytes(Path(self.path))
        return found

    @contextmanager
    def opened(self, threads: int) -> Iterator[Session]:
        """The loaded model, closed afterwards where its sessions have something to close."""
        session = self.open(threads)
        try:
            yield session
        finally:
            close = getattr(session, "close", None)
            if close:
                close()


def session_options(spec: ModelSpec, runtime: str, target: Target) -> dict[str, Any]:
    """What a runtime needs besides the file: names in order, what of the target it reads, and the architecture."""
    options: dict[str, Any] = {
        "inputs": [tensor.name for tensor in spec.inputs],
        "outputs": [tensor.name for tensor in spec.outputs],
    }
    for name in RUNTIMES[runtime].target_options:
        options[name] = target.options[name]
    if RUNTIMES[runtime].takes_architecture:
        options["architecture"] = spec.architecture
    return options
