"""PyTorch eager's outputs and what its metrics keep of them: a file that is written and read some samples at a time.

`.npz`: an array per output, in the precision that it has, and one per metric. Outputs beyond the memory for data are
not kept: of these samples a variant is compared by what the metrics say alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_assets.core.datasets.npz import NpzReader, NpzWriter, open_npz
from edge_assets.core.verify.accuracy import scores_name
from edge_assets.later import np
from edge_assets.settings import data_memory_bytes
from edge_assets.spec.model import Metric


def statistics_names(metrics: Sequence[Metric], outputs: Sequence[str]) -> dict[str, str]:
    """What the arrays of metrics are called beside outputs, by the metric's label; the deciding one comes first."""
    base = scores_name(outputs)
    names = {}
    for number, metric in enumerate(metrics):
        names[metric.label] = base if number == 0 else f"{base}.{number}"  # a dot, which no output's name has
    return names


class ReferenceWriter:
    """Writes the file."""

    def __init__(self, path: Path) -> None:
        self._writer = NpzWriter(path)
        self._room = data_memory_bytes()

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Outputs of the next samples, as long as there is room."""
        size = sum(array.nbytes for array in outputs.values())
        if size > self._room:
            self._room = 0  # none of later ones either: what is kept is the first
            return
        self._room -= size
        self._writer.add(outputs)

    def close(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Write the file, with what the metrics keep, by the arrays' names."""
        self._writer.close(statistics)


@dataclass(frozen=True)
class ReferenceOutputs:
    """The file, read."""

    path: Path
    outputs: tuple[str, ...]

    @cached_property
    def _file(self) -> NpzReader:
        return open_npz(self.path)

    @property
    def kept(self) -> int:
        """Of how many samples, the first ones, the outputs are here."""
        return self._file.members[self.outputs[0]].shape[0]

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Outputs of samples `start` to `stop`, as far as they are kept; by name, in the order of the model's."""
        return self._file.rows(start, stop, self.outputs)

    def statistics(self, name: str) -> np.ndarray:
        """What a metric keeps of all samples, by the array's name."""
        return self._file.rows(0, self._file.members[name].shape[0], [name])[name]

    def kinds(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of one sample of each output."""
        members = self._file.members
        return {name: (members[name].dtype, members[name].shape[1:]) for name in self.outputs}
