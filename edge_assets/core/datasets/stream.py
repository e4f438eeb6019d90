"""Samples one after the other, from whatever a dataset function returns besides arrays.

A sample is a mapping of one sample's fields, without the axis of samples. What gives samples: a PyTorch `Dataset` or
`DataLoader`, a Hugging Face `datasets` object, a list of dicts, a generator, a function of no arguments that makes one
of these, and the sources of `edge_assets.spec.sources`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol, runtime_checkable

from edge_assets.core.datasets.fields import ONE_SHAPE, as_array, as_batch
from edge_assets.core.datasets.npz import Arrays
from edge_assets.errors import DataError, EdgeAssetsError, UserCodeError, printable, told
from edge_assets.later import np


@runtime_checkable
class MapStyle(Protocol):
    """What has a length, and a sample for every position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> object: ...


Stream = Iterable[object] | MapStyle


def as_stream(returned: object, where: str) -> Stream:
    """What a dataset function returned, as something that gives samples. Raises DataError where it is no such thing."""
    if callable(returned) and not isinstance(returned, Iterable | MapStyle):
        returned = returned()
    is_text = isinstance(returned, str | bytes | np.ndarray)
    if isinstance(returned, Iterable | MapStyle) and not isinstance(returned, Mapping) and not is_text:
        return returned
    raise DataError(
        f"{where} must return a dict of arrays, or what gives samples as dicts of arrays (a PyTorch Dataset or "
        f"DataLoader, a generator, a list), got {type(returned).__name__}"
    )


def samples(stream: Stream, where: str, start: int = 0) -> Iterator[Arrays]:
    """Samples from position `start`, each field an array of its own shape.

    Raises DataError for what is no sample, and UserCodeError for what the user's code raises meanwhile.
    """
    found: Iterator[object]
    if _is_loader(stream):
        found = islice(_of_loader(stream, where), start, None)
    elif isinstance(stream, MapStyle) and not _is_iterable_alone(stream):
        found = _of_positions(stream, start)
    else:
        assert isinstance(stream, Iterable)
        found = islice(stream, start, None)
    for number, sample in enumerate(_guarded(found, where), start):
        yield _checked(sample, f"{where}: sample {number}")


def _guarded(found: Iterator[object], where: str) -> Iterator[object]:
    """The same, with what the user's code raises said as such."""
    while True:
        try:
            sample = next(found)
        except StopIteration:
            return
        except EdgeAssetsError:
            raise
        except (Exception, SystemExit) as error:
            raise UserCodeError(f"{where} raised {told(error)}") from error
        yield sample


def _of_positions(stream: MapStyle, start: int) -> Iterator[object]:
    for position in range(start, len(stream)):
        yield stream[position]


def _is_loader(stream: Stream) -> bool:
    """Whether it is a PyTorch DataLoader, which gives batches. Where torch is not imported, nothing is."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(stream, data.DataLoader)


def _is_iterable_alone(stream: Stream) -> bool:
    """Whether it is a PyTorch IterableDataset, which inherits a `__getitem__` that it does not have."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(stream, data.IterableDataset)


def _of_loader(stream: Stream, where: str) -> Iterator[object]:
    """The samples of a loader's batches. A loader that shuffles gives others each time it is asked."""
    from torch.utils.data import DataLoader, RandomSampler

    assert isinstance(stream, DataLoader)
    if isinstance(stream.sampler, RandomSampler):
        raise DataError(f"{where}: the DataLoader shuffles, and a set must be the same each time: shuffle=False")
    if stream.batch_size is None and stream.batch_sampler is None:
        yield from stream
        return
    for batch in stream:
        if not isinstance(batch, Mapping):
            yield batch  # said of it as of any sample that is none
            return
        fields = {str(name): as_batch(field, f"{where}: field '{printable(name)}'") for name, field in batch.items()}
        for position in range(min(len(field) for field in fields.values())):
            yield {name: field[position] for name, field in fields.items()}


def _checked(sample: object, where: str) -> Arrays:
    if not isinstance(sample, Mapping) or not sample:
        raise DataError(
            f"{where} is a {type(sample).__name__}: samples are dicts of arrays by field name. For pairs use "
            f"edge_assets.named(dataset, 'image', 'label')"
        )
    return {str(name): as_array(name, field, where) for name, field in sample.items()}


def stacked(found: list[Arrays], where: str, start: int) -> Arrays:
    """Samples as one chunk, fields in alphabetical order. Raises DataError where they have not the same shape."""
    first = found[0]
    for number, sample in enumerate(found, start):
        for name in {*first, *sample}:
            _demand_alike(first.get(name), sample.get(name), f"{where}: field '{name}' of sample {number}")
    return {name: np.stack([sample[name] for sample in found]) for name in sorted(first)}


def _demand_alike(first: np.ndarray | None, other: np.ndarray | None, where: str) -> None:
    if first is None or other is None:
        raise DataError(f"{where} is missing there or in the others: all samples have the same fields")
    if first.shape != other.shape:
        raise DataError(f"{where} has shape {other.shape}, others have {first.shape}: {ONE_SHAPE}")
    is_text = first.dtype.kind in "SU"  # which has a width of its own
    if first.dtype != other.dtype and not (is_text and first.dtype.kind == other.dtype.kind):
        raise DataError(f"{where} is {other.dtype}, others are {first.dtype}: all must be of one type")
