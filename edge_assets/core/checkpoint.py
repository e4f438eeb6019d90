"""Reading a checkpoint safely, and saying exactly how it does not fit.

safetensors first; a torch zip file only through `weights_only=True`, whose unpickler runs no code; anything
else is refused. There is no fallback to unpickling. Nothing is unpacked before its form and its checksums are
right, and whatever a library raises about a file becomes one short CheckpointError.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.errors import CheckpointError, EdgeAssetsError, one_line, printable
from edge_assets.spec.source import call

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".pth")  # in lower or upper case
SHOWN = 8  # names listed in a message before it says how many more there are
SHOWN_LETTERS = 240  # of all names of one list together
PATH_LETTERS = 200  # of a path in a message
RECORDS = ("/data.pkl", "/version")  # what torch.save puts into every zip file
WEIGHT_TYPES = (
    *("float16", "bfloat16", "float32", "float64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)  # numbers with a fraction that may be cast to each other; not scales (e8m0) or packed halves (e2m1)


def check_complete(path: Path) -> None:
    """Is the whole file here, and of a kind that is read at all? Without torch, and nothing is unpacked.

    Reads the header of a safetensors file, and all of a torch zip file, whose records carry checksums.
    Raises CheckpointError for a missing, empty, unreadable, truncated, corrupt or unsupported file.
    """
    with _as_checkpoint_error(path, "is truncated or corrupt"):
        if not path.is_file():
            raise CheckpointError(f"checkpoint {shown(path)} does not exist")
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise CheckpointError(f"checkpoint {shown(path)}: '{printable(path.suffix)}' is not one of {known}")
        if suffix == ".safetensors":
            _check_safetensors(path)
        else:
            _check_torch_zip(path)


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The state dict in `path`, on the CPU. Raises CheckpointError; never runs code from the file."""
    check_complete(path)
    with _as_checkpoint_error(path, "is truncated or corrupt"):
        state = _read(path)
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    return _state_dict(state, path)


def load_model(architecture: str, path: Path) -> "torch.nn.Module":
    """The architecture with the checkpoint's weights, in eval mode.

    Raises CheckpointError listing missing keys, unexpected keys, different shapes and tensors of another kind, or
    tensors that are NaN or infinite in the architecture's own types.
    """
    state = read_state(path)
    model: torch.nn.Module = call(architecture, "architecture")
    expected = model.state_dict()
    _check_fits(state, expected, architecture, path)
    state = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    _check_finite(state, path)
    model.load_state_dict(state)
    return model.eval()


# --- what is on disk -------------------------------------------------------------------------------------


@contextmanager
def _as_checkpoint_error(path: Path, what: str) -> Iterator[None]:
    """Every error about a file as one CheckpointError: what a library raises about a broken one is not foreseeable."""
    try:
        yield
    except EdgeAssetsError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CheckpointError(f"checkpoint {shown(path)} cannot be read: {reason}") from None
    except Exception as error:
        raise CheckpointError(f"checkpoint {shown(path)} {what}: {one_line(error)}") from None


def _check_safetensors(path: Path) -> None:
    from safetensors import safe_open

    path.open("rb").close()  # says why an unreadable file is; safe_open says that there is none
    with safe_open(path, framework="np"):
        return


def _check_torch_zip(path: Path) -> None:
    """What torch.save writes: records as they are, never packed, so that they take no more room than the file has."""
    import zipfile

    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"checkpoint {shown(path)} is not a complete torch zip file: it is truncated, or an old-style pickle, "
            f"which is refused because reading it can run code. Save it as safetensors."
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = archive.namelist()
        for record in RECORDS:
            if not any(name.endswith(record) for name in names):
                raise CheckpointError(
                    f"checkpoint {shown(path)} is a zip file, not one of torch: it has no '*{record}'"
                )
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise CheckpointError(
                f"checkpoint {shown(path)} was refused: {printable(packed[0])} is compressed, which torch.save never "
                f"does, and could unpack to any size. Save it again, best as safetensors."
            )
        unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if unpacked > size:
            raise CheckpointError(
                f"checkpoint {shown(path)} was refused: its records claim {unpacked} bytes, the file has {size}"
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f"checkpoint {shown(path)} is truncated or corrupt: the checksum of {printable(damaged)} is not right"
        )


