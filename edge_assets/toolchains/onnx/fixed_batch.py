"""Programs with static shapes and a batch of one, which is how phones and microcontrollers run models.

Their memory is planned ahead of time. A session takes larger batches by running sample after sample, so that parity
and accuracy are those of the very program that ships. Other dynamic axes are fixed at the best of their sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edge_assets.core.session import Feeds
from edge_assets.errors import Refused
from edge_assets.spec.model import ModelSpec, Tensor

BATCH = "static batch of 1: larger batches run sample after sample"


def fixed_axes(spec: ModelSpec) -> dict[str, int]:
    """The size that each dynamic axis of the inputs besides the batch gets: the best of its `axis_ranges`."""
    axes = {axis for tensor in spec.inputs for axis in tensor.dynamic_axes.values()} - {"batch"}
    return {axis: spec.axis_range(axis)[1] for axis in sorted(axes)}


def fixed(spec: ModelSpec) -> ModelSpec:
    """The spec of the static program: `batch` alone is dynamic."""
    sizes = fixed_axes(spec)

    def static(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(replace(t, shape=tuple(sizes.get(str(axis), axis) for axis in t.shape)) for t in tensors)

    return replace(spec, inputs=static(spec.inputs), outputs=static(spec.outputs), axis_ranges={})


def describe(spec: ModelSpec) -> dict[str, Any]:
    """The facts of every static program: how it takes batches, and where other axes were fixed."""
    sizes = fixed_axes(spec)
    return {"batch": BATCH} | ({"fixed_axes": sizes} if sizes else {})


def input_shapes(spec: ModelSpec) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the static program's inputs by name."""
    return {tensor.name: tensor.shape for tensor in fixed(spec).inputs}


def check_sizes(feeds: Feeds, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Raises Refused for inputs [n, ...] whose axes after the first are not those of the program's `shapes`."""
    for name, shape in shapes.items():
        found, wanted = (list(map(int, axes[1:])) for axes in (feeds[name].shape, shape))
        if found != wanted:
            raise Refused(
                f"input '{name}' is {found} per sample, and this static program takes {wanted} alone: let the "
                f"preprocessing pad to that size, or declare the data's as the best size of the axis in axis_ranges"
            )


def one_by_one(run: Callable[[Feeds], dict[str, np.ndarray]], feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs of `run`, which takes one sample [1, ...], for the samples [n, ...] in `feeds`."""
    count = len(next(iter(feeds.values())))
    results = [run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
