"""Typed reader of the target catalog. A wrong entry breaks only the models that use it, a wrong file only its own."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from edge_assets.errors import InvalidSpec, UnknownName, one_line, printable
from edge_assets.spec.tiers import Tier
from edge_assets.spec.validation import STRICT, faults_of, invalid
from edge_assets.targets.emulation import EMULATABLE

BUILT_IN = Path(__file__).with_name("catalog.yaml")
NAME = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{0,62}")  # part of partition keys, paths and MLflow names all at once
SIZE = r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(B|KiB|MiB|GiB)"
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
OPSET = 20  # unless a target says otherwise
OLDEST_OPSET, NEWEST_OPSET = 17, 28  # the newest is the one of the installed onnx, which is not imported for it
IntegerType = Literal["uint8", "int8"]
TorchEngine = Literal["x86", "qnnpack"]
Browser = Literal["chromium", "firefox", "webkit"]


@dataclass(frozen=True)
class Quantization:
    """The static int8 flavour that a target's kernels are fast with."""

    activations: IntegerType = "int8"
    weights: IntegerType = "int8"
    per_channel: bool = True
    reduce_range: bool = False  # 7-bit weights, where 8-bit products saturate
    torch_engine: TorchEngine = "qnnpack"

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
    browser: Browser | None = None  # an installed browser

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given."""
        return self == Match()


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
    emulation: tuple[str, ...] = ()  # emulated CPUs, by name: the instruction sets that it may have
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this family reads
    evidence: Tier | None = None  # the least by which parity and accuracy have to be known


@dataclass(frozen=True)
class Catalog:
    """Every target that could be read, and why others could not."""

    targets: Mapping[str, Target]
    broken: Mapping[str, InvalidSpec] = field(default_factory=dict)  # by name
    unread: tuple[InvalidSpec, ...] = ()  # of whole files

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises InvalidSpec if its entry is wrong, or if it may be in a file that cannot be read; else UnknownName with
        the nearest names.
        """
        if name in self.broken:
            raise self.broken[name]
        if name in self.targets:
            return self.targets[name]
        if self.unread:
            raise self.unread[0]
        raise UnknownName("target", name, self.targets)


# --- one entry -------------------------------------------------------------------------------------------


def parse_size(text: str, where: str) -> int:
    """Bytes of "512 MiB"."""
    try:
        return _size(text)
    except ValueError as error:
        raise InvalidSpec(where, str(error)) from None


def _size(value: object) -> int:
    match = re.fullmatch(SIZE, str(value), re.ASCII)
    size = 0
    if match:
        size = int(float(match[1]) * UNITS[match[2]])
    if size < 1:
        raise ValueError(f"'{printable(str(value))}' is not a size such as '512 MiB'")
    return size


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"'{printable(text)}' is not a regular expression: {error}") from None
    return text


def _begins_with_one(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if sizes[0] != 1:
        raise ValueError(f"{printable(list(sizes))} must begin with 1")
    return sizes


def _emulated(name: str) -> str:
    if name not in EMULATABLE:
        raise ValueError(f"'{printable(name)}' is no emulated CPU: {', '.join(sorted(EMULATABLE))}")
    return name


Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Count = Annotated[int, Field(ge=1, le=65536)]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": "string", "pattern": f"^{SIZE}$"})]
Words = Annotated[tuple[Text, ...], Field(strict=False)]  # YAML has lists, no tuples
EmulatedName = Annotated[
    str,
    AfterValidator(_emulated),
    WithJsonSchema({"type": "string", "enum": sorted(EMULATABLE)}),
]
BatchSizes = Annotated[
    tuple[Count, ...],
    Field(strict=False, min_length=1, json_schema_extra={"prefixItems": [{"const": 1}]}),
    AfterValidator(_begins_with_one),
]


class Entry(BaseModel):
    """Nothing is converted: `threads: "4"` and `per_channel: 1` are mistakes."""

    model_config = {**STRICT, "defer_build": True}  # what checks a form is built when the first is read


class QuantizationEntry(Entry):
    """The static int8 flavour that the target's kernels are fast with."""

    activations: IntegerType = "int8"
    weights: IntegerType = "int8"
    per_channel: bool = Field(default=True, description="a scale per output channel of the weights, else per tensor")
    reduce_range: bool = Field(default=False, description="7-bit weights, where 8-bit products saturate")
    torch_engine: TorchEngine = "qnnpack"


class MatchEntry(Entry):
    """How a machine is recognised as the target: all that is given."""

    instruction_sets: Words = Field(default=(), description="all of these; 'a|b' means either")
    without: Words = Field(default=(), description="none of these instruction sets")
    board: Text | None = Field(default=None, description="part of the board's model name")
    system: Text | None = Field(default=None, description="Linux or Darwin")
    gpu: Annotated[Text, AfterValidator(_regex)] | None = Field(
        default=None,
        description="a word of the NVIDIA GPU's name, as a regular expression",
    )
    browser: Browser | None = Field(default=None, description="an installed browser")


class BudgetsEntry(Entry):
    """What one model may take on the target, such as 512 MiB."""

    size: Size = Field(description="of the artifact")
    memory: Size = Field(description="peak resident memory")


class TargetEntry(Entry):
    """One kind of hardware that artifacts are built for."""

    family: Text = Field(description="whose variants are built")
    description: Text = Field(description="shown in `edge-assets doctor`")
    architecture: Text = Field(description="x86_64, aarch64, ..., or any where the target runs beside every CPU")
    batch_sizes: BatchSizes = Field(description="to time; the first is 1")
    threads: Count = Field(description="intra-op threads for timing")
    budgets: BudgetsEntry
    match: MatchEntry = MatchEntry()
    device: Literal["local"] | None = Field(default=None, description="local: measured when this machine is one")
    opset: Annotated[int, Field(ge=OLDEST_OPSET, le=NEWEST_OPSET)] = Field(default=OPSET, description="of ONNX")
    quantization: QuantizationEntry = QuantizationEntry()
    emulation: Annotated[tuple[EmulatedName, ...], Field(strict=False)] = Field(
        default=(),
        description="emulated CPUs that have the instruction sets that it may have",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="what only this family reads")
    evidence: Tier | None = Field(
        default=None,
        description="the least tier by which parity and accuracy have to be known for a release",
    )


def json_schema(families: Iterable[str]) -> dict[str, object]:
    """The JSON schema of a file of targets, whose families are those given."""
    entry = TargetEntry.model_json_schema(ref_template="#/$defs/{model}")
    definitions = entry.pop("$defs")
    entry["properties"]["family"]["enum"] = sorted(families)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Targets of edge-assets, by name",
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/TargetEntry"},
        "$defs": {"TargetEntry": entry, **definitions},
    }


