"""The module that `ModelSpec.architecture` names, with whatever weights it begins with.

timm and transformers are extras. Neither is asked for weights, and no code comes from a config: only classes that the
installed package itself has are made. A `.pt2` file is a program: it is looked through before PyTorch reads it, and
still it is trusted as the user's own modules are, because PyTorch's reader evaluates expressions that it holds.
"""

import contextlib
import io
import json
import re
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core.archives import check_archive, refusal
from edge_assets.errors import EdgeAssetsError, InvalidSpec, UnknownName, UserCodeError, one_line, printable, told
from edge_assets.spec.architecture import Known, known
from edge_assets.spec.source import call

if TYPE_CHECKING:
    import torch

# what torch.export.save writes of a program whose constants are tensors; the rest is pickled, or machine code
MEMBERS = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/[\w.]+|\.format_version|\.storage_alignment|"
    r"models/[\w.]+\.json|data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)|"
    r"data/sample_inputs/\w+\.pt|extra/.*)"
)
SAMPLE_INPUTS = "data/sample_inputs/"
PROGRAM = "exported program"


def build_architecture(reference: str) -> "torch.nn.Module":
    """The module, not yet in eval mode.

    Raises UserCodeError for what the user's own code raises, MissingTool naming the extra of a library that is not
    installed, UnknownName or InvalidSpec for what the library does not have, and CheckpointError for a file that is no
    program.
    """
    network = known(reference)
    if network is None:
        model: torch.nn.Module = call(reference, "architecture")
        return model
    make = {"timm": _of_timm, "transformers": _of_transformers, "torch": _program}[network.library]
    try:
        return make(network)
    except EdgeAssetsError:
        raise
    except Exception as error:
        raise UserCodeError(f"architecture {printable(reference, 200)} cannot be made: {told(error)}") from error


def _of_timm(network: Known) -> "torch.nn.Module":
    _ = network.version  # raises MissingTool
    _without_torchvision_kernels()
    import timm

    if not timm.is_model(network.name):
        raise UnknownName(f"network of timm {network.version}", network.name, timm.list_models())
    model: torch.nn.Module = timm.create_model(network.name, pretrained=False, **network.arguments)
    return model


def _without_torchvision_kernels() -> None:
    """Let torchvision be imported where its compiled part is of another build of PyTorch.

    timm imports torchvision for what none of its networks computes with. Without its kernels, importing it fails at
    the first operator that it registers a rule for.
    """
    import importlib.util

    import torch

    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations or hasattr(torch.ops.torchvision, "nms"):
        return
    for library in Path(package.submodule_search_locations[0]).glob("_C*.so"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(library))
    if not hasattr(torch.ops.torchvision, "nms"):
        _TORCHVISION.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in ("nms", "qnms"):
            _TORCHVISION[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_TORCHVISION: list["torch.library.Library"] = []  # definitions last as long as their library


def _of_transformers(network: Known) -> "torch.nn.Module":
    _ = network.version  # raises MissingTool
    import torch
    import transformers

    assert network.file is not None
    if not hasattr(transformers, network.name):
        raise InvalidSpec("architecture", f"transformers {network.version} has no class '{network.name}'")
    config = transformers.AutoConfig.from_pretrained(
        str(network.file.parent),
        local_files_only=True,
        trust_remote_code=False,
    )
    config.return_dict = False  # a tuple: the outputs in the order of the spec's
    if hasattr(config, "use_cache"):
        config.use_cache = False
    made = getattr(transformers, network.name)
    model: torch.nn.Module = made.from_config(config, dtype=torch.float32, trust_remote_code=False)
    return model


# --- exported programs -----------------------------------------------------------------------------------


def _program(network: Known) -> "torch.nn.Module":
    import torch

    assert network.file is not None
    check_program(network.file)
    model = torch.export.load(network.file).module()

    def stay(self: "torch.nn.Module", _mode: bool = True) -> "torch.nn.Module":
        return self  # a program is in the mode that it was exported in

    model.train = types.MethodType(stay, model)  # type: ignore[method-assign]
    model.eval = types.MethodType(stay, model)  # type: ignore[method-assign]
    return model


def check_program(path: Path) -> None:
    """Raises CheckpointError for a file that is no whole program, or holds what would be unpickled or executed."""
    check_archive(path, what=PROGRAM)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if not MEMBERS.fullmatch(inner):
                raise refusal(
                    path,
                    f"was refused: {printable(inner or name)} is nothing that torch.export.save writes of a program "
                    f"whose constants are tensors, and reading it could run code",
                    PROGRAM,
                )
            if inner.endswith(".json") and _is_pickled(archive.read(name)):
                raise refusal(path, f"was refused: {printable(inner)} names weights that are pickled", PROGRAM)
            if inner.startswith(SAMPLE_INPUTS):
                _check_plain(path, archive.read(name))


def _is_pickled(content: bytes) -> bool:
    """Whether a record says of a weight that it is to be unpickled."""
    entries = json.loads(content).get("config", {})
    return any(entry.get("use_pickle", True) for entry in entries.values())


def _check_plain(path: Path, content: bytes) -> None:
    """PyTorch would unpickle sample inputs that are no plain tensors."""
    import torch

    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"was refused: its sample inputs are no plain tensors ({one_line(error, 100)})"
        raise refusal(path, reason, PROGRAM) from None
