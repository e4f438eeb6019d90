"""Loaded models: what a session of any runtime can do, what it is fed, and how to open one in any process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_assets.core.datasets.kept import Batch, Kept, KeptStream, first, joined, open_kept, whole
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.sizes import readable_size
from edge_assets.errors import DataError
from edge_assets.settings import data_memory_bytes
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
    """A data artifact, read when asked: picklable, so that a converter process can be told."""

    path: Path
    preprocess: Preprocessing
    load: str  # the dataset function, which is asked again where what it gives is not kept
    what: str

    @property
    def kept(self) -> Kept:
        """The samples, raw."""
        return open_kept(self.path, self.load, self.what)

    def raw(self) -> dict[str, np.ndarray]:
        """All samples at once. Raises DataError where they stream and do not fit the memory for data."""
        return whole(self.kept, self.what)

    def __call__(self) -> dict[str, np.ndarray]:
        """The model's inputs for all samples at once. Raises DataError as `raw`."""
        kept = self.kept
        if isinstance(kept, KeptStream):
            self._demand_room(kept)
        return self.preprocess.apply(self.raw())

    def _demand_room(self, kept: KeptStream) -> None:
        one = self.preprocess.apply(first(kept, 1))
        size = kept.samples * sum(array.nbytes for array in one.values())
        if size > data_memory_bytes():
            raise DataError(
                f"{self.what} data are needed at once, and take {readable_size(size)} of memory as inputs, more than "
                f"the {readable_size(data_memory_bytes())} for data: give fewer samples, or raise "
                f"EDGE_ASSETS_DATA_MEMORY"
            )

    def first(self, count: int) -> dict[str, np.ndarray]:
        """The model's inputs for the first `count` samples, or for all where there are fewer."""
        return joined(feeds for _, feeds in self.batches(0, count))

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Raw samples and the model's inputs, some at a time."""
        for batch in self.kept.batches(start, stop):
            yield batch, self.preprocess.apply(batch.raw)


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
