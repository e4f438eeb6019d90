"""Samples in other sizes: what parity compares besides batches, for models with more dynamic axes than the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_assets.core.axes import other_sizes
from edge_assets.core.datasets.npz import read_arrays, save_arrays
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import ReferenceFault, told
from edge_assets.later import np
from edge_assets.spec.model import ModelSpec, Tensor

SAMPLES = 2


@dataclass(frozen=True)
class Resized:
    """One dynamic axis at another size than the data's, and what PyTorch eager gives for it."""

    axis: str
    size: int
    was: int  # the data's
    feeds: Feeds
    outputs: Feeds

    @property
    def title(self) -> str:
        return f"{self.axis}={self.size}"


@dataclass(frozen=True)
class ResizedCases:
    """What a step says of the resized samples that it kept."""

    cases: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class SavedSizes:
    """Where resized samples are kept, and what they are. Picklable."""

    file: Path
    cases: tuple[tuple[str, int, int], ...]  # axis, size, the data's size

    def read(self) -> Iterator[Resized]:
        """The samples, in the order of `cases`."""
        arrays = read_arrays(self.file)
        for number, (axis, size, was) in enumerate(self.cases):
            yield Resized(axis, size, was, _part(arrays, f"input_{number}_"), _part(arrays, f"output_{number}_"))


def _part(arrays: Feeds, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def save(resized: Sequence[Resized], file: Path) -> None:
    """Write them to `file`, as `SavedSizes` reads them."""
    arrays: dict[str, np.ndarray] = {}
    for number, case in enumerate(resized):
        for name, array in case.feeds.items():
            arrays[f"input_{number}_{name}"] = array
        for name, array in case.outputs.items():
            arrays[f"output_{number}_{name}"] = array
    save_arrays(arrays, file)


def resized_samples(session: Session, spec: ModelSpec, feeds: Feeds) -> list[Resized]:
    """Each dynamic axis once smaller and once larger than in `feeds`, as far as its range and the model allow.

    Samples are cut, or go on with their own beginning. `session` is the reference. Raises ReferenceFault for an axis
    that the model takes at the data's size alone.
    """
    few = {name: array[:SAMPLES] for name, array in feeds.items()}
    found = []
    for axis in sorted(spec.dynamic_axes):
        was = _size(spec, axis, few)
        smaller, larger = other_sizes(spec, axis, was)
        failures: list[str] = []
        taken = 0
        for sizes in (smaller, larger):
            case = _first_taken(session, spec, few, axis, was, sizes, failures)
            if case is not None:
                found.append(case)
                taken += 1
        if failures and not taken:
            raise ReferenceFault(
                f"the model takes no other size of its dynamic axis '{axis}' than {was}, the data's: {failures[0]}. "
                f"Declare the size as a number, or in axis_ranges the sizes that it takes."
            )
    return found


def _first_taken(
    session: Session,
    spec: ModelSpec,
    feeds: Feeds,
    axis: str,
    was: int,
    sizes: Sequence[int],
    failures: list[str],
) -> Resized | None:
    """The samples at the first of these sizes that the model takes, or None; why it takes one not, in `failures`."""
    for size in sizes:
        resized = _resize(spec, feeds, axis, size)
        try:
            outputs = session.run(resized)
        except Exception as error:  # the user's code can raise anything
            failures.append(f"with {size}, {told(error)}")
            continue
        if all(np.isfinite(array).all() for array in outputs.values()):
            return Resized(axis, size, was, resized, outputs)
        failures.append(f"with {size}, outputs are NaN or infinite")
    return None


def _size(spec: ModelSpec, axis: str, feeds: Feeds) -> int:
    for tensor in spec.fed_inputs:
        for position, name in _positions(spec, tensor):
            if name == axis:
                return int(feeds[tensor.name].shape[position])
    raise AssertionError(f"no input has the axis {axis}")


def _resize(spec: ModelSpec, feeds: Feeds, axis: str, size: int) -> dict[str, np.ndarray]:
    """Inputs with every axis of that name at that size."""
    resized = dict(feeds)
    for tensor in spec.fed_inputs:
        for position, name in _positions(spec, tensor):
            if name == axis:
                resized[tensor.name] = resized[tensor.name].take(
                    range(size),
                    axis=position,
                    mode="wrap",
                )
    return resized


def _positions(spec: ModelSpec, tensor: Tensor) -> Iterator[tuple[int, int | str]]:
    """The axes of an input's samples, with their places: samples come first, and steps next."""
    return enumerate(tensor.sample_shape, start=2 if spec.states else 1)
