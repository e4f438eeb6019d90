"""Reading a checkpoint safely, and saying exactly how it does not fit.

safetensors first; a torch zip file only through `weights_only=True`, whose unpickler runs no code; anything
else is refused. There is no fallback to unpickling. Nothing is unpacked before its form and its checksums are
right, and whatever a library raises about a file becomes one short CheckpointError.

What of a file are the weights, `core/weights.py` finds.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.architecture import build_architecture
from edge_assets.core.archives import check_archive, refusal, shown
from edge_assets.core.weights import COUNTERS, Fit, distinct, fits_of, listing, states_in, without_inner
from edge_assets.errors import EdgeAssetsError, one_line, printable

if TYPE_CHECKING:
    import torch

__all__ = ["SUFFIXES", "Loaded", "check_complete", "load", "load_model", "read_state", "save_plain", "shown"]
SAFETENSORS = ".safetensors"
SUFFIXES = (SAFETENSORS, ".pt", ".pth", ".ckpt", ".bin")  # in lower or upper case
REMEDY = "Name another with --checkpoint, or change the spec's architecture"
RECORDS = ("/data.pkl", "/version")  # what torch.save puts into every zip file
WEIGHT_TYPES = (
    *("float16", "bfloat16", "float32", "float64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)  # numbers with a fraction that may be cast to each other; not scales (e8m0) or packed halves (e2m1)


@dataclass(frozen=True)
class Loaded:
    """An architecture with the weights of a checkpoint."""

    model: "torch.nn.Module"  # in eval mode
    weights: Mapping[str, "torch.Tensor"]  # the file's, under the architecture's names, as they lie there
    is_plain: bool  # the file is a state dict of the architecture as it stands, and the model has its numbers
    remarks: tuple[str, ...]  # how it was read, where it is not, and what of it was left


def check_complete(path: Path) -> None:
    """Is the whole file here, and of a kind that is read at all? Without torch, and nothing is unpacked.

    Reads the header of a safetensors file, and all of a torch zip file, whose records carry checksums.
    Raises CheckpointError for a missing, empty, unreadable, truncated, corrupt or unsupported file.
    """
    with _as_checkpoint_error(path, "is truncated or corrupt"):
        if not path.is_file():
            raise refusal(path, "does not exist")
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise refusal(path, f"is no checkpoint: '{printable(path.suffix)}' is not one of {known}")
        if suffix == SAFETENSORS:
            _check_safetensors(path)
        else:
            path.open("rb").close()  # says why an unreadable file is; zipfile says that it is none
            check_archive(path, RECORDS)


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The state dict in `path`, on the CPU. Raises CheckpointError; never runs code from the file."""
    content = _content(path)
    states = list(states_in(content).values())
    if len(states) != 1:
        raise refusal(path, _why_no_state(content))
    _check_dense(states[0], path)
    return dict(states[0])


def load_model(architecture: str, path: Path, weights: str | None = None) -> "torch.nn.Module":
    """The architecture with the checkpoint's weights, in eval mode: `load`."""
    return load(architecture, path, weights).model


def load(
    architecture: str,
    path: Path,
    weights: str | None = None,
    flush_subnormals: bool = False,
) -> Loaded:
    """The architecture with the checkpoint's weights: those that fit it, of several those that `weights` names.

    With `flush_subnormals`, weights below the smallest normal number of their type are 0 in the model and in what is
    handed on; without it they are counted. Raises CheckpointError listing missing keys, unexpected keys, different
    shapes and tensors of another kind, or tensors that are NaN or infinite in the architecture's own types, or several
    weights of which none is chosen.
    """
    content = _content(path)
    if not states_in(content):
        raise refusal(path, _why_no_state(content))
    model = build_architecture(architecture)
    expected = model.state_dict()
    fit = _chosen(content, expected, architecture, weights, path)
    _check_dense(fit.state, path)
    _check_kinds(fit.state, expected, architecture, path)
    state = {name: tensor.to(expected[name].dtype) for name, tensor in fit.state.items()}
    _check_finite(state, expected, path)
    subnormals = _subnormals(state)
    handed_on = dict(fit.state)
    is_changed = bool(subnormals) and flush_subnormals
    if is_changed:
        for name in subnormals:
            state[name] = handed_on[name] = _flushed(state[name])
    result = model.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith(COUNTERS)]
    if missing or result.unexpected_keys:
        reason = _misfit(architecture, {"missing keys": missing, "unexpected keys": result.unexpected_keys})
        raise refusal(path, reason)
    remarks = list(_remarks(fit, content, expected))
    if subnormals:
        remarks.append(_remark_on_subnormals(sum(subnormals.values()), flush_subnormals))
    return Loaded(
        model=model.eval(),
        weights=handed_on,
        is_plain=fit.is_plain and not is_changed,
        remarks=tuple(remarks),
    )


