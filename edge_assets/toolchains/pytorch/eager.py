"""PyTorch eager: the reference that every variant is compared with, and the baseline of every benchmark."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_assets.core.checkpoint import load_model
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import EdgeAssetsError

if TYPE_CHECKING:
    import torch


class TorchSession:
    """A torch module, eager or scripted, with inputs by position and outputs by name."""

    def __init__(self, model: "torch.nn.Module", inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            result = self.model(*(torch.from_numpy(feeds[name]) for name in self.inputs))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, as_tuple(result), strict=True)}


class CudaSession:
    """A PyTorch program on the GPU, fed from and read back to the host, at most `largest_batch` samples at a time."""

    def __init__(self, program: Any, inputs: Sequence[str], outputs: Sequence[str], largest_batch: int) -> None:
        self.program, self.inputs, self.outputs, self.largest = program, inputs, outputs, largest_batch

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        parts = []
        count = len(feeds[self.inputs[0]])
        with torch.inference_mode():
            for start in range(0, count, self.largest):
                batch = (torch.from_numpy(feeds[name][start : start + self.largest]).cuda() for name in self.inputs)
                parts.append([tensor.cpu().numpy() for tensor in as_tuple(self.program(*batch))])
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self.outputs)}

    def peak_memory_bytes(self) -> int:
        """Most GPU memory that PyTorch's allocator has held."""
        import torch

        return torch.cuda.max_memory_reserved()


def as_tuple(result: Any) -> tuple["torch.Tensor", ...]:
    """A model's return value as the tuple of its outputs."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def open_session(
    path: Path, *, threads: int, architecture: str, inputs: Sequence[str], outputs: Sequence[str], device: str = "cpu"
) -> Session:
    """The architecture with the checkpoint's weights on `device`. `threads` is set for the whole process."""
    import torch

    torch.set_num_threads(threads)
    model = load_model(architecture, path)
    if device == "cuda":
        return CudaSession(model.cuda(), inputs, outputs, sys.maxsize)
    return TorchSession(model, inputs, outputs)


def describe(model: "torch.nn.Module", feeds: Feeds, inputs: Sequence[str]) -> dict[str, int]:
    """Parameters, buffers, their bytes, and FLOPs of the batch in `feeds`.

    FLOPs are torch.utils.flop_counter's: two per multiply-accumulate, convolutions and matrix products only.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(*(torch.from_numpy(feeds[name]) for name in inputs))
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "weights_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "flops": counter.get_total_flops(),
    }


def check_outputs(outputs: Feeds, expected: Sequence[Any], batch: int) -> None:
    """Raises EdgeAssetsError if the model's outputs are not what the spec declares."""
    for tensor in expected:
        array = outputs[tensor.name]
        shape = tuple(batch if axis == "batch" else axis for axis in tensor.shape)
        fits = len(shape) == array.ndim and all(
            isinstance(a, str) or a == b for a, b in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != tensor.dtype:
            raise EdgeAssetsError(
                f"output '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the spec declares {tensor.dtype} {tensor.shape}"
            )
