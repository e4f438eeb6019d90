"""Typed reader of the target catalog."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from edge_assets.core.errors import InvalidSpec

BUILT_IN = Path(__file__).with_name("catalog.yaml")
REQUIRED = ("family", "description", "architecture", "batch_sizes", "threads", "budgets")
OPTIONAL = ("match", "device", "opset", "quantization", "options")
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
OPSET = 20  # unless a target says otherwise
IntegerType = Literal["uint8", "int8"]


@dataclass(frozen=True)
class Quantization:
    """The static int8 flavour that a target's kernels are fast with."""

    activations: IntegerType = "int8"
    weights: IntegerType = "int8"
    per_channel: bool = True
    reduce_range: bool = False  # 7-bit weights, where 8-bit products saturate
    torch_engine: Literal["x86", "qnnpack"] = "qnnpack"

    @property
    def flavour(self) -> str:
        """The field's short name: U8S8, S8S8."""
        return "".join("U8" if kind == "uint8" else "S8" for kind in (self.activations, self.weights))


@dataclass(frozen=True)
class Match:
    """What makes a machine this target: all that is given. Where nothing is given, no machine is."""

    instruction_sets: tuple[str, ...] = ()  # "a|b": either
    without: tuple[str, ...] = ()
    board: str | None = None  # part of the board's model name
    system: str | None = None  # Linux, Darwin
    gpu: str | None = None  # part of the NVIDIA GPU's name
    browser: str | None = None  # an installed browser: chromium


@dataclass(frozen=True)
class Target:
    """One kind of hardware that artifacts are built for."""

    name: str
    family: str
    description: str
    architecture: str
    match: Match
    device: Literal["local"] | None
    opset: int
    batch_sizes: tuple[int, ...]
    threads: int
    quantization: Quantization
    size_bytes: int
    memory_bytes: int
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this family reads


def parse_size(text: str, where: str) -> int:
    """Bytes of "512 MiB"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB)", str(text))
    if not match:
        raise InvalidSpec(where, f"'{text}' is not a size such as '512 MiB'")
    return int(float(match[1]) * UNITS[match[2]])


def parse_target(name: str, entry: Mapping[str, Any]) -> Target:
    """One catalog entry. Raises InvalidSpec with the field and the reason."""
    where = f"target {name}"
    missing = [key for key in REQUIRED if key not in entry]
    unknown = sorted(set(entry) - {*REQUIRED, *OPTIONAL})
    if missing or unknown:
        raise InvalidSpec(where, f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    opset, match = entry.get("opset", OPSET), _tuples(entry.get("match", {}))
    if not isinstance(opset, int) or opset < 17:
        raise InvalidSpec(f"{where}.opset", f"{opset} is below 17")
    if entry.get("device") not in (None, "local"):
        raise InvalidSpec(f"{where}.device", f"'{entry['device']}' is neither 'local' nor null")
    if entry["batch_sizes"][:1] != [1] or any(not isinstance(size, int) or size < 1 for size in entry["batch_sizes"]):
        raise InvalidSpec(f"{where}.batch_sizes", f"{entry['batch_sizes']} must be positive and begin with 1")
    flavour = entry.get("quantization", {})
    for kind in ("activations", "weights"):
        if flavour.get(kind, "int8") not in get_args(IntegerType):
            raise InvalidSpec(f"{where}.quantization.{kind}", f"'{flavour.get(kind)}' is not uint8 or int8")
    try:
        return Target(
            name=name,
            family=entry["family"],
            description=entry["description"],
            architecture=entry["architecture"],
            match=Match(**match),
            device=entry.get("device"),
            opset=opset,
            batch_sizes=tuple(entry["batch_sizes"]),
            threads=entry["threads"],
            quantization=Quantization(**flavour),
            size_bytes=parse_size(entry["budgets"]["size"], f"{where}.budgets.size"),
            memory_bytes=parse_size(entry["budgets"]["memory"], f"{where}.budgets.memory"),
            options=entry.get("options", {}),
        )
    except (KeyError, TypeError) as error:
        raise InvalidSpec(where, f"missing or unknown key: {error}") from None


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


@cache
def load_catalog(*extra: Path) -> Mapping[str, Target]:
    """Every known target by name: the built-in catalog, then the user's files, which may not redefine one."""
    targets: dict[str, Target] = {}
    for path in (BUILT_IN, *extra):
        try:
            entries = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise InvalidSpec(f"catalog {path}", str(error)) from None
        if not isinstance(entries, dict):
            raise InvalidSpec(f"catalog {path}", "must map target names to entries")
        for name, entry in entries.items():
            if name in targets:
                raise InvalidSpec(f"catalog {path}", f"target '{name}' is already defined")
            targets[name] = parse_target(name, entry)
    return targets
