"""PyTorch eager: the reference that every variant is compared with, and the baseline of every benchmark."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edge_assets.core.checkpoint import load_model
from edge_assets.core.session import Feeds, Session
from edge_assets.errors import EdgeAssetsError, told

if TYPE_CHECKING:
    import torch

    from edge_assets.spec.model import Tensor

    Outputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor]


class TorchSession:
    """A torch module, eager or scripted, with inputs by position and outputs by name."""

    def __init__(self, model: "torch.nn.Module", inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            results = as_tuple(self.model(*in_order(feeds, self.inputs)))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, results, strict=True)}


class CudaSession:
    """A PyTorch program on the GPU, fed from and read back to the host, at most `largest_batch` samples at a time."""

    def __init__(
        self,
        program: "torch.nn.Module",
        inputs: Sequence[str],
        outputs: Sequence[str],
        largest_batch: int,
    ) -> None:
        self.program = program
        self.inputs = inputs
        self.outputs = outputs
        self.largest = largest_batch

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        count = len(feeds[self.inputs[0]])
        with torch.inference_mode():
            for start in range(0, count, self.largest):
                batch = {name: feeds[name][start : start + self.largest] for name in self.inputs}
                tensors = [tensor.cuda() for tensor in in_order(batch, self.inputs)]
                results = as_tuple(self.program(*tensors))
                for i, name in enumerate(self.outputs):
                    parts[name].append(results[i].cpu().numpy())
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def peak_memory_bytes(self) -> int:
        """Most GPU memory that PyTorch's allocator has held."""
        import torch

        return torch.cuda.max_memory_reserved()


def in_order(feeds: Feeds, names: Sequence[str]) -> tuple["torch.Tensor", ...]:
    """A model's arguments: the inputs of these names."""
    import torch

    return tuple(torch.from_numpy(feeds[name]) for name in names)


def as_tuple(result: "Outputs") -> tuple["torch.Tensor", ...]:
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
    model = load_model(architecture, path)
    if device == "cuda":
        return CudaSession(model.cuda(), inputs, outputs, sys.maxsize)
    return TorchSession(model, inputs, outputs)


def describe(model: "torch.nn.Module", feeds: Feeds, inputs: Sequence[str]) -> dict[str, int | None]:
    """Parameters, buffers, their bytes, and FLOPs of the batch in `feeds`, None where they cannot be counted."""
    elements = sum(parameter.numel() for parameter in model.parameters())
    size = 0
    for tensor in (*model.parameters(), *model.buffers()):
        size += tensor.numel() * tensor.element_size()
    return {
        "parameters": elements,
        "weights_bytes": size,
        "flops": _flops(model, feeds, inputs),
    }


def _flops(model: "torch.nn.Module", feeds: Feeds, inputs: Sequence[str]) -> int | None:
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
            model(*in_order(feeds, inputs))
        total: int = counter.get_total_flops()
    except Exception as error:  # it looks into every operator and every module
        logging.getLogger(__name__).warning("FLOPs are not known: %s", told(error))
        return None
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
    return total


def check_outputs(outputs: Feeds, expected: "Sequence[Tensor]", batch: int) -> None:
    """Raises EdgeAssetsError if the model's outputs are not what the spec declares."""
    for tensor in expected:
        array = outputs[tensor.name]
        if array.dtype != tensor.dtype or not _fits(array.shape, tensor.shape, batch):
            raise EdgeAssetsError(
                f"output '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the spec declares {tensor.dtype} {tensor.shape}"
            )


def _fits(shape: Sequence[int], declared: Sequence[int | str], batch: int) -> bool:
    """Whether a shape is of the declared kind: axes of numbers have that size, `batch` is the batch's."""
    if len(shape) != len(declared):
        return False
    for size, axis in zip(shape, declared, strict=True):
        wanted = batch if axis == "batch" else axis
        if isinstance(wanted, int) and size != wanted:
            return False
    return True
