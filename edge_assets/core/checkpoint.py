"""Reading a checkpoint safely, and saying exactly how it does not fit.

safetensors first; a torch zip file only through `weights_only=True`, whose unpickler runs no code; anything
else is refused. There is no fallback to unpickling.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.core.errors import CheckpointError
from edge_assets.core.source import call

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".pth")
SHOWN = 8  # names listed in a message before it says how many more there are


def check_complete(path: Path) -> None:
    """Cheap structural check, without torch: is the whole file here, and of a kind that is read at all?

    Raises CheckpointError for a missing, empty, truncated, corrupt or unsupported file.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"checkpoint {path}: '{path.suffix}' is not one of {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np"):
                return
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path} is truncated or corrupt: {error}") from None
    import zipfile

    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"checkpoint {path} is not a complete torch zip file: it is truncated, or an old-style pickle, which is "
            f"refused because reading it can run code. Save it as safetensors."
        )


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The state dict in `path`, on the CPU. Raises CheckpointError; never runs code from the file."""
    check_complete(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} was refused: it holds pickled objects that could run code ({first}). "
            f"Save the state dict alone, best as safetensors."
        ) from None
    except (RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated or corrupt: {error}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise CheckpointError(f"checkpoint {path} is not a state dict of tensors")
    return state


def load_model(architecture: str, path: Path) -> "torch.nn.Module":
    """The architecture with the checkpoint's weights, in eval mode.

    Raises CheckpointError listing missing keys, unexpected keys and different shapes, or tensors with NaN.
    """
    state = read_state(path)
    model: torch.nn.Module = call(architecture, "architecture")
    _check_fits(state, model.state_dict(), architecture, path)
    _check_finite(state, path)
    model.load_state_dict(state)
    return model.eval()


def _check_fits(state: Mapping[str, Any], expected: Mapping[str, Any], architecture: str, path: Path) -> None:
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    problems = [
        f"{label}: {_listing(names)}"
        for label, names in (("missing keys", missing), ("unexpected keys", unexpected), ("shapes", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"checkpoint {path} is not of the architecture {architecture}. {'. '.join(problems)}")


def _check_finite(state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"checkpoint {path} has NaN or infinite weights in {_listing(bad)}")


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
