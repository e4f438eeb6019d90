"""Names for the parts of samples that are tuples, as many PyTorch data sets give them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge_assets.errors import DataError


@runtime_checkable
class Pairs(Protocol):
    """A map-style data set of tuples."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Sequence[object]: ...


@dataclass(frozen=True)
class NamedSamples:
    """The same samples as dicts, by position."""

    dataset: Pairs
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, object]:
        return _by_name(self.dataset[position], self.names)


@dataclass(frozen=True)
class NamedStream:
    """The same samples as dicts, one after the other."""

    dataset: Iterable[Sequence[object]]
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[dict[str, object]]:
        for sample in self.dataset:
            yield _by_name(sample, self.names)


def named(dataset: Pairs | Iterable[Sequence[object]], *names: str) -> NamedSamples | NamedStream:
    """Samples that are tuples, such as (picture, label), as dicts with these names."""
    if isinstance(dataset, Pairs):
        return NamedSamples(dataset, names)
    return NamedStream(dataset, names)


def _by_name(sample: Sequence[object], names: tuple[str, ...]) -> dict[str, object]:
    if len(sample) != len(names):
        raise DataError(f"a sample has {len(sample)} parts, and {len(names)} names were given: {', '.join(names)}")
    return dict(zip(names, sample, strict=True))
