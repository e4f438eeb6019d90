"""Programs with static shapes and a batch of one, which is how phones and microcontrollers run models.

Their memory is planned ahead of time. A session takes larger batches by running sample after sample, so that parity
and accuracy are those of the very program that ships.
"""

from collections.abc import Callable

import numpy as np

from edge_assets.core.errors import Refused
from edge_assets.core.variant import Feeds
from edge_assets.model import ModelSpec

BATCH = "static batch of 1: larger batches run sample after sample"


def check_static(spec: ModelSpec, format_name: str) -> None:
    """Raises Refused, naming the axis, if an input has a dynamic axis besides the batch."""
    for tensor in spec.inputs:
        for axis in tensor.shape[1:]:
            if isinstance(axis, str):
                raise Refused(
                    f"axis '{axis}' of input '{tensor.name}' is dynamic, and {format_name} programs are built here "
                    f"with static shapes: declare its length. The nearest format with dynamic axes is ONNX."
                )


def one_by_one(run: Callable[[Feeds], dict[str, np.ndarray]], feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs of `run`, which takes one sample [1, ...], for the samples [n, ...] in `feeds`."""
    count = len(next(iter(feeds.values())))
    results = [run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(count)]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
