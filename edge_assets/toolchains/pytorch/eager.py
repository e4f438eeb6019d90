"""PyTorch eager: the reference that every variant is compared with, and the baseline of every benchmark."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edge_assets.core import data
from edge_assets.core.checkpoint import load_model
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import EdgeAssetsError, told
from edge_assets.later import np
from edge_assets.toolchains.pytorch.calling import network_bytes, takes_by_name
from edge_assets.toolchains.pytorch.session import TorchSession, as_arrays, called, flattened, in_order

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import ModelSpec

    Outputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor]


class CudaSession:
    """A PyTorch program on the GPU, fed from and read back to the host, at most `largest_batch` samples at a time."""

    def __init__(
        self,
        program: torch.nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        largest_batch: int | None = None,
        by_name: bool = False,
    ) -> None:
        self.program = program
        self.inputs = inputs
        self.outputs = outputs
        self.largest = largest_batch  # None: any, so that the batch may be any axis
        self.by_name = by_name

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        if self.largest is None:
            return self._run(feeds)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        count = len(feeds[self.inputs[0]])
        for start in range(0, count, self.largest):
            batch = {name: feeds[name][start : start + self.largest] for name in self.inputs}
            for name, array in self._run(batch).items():
                parts[name].append(array)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            tensors = [tensor.cuda() for tensor in in_order(feeds, self.inputs)]
            results = flattened(called(self.program, tensors, self.inputs if self.by_name else None), self.outputs)
        return as_arrays(results, self.outputs)

    def peak_memory_bytes(self) -> int:
        """Most GPU memory that PyTorch's allocator has held."""
        import torch

        return torch.cuda.max_memory_reserved()


def as_tuple(result: Outputs) -> tuple[torch.Tensor, ...]:
    """A model's return value as the tuple of its outputs."""
    if isinstance(result, tuple | list):
        return tuple(result)
    return (result,)


def open_session(
    path: Path,
    *,
    threads: int,
    architecture: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    device: str = "cpu",
) -> Session:
    """The architecture with the checkpoint's weights on `device`. `threads` is set for the whole process."""
    import torch

    torch.set_num_threads(threads)
    return session_of(load_model(architecture, path), inputs, outputs, device)


def session_of(
    model: torch.nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    device: str = "cpu",
) -> TorchSession | CudaSession:
    """A session of a network that is loaded."""
    by_name = takes_by_name(model, inputs)
    if device == "cuda":
        return CudaSession(model.cuda(), inputs, outputs, by_name=by_name)
    return TorchSession(model, inputs, outputs, by_name)


def describe(model: torch.nn.Module, feeds: Feeds, inputs: Sequence[str]) -> dict[str, int | None]:
    """Parameters, buffers, their bytes, and FLOPs of the batch in `feeds`, None where they cannot be counted."""
    elements = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": elements,
        "weights_bytes": network_bytes(model),
        "flops": _flops(model, feeds, inputs),
    }


def _flops(model: torch.nn.Module, feeds: Feeds, inputs: Sequence[str]) -> int | None:
    """torch.utils.flop_counter's: two per multiply-accumulate, convolutions and matrix products only.

    Its hooks look up the gradient of whatever a module is called on, so nothing may want one. No release needs the
    number: where the counter fails all the same, it is not known.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            called(model, in_order(feeds, inputs), inputs if takes_by_name(model, inputs) else None)
        total: int = counter.get_total_flops()
    except Exception as error:  # it looks into every operator and every module
        logging.getLogger(__name__).warning("FLOPs are not known: %s", told(error))
        return None
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
    return total


def check_outputs(outputs: Feeds, spec: ModelSpec, samples: int) -> None:
    """Raises EdgeAssetsError if the model's outputs, samples first, are not what the spec declares."""
    for tensor in spec.outputs:
        array = outputs[tensor.name]
        shape: tuple[int | str, ...] = (samples, *tensor.sample_shape)
        if spec.states and tensor.name not in spec.states.values():
            shape = (samples, "steps", *tensor.sample_shape)
        if array.dtype != tensor.dtype or not data.fits(array.shape, shape):
            raise EdgeAssetsError(
                f"output '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the spec declares {tensor.dtype} {tensor.shape}"
            )
