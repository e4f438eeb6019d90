"""Programs that take one sample of one size. Needs NumPy alone: devices hold a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edge_assets.errors import Refused
from edge_assets.later import np

if TYPE_CHECKING:
    from typing import TypeAlias

Arrays: TypeAlias = "Mapping[str, np.ndarray]"


def check_sizes(feeds: Arrays, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Raises Refused for inputs [n, ...] whose axes after the first are not those of the program's `shapes`."""
    for name, shape in shapes.items():
        found = list(feeds[name].shape[1:])
        wanted = [int(size) for size in shape[1:]]
        if found != wanted:
            raise Refused(
                f"input '{name}' is {found} per sample, and this static program takes {wanted} alone: let the "
                f"preprocessing pad to that size, or declare the data's as the best size of the axis in axis_ranges"
            )


def one_by_one(run: Callable[[Arrays], dict[str, np.ndarray]], feeds: Arrays) -> dict[str, np.ndarray]:
    """Outputs of `run`, which takes one sample [1, ...], for the samples [n, ...] in `feeds`."""
    parts: dict[str, list[np.ndarray]] = {}
    for position in range(len(next(iter(feeds.values())))):
        sample = {name: array[position : position + 1] for name, array in feeds.items()}
        for name, output in run(sample).items():
            parts.setdefault(name, []).append(output)
    return {name: np.concatenate(outputs) for name, outputs in parts.items()}
