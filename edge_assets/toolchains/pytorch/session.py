"""Sessions of PyTorch programs, and how what they return becomes outputs by name.

Needs NumPy and PyTorch alone: devices hold a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from edge_assets.errors import EdgeAssetsError
from edge_assets.later import np

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

Feeds: TypeAlias = "Mapping[str, np.ndarray]"


class TorchSession:
    """A torch module, eager or scripted, with inputs by position or by name and outputs by name."""

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        by_name: bool = False,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.by_name = by_name

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            results = flattened(called(self.model, in_order(feeds, self.inputs), self._names()), self.outputs)
        return as_arrays(results, self.outputs)

    def _names(self) -> Sequence[str] | None:
        return self.inputs if self.by_name else None


def called(
    model: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    names: Sequence[str] | None,
) -> object:
    """What the model returns, its inputs given by position or by `names`."""
    if names is None:
        return model(*tensors)
    return model(**dict(zip(names, tensors)))  # noqa: B905  # of Python 3.9


def as_arrays(results: Sequence[torch.Tensor], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs by name on the host. Raises EdgeAssetsError for a type that NumPy has not."""
    import torch

    arrays = {}
    for name, tensor in zip(names, results):  # noqa: B905  # of Python 3.9
        if tensor.dtype == torch.bfloat16:
            raise EdgeAssetsError(f"output '{name}' is bfloat16, which NumPy has not: end forward() with .float()")
        arrays[name] = tensor.cpu().numpy()
    return arrays


def in_order(feeds: Feeds, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """A model's arguments: the inputs of these names."""
    import torch

    return tuple(torch.from_numpy(feeds[name]) for name in names)


# --- outputs -------------------------------------------------------------------------------------------


def flattened(result: object, outputs: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """The declared outputs in what a network returned. Raises EdgeAssetsError where it has not as many tensors."""
    import torch

    found: dict[str, object] = {}
    for path, value in _leaves(result, ""):
        if path in found:
            raise EdgeAssetsError(f"the model returns two outputs of the name {path}: rename one of them")
        found[path] = value
    by_name = [found.get(name) for name in outputs]
    named = tuple(value for value in by_name if isinstance(value, torch.Tensor))
    if len(named) == len(outputs):
        return named
    others = [f"{path or 'it'}: {type(value).__name__}" for path, value in found.items() if not is_tensor(value)]
    if others:
        raise EdgeAssetsError(
            f"the model returns what is no tensor ({', '.join(others[:5])}): declare outputs by the names of the "
            f"tensors among them ({_names(found)}), or return tensors alone"
        )
    tensors = tuple(value for value in found.values() if isinstance(value, torch.Tensor))
    if len(tensors) != len(outputs):
        raise EdgeAssetsError(
            f"the model returns {len(tensors)} tensors ({_names(found)}), the spec declares {len(outputs)} outputs "
            f"({', '.join(outputs)}): declare each in its order, or some by these names"
        )
    return tensors


def is_tensor(value: object) -> bool:
    """Whether a value is one tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """What is no container in a network's result, with its path."""
    if value is None:
        return
    for name, inner in _entries(value):
        yield from _leaves(inner, f"{path}_{name}" if path else name)
    if not _is_container(value):
        yield path, value


def _entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), inner
    elif is_dataclass(value):
        for entry in fields(value):
            yield entry.name, getattr(value, entry.name)
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        for name, inner in zip(names, value):  # noqa: B905  # of Python 3.9
            yield str(name), inner


def _is_container(value: object) -> bool:
    return isinstance(value, (Mapping, tuple, list)) or is_dataclass(value)


def _names(found: Mapping[str, object]) -> str:
    names = [path or "unnamed" for path, value in found.items() if is_tensor(value)]
    return ", ".join(names[:8]) or "none"