def save_plain(weights: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Write weights under the architecture's names as safetensors, tensors of one memory once."""
    from safetensors.torch import save_file

    kept: dict[str, torch.Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in sorted(weights.items()):
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in seen:
            continue
        seen.add(memory)
        kept[name] = tensor.contiguous().clone()
    save_file(kept, path)


# --- what is on disk -------------------------------------------------------------------------------------


@contextmanager
def _as_checkpoint_error(path: Path, what: str) -> Iterator[None]:
    """Every error about a file as one CheckpointError: what a library raises about a broken one is not foreseeable."""
    try:
        yield
    except EdgeAssetsError:
        raise
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror or one_line(error)}") from None
    except Exception as error:
        raise refusal(path, f"{what}: {one_line(error)}") from None


def _check_safetensors(path: Path) -> None:
    from safetensors import safe_open

    path.open("rb").close()  # says why an unreadable file is; safe_open says that there is none
    with safe_open(path, framework="np"):
        return


def _content(path: Path) -> object:
    check_complete(path)
    with _as_checkpoint_error(path, "is truncated or corrupt"):
        return _read(path)


def _read(path: Path) -> object:
    if path.suffix.lower() == SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(path)
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = f"it holds pickled objects that could run code ({printable(_unpicklable(error), 100)})"
        raise refusal(path, f"was refused: {reason}. Save the state dict alone, best as safetensors.") from None


def _unpicklable(error: Exception) -> str:
    """The object that torch met, without torch's advice to load the file all the same."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return found.group(1)
    return one_line(error)


# --- what is in it ---------------------------------------------------------------------------------------


def _why_no_state(content: object) -> str:
    """Why there is no one state dict in what a file holds."""
    import torch

    if not isinstance(content, Mapping):
        return f"is not a state dict of tensors: it is a {type(content).__name__}"
    if not content:
        return "is not a state dict of tensors: it is empty"
    odd = [name for name in content if not isinstance(name, str)]
    if odd:
        return f"has keys that are no text: {listing(odd)}"
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    return (
        f"is not a state dict of tensors: {listing(others)} is none. Save the model's state_dict() alone; a trainer's "
        f"or an optimizer's state is no checkpoint."
    )


def _chosen(
    content: object,
    expected: Mapping[str, "torch.Tensor"],
    architecture: str,
    wanted: str | None,
    path: Path,
) -> Fit:
    """The weights that fit the architecture, or of several those that are wanted. Raises CheckpointError."""
    fits: list[Fit] = []
    for place, state in states_in(content).items():
        fits += fits_of(place, state, expected)
    if wanted is None:
        fits = without_inner(fits)
    else:
        there = sorted({fit.name for fit in fits if fit.name})
        fits = [fit for fit in fits if fit.goes_by(wanted)]
        if not fits:
            raise refusal(path, f"has no weights '{printable(wanted)}', which the spec asks for: {_offered(there)}")
    whole = distinct([fit for fit in fits if fit.is_whole])
    if len(whole) > 1:
        names = " and ".join(f"'{printable(fit.name)}'" for fit in whole[:4])
        raise refusal(path, f"has several weights that fit, {names}: choose by ModelSpec(weights=...)")
    if whole:
        return whole[0]
    nearest = min(fits, key=lambda fit: fit.faults)
    raise refusal(path, _why_none_fits(nearest, expected, architecture))


def _offered(names: list[str]) -> str:
    if not names:
        return "it is one state dict"
    return f"it has {listing(names)}"


def _why_none_fits(fit: Fit, expected: Mapping[str, "torch.Tensor"], architecture: str) -> str:
    """What is wrong with the weights that are the nearest."""
    if expected and not expected.keys() & fit.state.keys():
        return (
            f"holds no tensor of the architecture {printable(architecture)}: is it an optimizer's, or another "
            f"model's? Missing keys: {_brief(fit.missing)}. Unexpected keys: {_brief(fit.unexpected)}. {REMEDY}"
        )
    shapes = []
    for name in fit.differing:
        given, wanted = fit.state[name].shape, expected[name].shape
        shapes.append(f"{printable(name)} is {tuple(given)}, expected {tuple(wanted)}")
    found = {"missing keys": fit.missing, "unexpected keys": fit.unexpected, "shapes": shapes}
    return _misfit(architecture, found)


def _misfit(architecture: str, found: Mapping[str, Sequence[str]]) -> str:
    problems = [f"{label}: {_brief(entries)}" for label, entries in found.items() if entries]
    return f"is not of the architecture {printable(architecture)}. {'. '.join(problems)}. {REMEDY}"


def _brief(names: Sequence[str]) -> str:
    """Three such lists and the remedy are one message, which would be cut in its middle beyond archives.LONGEST."""
    return listing(names, letters=110, together=80)


def _check_dense(state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    special = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if special:
        raise refusal(
            path,
            f"has sparse, quantized or empty (meta) tensors, which are not read: {listing(special)}. Save dense ones.",
        )


def _is_plain(tensor: "torch.Tensor") -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"


def _check_kinds(
    state: Mapping[str, "torch.Tensor"],
    expected: Mapping[str, "torch.Tensor"],
    architecture: str,
    path: Path,
) -> None:
    kinds = []
    for name, given in state.items():
        if _kind(given) != _kind(expected[name]):
            kinds.append(f"{printable(name)} is {_type(given)}, expected {_type(expected[name])}")
    if kinds:
        raise refusal(path, _misfit(architecture, {"types": kinds}))


def _kind(tensor: "torch.Tensor") -> str:
    """What may be cast to each other without changing what the numbers mean."""
    name = _type(tensor)
    if name in WEIGHT_TYPES:
        return "float"
    if tensor.is_floating_point() or tensor.is_complex() or name == "bool":
        return name
    return "int"


def _type(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_finite(
    state: Mapping[str, "torch.Tensor"],
    expected: Mapping[str, "torch.Tensor"],
    path: Path,
) -> None:
    """What the architecture itself sets to infinity, such as a mask, may be so in the file."""
    import torch

    bad = []
    for name, tensor in state.items():
        is_odd = tensor.is_floating_point() and not tensor.isfinite().all()
        if is_odd and not torch.equal(tensor, expected[name]):
            bad.append(name)
    if bad:
        raise refusal(path, f"has NaN or infinite weights in {listing(bad)}")


def _subnormals(state: Mapping[str, "torch.Tensor"]) -> dict[str, int]:
    """How many numbers of a tensor are smaller than the smallest normal one of their type, and not 0; if any are."""
    import torch

    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = {}
    for name, tensor in state.items():
        if tensor.dtype not in types:
            continue
        smallest = torch.finfo(tensor.dtype).tiny
        count = 0
        for part in tensor.flatten().split(2**22):  # a copy of a large table would be large
            count += int(((part != 0) & (part.abs() < smallest)).sum())
        if count:
            found[name] = count
    return found


def _flushed(tensor: "torch.Tensor") -> "torch.Tensor":
    """A copy in which subnormal numbers are 0."""
    import torch

    return tensor.masked_fill(tensor.abs() < torch.finfo(tensor.dtype).tiny, 0)


# --- what is said ----------------------------------------------------------------------------------------


def _remarks(fit: Fit, content: object, expected: Mapping[str, "torch.Tensor"]) -> Iterator[str]:
    if fit.place:
        yield f"read under '{printable(fit.place)}'"
    if fit.prefix:
        yield f"'{printable(fit.prefix)}' taken off the names"
    yield from fit.remarks
    cast = [name for name, tensor in fit.state.items() if tensor.dtype != expected[name].dtype]
    kinds = sorted({_type(fit.state[name]) for name in cast})
    if kinds:
        yield f"cast from {', '.join(kinds)}"
    left = list(fit.unread)
    if fit.place and isinstance(content, Mapping):
        left += [key for key in content if key != fit.place.partition(".")[0]]
    if left:
        yield f"not read: {listing(left)}"


def _remark_on_subnormals(count: int, are_flushed: bool) -> str:
    plural = "weights are" if count > 1 else "weight is"
    found = f"{count} {plural} subnormal, so close to 0 that many processors compute them slowly"
    if are_flushed:
        return f"{found}: set to 0"
    return f"{found}: ModelSpec(flush_subnormals=True) sets them to 0"
