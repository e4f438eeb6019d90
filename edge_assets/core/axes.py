"""Dynamic axes: the sizes that a model is traced and tried with, and whether an artifact still has them all."""

from collections.abc import Iterable, Mapping, Sequence

from edge_assets.hashing import Json
from edge_assets.spec.model import ModelSpec, Tensor

Axes = Mapping[str, Sequence[int | str]]  # of each input or output, by name: a size, or a name where it is dynamic


def example_sizes(spec: ModelSpec, batch: int) -> dict[str, int]:
    """A size within its range for each dynamic axis of the inputs, the batch included: the best of them.

    Two axes differ where their ranges allow it, and none is 1 if it can be larger, because a tracer takes equal sizes
    for one and a 1 for a constant. Halves and doubles of the best size come first: many networks need multiples.
    """
    sizes = {"batch": batch}
    for axis in sorted(spec.dynamic_axes):
        least, best, largest = spec.axis_range(axis)
        candidates = [size for size in (best, best // 2, 2 * best, largest, least) if least <= size <= largest]
        free = [size for size in candidates if size > 1 and size not in sizes.values()]
        sizes[axis] = free[0] if free else best
    return sizes


def example_parameters(spec: ModelSpec) -> dict[str, Json]:
    """What of these sizes enters a recipe: nothing for a model whose batch alone is dynamic."""
    sizes: dict[str, Json] = dict(example_sizes(spec, batch=2))
    sizes.pop("batch")
    return {"traced_sizes": sizes} if sizes else {}


def other_sizes(spec: ModelSpec, axis: str, size: int) -> tuple[list[int], list[int]]:
    """Smaller and larger sizes of an axis within its range, each list beginning with the one to try first."""
    least, best, largest = spec.axis_range(axis)
    tried = (size // 2, best // 2, best, least, 2 * size, 2 * best, largest)
    possible = list(dict.fromkeys(other for other in tried if max(1, least) <= other <= largest))
    smaller = [other for other in possible if other < size]
    larger = [other for other in possible if size < other]
    return smaller, larger


def frozen(tensors: Iterable[Tensor], found: Axes) -> str | None:
    """Which declared dynamic axes an artifact lost, and at which value, in words; None where it has them all."""
    declared: dict[str, str] = {}  # names of axes in the artifact, with the declared ones that they were first seen for
    for tensor in tensors:
        for position, axis in tensor.dynamic_axes.items():
            if tensor.name not in found:
                continue
            has = found[tensor.name][position]
            if isinstance(has, int) and has > 0:
                return f"the dynamic axis '{axis}' froze at {has}, as axis {position} of '{tensor.name}'"
            if isinstance(has, str) and has and declared.setdefault(has, axis) != axis:
                return f"the dynamic axes '{declared[has]}' and '{axis}' became one, as if they were always equal"
    return None
