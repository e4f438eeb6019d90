"""What `ModelSpec.architecture` names: the user's own code, or a network that somebody else has the code of.

    package.module:attribute                          a class or function of no arguments
    timm:resnet18?num_classes=10&in_chans=1           `timm.create_model`, with these arguments
    transformers:AutoModelForImageClassification:DIR  the class for the config.json in a folder of the project
    networks/seg.pt2                                  the program in a file of `torch.export.save`

They are found, and told apart for recipes, without importing them. `core/architecture.py` makes the modules.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

from edge_assets.errors import InvalidSpec, MissingTool, printable
from edge_assets.hashing import digest, sha256_of
from edge_assets.spec.project import project_path
from edge_assets.spec.source import locate, source_digest

if TYPE_CHECKING:
    from edge_assets.spec.model import ModelSpec

Library = Literal["timm", "transformers", "torch"]
Argument = bool | int | float | str
NETWORK = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # of timm, without and with the tag of its weights
AUTO_CLASS = re.compile(r"Auto[A-Za-z0-9]+")
PROGRAM = ".pt2"
CONFIG = "config.json"


@dataclass(frozen=True)
class Known:
    """A network that somebody else has the code of."""

    library: Library
    name: str  # of timm's network, or of transformers' class
    arguments: Mapping[str, Argument] = field(default_factory=dict)  # of timm's network
    file: Path | None = None  # transformers' config.json, or the exported program

    @property
    def version(self) -> str:
        """The library's. Raises MissingTool naming the extra."""
        try:
            return installed_version(self.library)
        except PackageNotFoundError:
            raise MissingTool(self.library, self.library) from None


def known(reference: str) -> Known | None:
    """The network that a reference names, None if it names the user's own code.

    Raises InvalidSpec for one of these forms that is malformed.
    """
    if reference.lower().endswith(PROGRAM):
        return Known("torch", reference, file=project_path(reference))
    library, _, rest = reference.partition(":")
    if library == "timm":
        return _of_timm(reference, rest)
    if library == "transformers":
        return _of_transformers(reference, rest)
    return None


def _of_timm(reference: str, rest: str) -> Known:
    name, _, query = rest.partition("?")
    if not NETWORK.fullmatch(name):
        raise InvalidSpec("architecture", f"'{printable(reference)}' is not of the form 'timm:NETWORK?argument=value'")
    arguments: dict[str, Argument] = {}
    for argument, text in parse_qsl(query, keep_blank_values=True):
        if not argument.isidentifier() or argument.startswith(("pretrained", "checkpoint")):
            reason = "is no argument of a network: weights come from the checkpoints"
            raise InvalidSpec("architecture", f"'{printable(argument)}' in '{printable(reference)}' {reason}")
        arguments[argument] = _value(text)
    return Known("timm", name, arguments)


def _value(text: str) -> Argument:
    """A number or a truth value where it is written as Python writes it, else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if isinstance(value, bool | int | float):
        return value
    return text


def _of_transformers(reference: str, rest: str) -> Known:
    name, _, folder = rest.partition(":")
    if not AUTO_CLASS.fullmatch(name) or not folder:
        raise InvalidSpec(
            "architecture",
            f"'{printable(reference)}' is not of the form 'transformers:AutoModel...:FOLDER with its {CONFIG}'",
        )
    return Known("transformers", name, file=project_path(folder) / CONFIG)


def place(reference: str) -> Path | None:
    """The file that an architecture is written in; None for timm's where it is not installed.

    Raises InvalidSpec if there is no such file, or the reference is malformed.
    """
    network = known(reference)
    if network is None:
        return locate(reference, "architecture")
    if network.file is not None:
        if not network.file.is_file():
            raise InvalidSpec("architecture", f"not found: {network.file} (from '{printable(reference)}')")
        return network.file
    package = find_spec(network.library)
    if package is None or package.origin is None:
        return None
    return Path(package.origin)


@cache
def architecture_digest(reference: str) -> str:
    """sha256 of an architecture's code: the user's own; else of what names it, its version and its file.

    Raises MissingTool where its library is not installed.
    """
    network = known(reference)
    if network is None:
        return source_digest(reference)
    content = None
    if network.file is not None:
        content = sha256_of(network.file)
    if network.library == "torch":
        return digest([PROGRAM, content])  # the version of torch is in every recipe of an architecture
    return digest([network.library, network.version, network.name, dict(network.arguments), content])


def fitting_digest(spec: "ModelSpec") -> str:
    """What decides whether a checkpoint can be loaded: the architecture, and which of its weights are asked for."""
    architecture = architecture_digest(spec.architecture)
    if spec.weights is None:
        return architecture
    return digest([architecture, spec.weights])
