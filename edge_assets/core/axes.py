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
    taken = {batch}
    for axis in sorted(spec.dynamic_axes):
        least, best, largest = spec.axis_range(axis)
        sizes[axis] = best
        for size in (best, best // 2, 2 * best, largest, least):
            is_free = size > 1 and size not in taken
            if is_free and least <= size <= largest:
                sizes[axis] = size
                break
        taken.add(sizes[axis])
    return sizes


def example_parameters(spec: ModelSpec) -> dict[str, Json]:
    """What of these sizes enters a recipe: nothing for a model whose batch alone is dynamic."""
    sizes: dict[str, Json] = dict(example_sizes(spec, batch=2))
    sizes.pop("batch")
    if not sizes:
        return {}
    return {"traced_sizes": sizes}


def sizing_parameters(spec: ModelSpec) -> dict[str, Json]:
    """How a graph of lower precision computes sizes, in its recipe: nothing where the batch alone is dynamic."""
    return {"sizes": "fp32"} if spec.dynamic_axes else {}


def other_sizes(spec: ModelSpec, axis: str, size: int) -> tuple[list[int], list[int]]:
    """Smaller and larger sizes of an axis within its range, each list beginning with the one to try first."""
    least, best, largest = spec.axis_range(axis)
    smaller: list[int] = []
    larger: list[int] = []
    for other in (size // 2, best // 2, best, least, 2 * size, 2 * best, largest):
        if not max(1, least) <= other <= largest:
            continue
        if other < size and other not in smaller:
            smaller.append(other)
        if other > size and other not in larger:
            larger.append(other)
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
            if not isinstance(has, str) or has == "":
                continue
            first = declared.setdefault(has, axis)
            if first != axis:
                return f"the dynamic axes '{first}' and '{axis}' became one, as if they were always equal"
    return None
