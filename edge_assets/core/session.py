"""Loaded models: what a session of any runtime can do, what it is fed, and how to open one in any process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from edge_assets.core.arranged import ArrangedSession
from edge_assets.core.datasets.ahead import read_ahead
from edge_assets.core.datasets.kept import Batch, Kept, KeptStream, first, joined, open_kept, whole
from edge_assets.core.layout import Layout, Stream, place
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.sizes import readable_size
from edge_assets.errors import DataError, Refused
from edge_assets.later import np
from edge_assets.settings import data_memory_bytes
from edge_assets.spec.model import ModelSpec, Tensor
from edge_assets.spec.preprocess import Preprocessing
from edge_assets.targets import Target

Feeds: TypeAlias = "Mapping[str, np.ndarray]"


class Session(Protocol):
    """A loaded model of any runtime.

    A session whose model runs outside this process also has `time(feeds) -> float`, one query's milliseconds by the
    clock beside the model, `peak_memory_bytes() -> int`, `close()`, and `load_ms` and `baseline_bytes`: how long the
    runtime took to load the model, and that process's peak memory before.
    """

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, one batch."""
        ...


class Samples(dict[str, "np.ndarray"]):
    """Inputs by name, samples first, that know how the model takes them."""

    def __init__(self, arrays: Feeds, layout: Layout) -> None:
        super().__init__(arrays)
        self.layout = layout

    def first(self, count: int) -> Samples:
        """The first samples."""
        return Samples({name: array[:count] for name, array in self.items()}, self.layout)

    def part(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Some of the samples as the model takes them."""
        return place({name: array[start:stop] for name, array in self.items()}, self.layout)


@dataclass(frozen=True)
class SavedFeeds:
    """A data artifact, read when asked: picklable, so that a converter process can be told."""

    path: Path
    preprocess: Preprocessing
    load: str  # the dataset function, which is asked again where what it gives is not kept
    what: str
    layout: Layout | None = None  # None: the batch comes first

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
        feeds = self.preprocess.apply(self.raw())
        if self.layout is None:
            return feeds
        return Samples(feeds, self.layout)

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
        """The model's inputs for the first `count` samples, or for all where there are fewer; no others are read."""
        feeds = joined(feeds for _, feeds in self.batches(0, count))
        if self.layout is None:
            return feeds
        return Samples(feeds, self.layout)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Raw samples and the model's inputs, some at a time; the next ones are read while these are in use."""
        return read_ahead(self._batches(start, stop))

    def _batches(self, start: int, stop: int | None) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        for batch in self.kept.batches(start, stop):
            yield batch, self.preprocess.apply(batch.raw)

    def in_batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """All samples in batches of `size`, the last one of what is left, as the model takes them.

        However many samples are read at a time, the batches are the same.
        """
        waiting: dict[str, np.ndarray] = {}
        for _, feeds in self.batches():
            waiting = joined([waiting, feeds])
            count = len(next(iter(waiting.values())))
            end = count - count % size
            for start in range(0, end, size):
                yield self._part(waiting, start, start + size)
            waiting = {name: array[end:] for name, array in waiting.items()}
        if len(next(iter(waiting.values()), ())):
            yield self._part(waiting, 0, size)

    def _part(self, feeds: Feeds, start: int, stop: int) -> dict[str, np.ndarray]:
        """Some of these samples as the model takes them."""
        if self.layout is None:
            return {name: array[start:stop] for name, array in feeds.items()}
        return Samples(feeds, self.layout).part(start, stop)


CalibrationData: TypeAlias = "Feeds | SavedFeeds"  # samples first: at once, or read some at a time


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
        options = dict(self.options)
        layout = options.get("layout")
        if not RUNTIMES[self.runtime].keeps_states:
            options.pop("layout", None)
        session: Session = module.open_session(Path(self.path), threads=threads, **options)
        if layout is None:
            return session
        return ArrangedSession(session, layout)

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


def inputs_by_step(session: Session, feeds: Feeds, layout: Layout) -> Iterator[dict[str, np.ndarray]]:
    """What a model with states takes of sequences [n, steps, ...] in each step, [n, ...]: samples first."""
    stream = Stream(layout)
    for step in range(next(iter(feeds.values())).shape[1]):
        placed = stream.next(feeds)
        taken = {name: array[:, step] for name, array in feeds.items()}
        for name, state in layout["states"].items():
            taken[name] = np.moveaxis(placed[name], state["axis"], 0)
        yield taken
        stream.keep(session.run(placed))


def layout_of(spec: ModelSpec) -> dict[str, dict[str, Any]] | None:
    """Where the model has its batch and what its states are, as `core/layout` reads it; None where all is as usual."""
    states = {}
    for tensor in spec.inputs:
        if tensor.name in spec.states:
            states[tensor.name] = {
                "output": spec.states[tensor.name],
                "shape": list(tensor.sample_shape),
                "axis": tensor.batch_axis,
                "dtype": tensor.dtype,
            }
    layout: dict[str, dict[str, Any]] = {
        "inputs": _batch_axes(spec.inputs),
        "outputs": _batch_axes(spec.outputs),
        "states": states,
    }
    return layout if any(layout.values()) else None


def refuse_layout(spec: ModelSpec, what: str) -> None:
    """Raises Refused where the model has states, or its batch elsewhere than first: for what is made for the usual."""
    layout = layout_of(spec)
    if layout is None:
        return
    names = sorted({*layout["inputs"], *layout["outputs"], *layout["states"]})
    raise Refused(
        f"{what} takes and gives samples on the first axis and keeps no states, and {', '.join(names)} of this model "
        f"differ: use an ONNX, LiteRT, ExecuTorch, CoreML or TensorRT variant"
    )


def _batch_axes(tensors: Sequence[Tensor]) -> dict[str, int | None]:
    """The batch axis of those that do not have it first."""
    return {tensor.name: tensor.batch_axis for tensor in tensors if tensor.batch_axis != 0}


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
    layout = layout_of(spec)
    if layout is not None:
        options["layout"] = layout
    return options
