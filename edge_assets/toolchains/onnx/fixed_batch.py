"""Programs with static shapes and a batch of one, which is how phones and microcontrollers run models.

Their memory is planned ahead of time. A session takes larger batches by running sample after sample, so that parity
and accuracy are those of the very program that ships. Other dynamic axes are fixed at the best of their sizes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_assets.spec.model import ModelSpec, Tensor

BATCH = "static batch of 1: larger batches run sample after sample"


def fixed_axes(spec: ModelSpec) -> dict[str, int]:
    """The size that each dynamic axis of the inputs besides the batch gets: the best of its `axis_ranges`."""
    axes: set[str] = set()
    for tensor in spec.inputs:
        axes.update(tensor.dynamic_axes.values())
    return {axis: spec.axis_range(axis)[1] for axis in sorted(axes - {"batch"})}


def fixed(spec: ModelSpec) -> ModelSpec:
    """The spec of the static program: `batch` alone is dynamic.

    Without preprocessing: whether its pictures have the size that was fixed, `check_sizes` says of the data.
    """
    sizes = fixed_axes(spec)
    inputs = tuple(_static(tensor, sizes) for tensor in spec.inputs)
    outputs = tuple(_static(tensor, sizes) for tensor in spec.outputs)
    return replace(spec, inputs=inputs, outputs=outputs, axis_ranges={}, preprocessing=None)


def _static(tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """The tensor with its axes of those names at those sizes."""
    return replace(tensor, shape=tuple(sizes.get(str(axis), axis) for axis in tensor.shape))


def describe(spec: ModelSpec) -> dict[str, Any]:
    """The facts of every static program: how it takes batches, and where other axes were fixed."""
    sizes = fixed_axes(spec)
    return {"batch": BATCH} | ({"fixed_axes": sizes} if sizes else {})


def input_shapes(spec: ModelSpec) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the static program's inputs by name, samples first."""
    return {tensor.name: ("batch", *tensor.sample_shape) for tensor in fixed(spec).inputs}