def _read(path: Path) -> object:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {shown(path)} was refused: it holds pickled objects that could run code "
            f"({printable(_unpicklable(error), 200)}). Save the state dict alone, best as safetensors."
        ) from None


def _unpicklable(error: Exception) -> str:
    """The object that torch met, without torch's advice to load the file all the same."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return found.group(1)
    return one_line(error)


# --- what is in it ---------------------------------------------------------------------------------------


def _state_dict(state: object, path: Path) -> dict[str, "torch.Tensor"]:
    """`state` if it is a dict of plain tensors by name."""
    import torch

    if not isinstance(state, dict) or not state:
        found = f"a {type(state).__name__}"
        if isinstance(state, dict):
            found = "empty"
        raise CheckpointError(f"checkpoint {shown(path)} is not a state dict of tensors: it is {found}")
    odd = [name for name in state if not isinstance(name, str)]
    if odd:
        raise CheckpointError(f"checkpoint {shown(path)} has keys that are no text: {_listing(odd)}")
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"checkpoint {shown(path)} is not a state dict of tensors: {_listing(others)} is none. "
            f"Save the model's state_dict() alone; a trainer's or an optimizer's state is no checkpoint."
        )
    special = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if special:
        raise CheckpointError(
            f"checkpoint {shown(path)} has sparse, quantized or empty (meta) tensors, which are not read: "
            f"{_listing(special)}. Save dense ones."
        )
    return state


def _is_plain(tensor: "torch.Tensor") -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"


def _check_fits(
    state: Mapping[str, "torch.Tensor"],
    expected: Mapping[str, "torch.Tensor"],
    architecture: str,
    path: Path,
) -> None:
    shared = sorted(expected.keys() & state.keys())
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if expected and not shared:
        raise CheckpointError(
            f"checkpoint {shown(path)} holds no tensor of the architecture {architecture}: is it an optimizer's, or "
            f"another model's? Missing keys: {_listing(missing)}. Unexpected keys: {_listing(unexpected)}"
        )
    shapes, kinds = [], []
    for name in shared:
        given, wanted = state[name], expected[name]
        if given.shape != wanted.shape:
            shapes.append(f"{printable(name)} is {tuple(given.shape)}, expected {tuple(wanted.shape)}")
        if _kind(given) != _kind(wanted):
            kinds.append(f"{printable(name)} is {_type(given)}, expected {_type(wanted)}")
    found = {"missing keys": missing, "unexpected keys": unexpected, "shapes": shapes, "types": kinds}
    problems = [f"{label}: {_listing(entries, 160)}" for label, entries in found.items() if entries]
    if problems:
        raise CheckpointError(
            f"checkpoint {shown(path)} is not of the architecture {architecture}. {'. '.join(problems)}"
        )


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


def _check_finite(state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"checkpoint {shown(path)} has NaN or infinite weights in {_listing(bad)}")


def _listing(names: Sequence[object], letters: int = 80) -> str:
    """The first names, each on one line and cut at so many letters, and how many more there are."""
    shown: list[str] = []
    for name in names[:SHOWN]:
        text = printable(name, letters)
        if shown and sum(map(len, shown)) + len(text) > SHOWN_LETTERS:
            break
        shown.append(text)
    rest = len(names) - len(shown)
    listed = ", ".join(shown)
    if rest:
        return f"{listed} and {rest} more"
    return listed


def shown(path: Path) -> str:
    """A checkpoint's place as messages name it."""
    return printable(str(path), PATH_LETTERS)