def parse_target(name: object, entry: object) -> Target:
    """One catalog entry. Raises InvalidSpec with the field and the reason."""
    where = f"target {printable(name)}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidSpec(where, "the name must be lower-case letters, digits, '.' and '-', and no more than 63")
    if not isinstance(entry, Mapping):
        raise InvalidSpec(where, f"must be a mapping of fields, not {printable(entry)}")
    try:
        form = TargetEntry.model_validate(dict(entry))
    except ValidationError as error:
        raise invalid(faults_of(error, where, form=TargetEntry)) from None
    for cpu in form.emulation:
        if EMULATABLE[cpu].architecture != form.architecture:
            others = f"{EMULATABLE[cpu].architecture}, the target of {printable(form.architecture)}"
            raise InvalidSpec(f"{where}.emulation", f"{cpu} is a CPU of {others}")
    return Target(
        name=name,
        family=form.family,
        description=form.description,
        architecture=form.architecture,
        match=Match(**form.match.model_dump()),
        device=form.device,
        opset=form.opset,
        batch_sizes=form.batch_sizes,
        threads=form.threads,
        quantization=Quantization(**form.quantization.model_dump()),
        size_bytes=form.budgets.size,
        memory_bytes=form.budgets.memory,
        emulation=form.emulation,
        options=form.options,
        evidence=form.evidence,
    )


# --- files -----------------------------------------------------------------------------------------------


@cache
def load_catalog(*extra: Path) -> Catalog:
    """Every known target: the built-in catalog, then the user's files, which may not redefine one."""
    targets: dict[str, Target] = {}
    broken: dict[str, InvalidSpec] = {}
    unread = []
    for path in (BUILT_IN, *extra):
        try:
            entries = list(entries_of(path))
        except yaml.YAMLError as error:
            unread.append(InvalidSpec(f"catalog {path}", f"cannot be read: {problem_of(error)}"))
            continue
        except OSError as error:  # whose own text has the path once more
            reason = error.strerror or one_line(error, 300)
            unread.append(InvalidSpec(f"catalog {path}", f"cannot be read: {reason}"))
            continue
        except (ValueError, RecursionError) as error:
            unread.append(InvalidSpec(f"catalog {path}", f"cannot be read: {one_line(error, 300)}"))
            continue
        for name, entry in entries:
            try:
                if name in targets or name in broken:
                    raise InvalidSpec(f"catalog {path}", f"target '{printable(name)}' is already defined")
                if isinstance(entry, yaml.YAMLError):
                    raise InvalidSpec(f"target {printable(name)}", problem_of(entry))
                target = parse_target(name, entry)
                targets[target.name] = target
            except InvalidSpec as error:
                broken[str(name)] = error
    return Catalog(targets, broken, tuple(unread))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is a mistake, and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key_node, _value in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{printable(key)}' is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _loader(path: Path) -> "yaml.SafeLoader | yaml.CSafeLoader":
    """Of our own file libyaml's, which is ten times as fast; one of the user's may be so deep that it would crash."""
    text = path.read_text(encoding="utf-8")
    if path == BUILT_IN and yaml.__with_libyaml__:
        return yaml.CSafeLoader(text)
    return _Loader(text)


def entries_of(path: Path) -> Iterator[tuple[Hashable, object]]:
    """Name and entry of each mapping in a file; an entry that is no YAML value comes as the error that says so."""
    loader = _loader(path)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it must map names to entries")
        for key_node, entry_node in root.value:
            name = loader.construct_document(key_node)
            try:
                entry = loader.construct_document(entry_node)
            except yaml.YAMLError as error:
                entry = error
            if not isinstance(name, Hashable):
                name = str(name)
            yield name, entry
    finally:
        loader.dispose()


def problem_of(error: yaml.YAMLError) -> str:
    """What is wrong with the YAML, and in which line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or one_line(error, 300)
    if mark:
        problem = f"{problem} (line {mark.line + 1})"
    return printable(problem, 300)
