"""What passes between steps: recipes, artifacts and the evidence about them.

Everything here is a frozen dataclass that turns into JSON and back, so that it can be stored beside the
bytes it describes, shown in Dagster and logged to MLflow without translation.

What is read back was written by whoever may write the store, perhaps by a later version: `from_dict` ignores fields
that it does not know and raises Malformed for anything that is not of the right shape, facts included: what they are
for each step, `core/evidence` says. Paths and hashes become parts of file names, so no File exists whose path leaves
its artifact or whose hash is not one.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Self, TypeVar

from edge_assets.core import shapes
from edge_assets.core.evidence import Accuracy, Facts, Parity, Verified, shape_of
from edge_assets.core.shapes import LEFT_OUT
from edge_assets.errors import Malformed
from edge_assets.hashing import canonical_json, digest

SHA256 = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


def checked_sha256(value: object) -> str:
    """`value`, which is a sha256 in hex. Raises Malformed for anything else: hashes become file names."""
    if isinstance(value, str) and SHA256.fullmatch(value):
        return value
    raise Malformed(f"{_short(value)} is not a sha256: 64 hexadecimal digits, lower case")


def checked_path(value: object) -> str:
    """`value`, a relative, normalised path that stays where it is joined. Raises Malformed for anything else."""
    if not isinstance(value, str) or not value:
        raise Malformed(f"{_short(value)} is not a path")
    names = value.split("/")
    windows = PureWindowsPath(value)
    leaves = any(name in ("", ".") for name in names) or ".." in {*names, *windows.parts}
    if leaves or "\0" in value or windows.drive or windows.root:
        raise Malformed(f"{_short(value)} is not a relative, normalised path that stays inside of its folder")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an output's bytes.

    It MUST record every input digest, parameter, code version and tool version that influences the result:
    two builds with the same recipe hash are taken to be the same build.
    """

    step: str
    code_version: str
    inputs: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    parameters: Mapping[str, object] = field(default_factory=dict)  # as JSON
    tools: Mapping[str, str] = field(default_factory=dict)  # distribution -> version

    @cached_property
    def sha256(self) -> str:
        return digest(asdict(self))

    def changes_from(self, older: "Recipe") -> list[str]:
        """What differs from `older`, in words for a person: `calibration changed`, `tool onnx 1.22 -> 1.23`."""
        changes = []
        if self.code_version != older.code_version:
            changes.append(f"code version {older.code_version} -> {self.code_version}")
        for name in _differing(self.inputs, older.inputs):
            changes.append(f"{name} changed")
        for name in _differing(self.parameters, older.parameters):
            changes.append(_change(name, older.parameters.get(name), self.parameters.get(name)))
        for name in _differing(self.tools, older.tools):
            changes.append(_change(f"tool {name}", older.tools.get(name), self.tools.get(name)))
        return changes

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The recipe that was stored. Raises Malformed."""
        return shapes.read(cls, data)


def _change(name: str, old: object, new: object) -> str:
    if isinstance(old, dict | list | tuple) or isinstance(new, dict | list | tuple):
        return f"{name} changed"
    return f"{name} {old} -> {new}"


def _differing(new: Mapping[str, object], old: Mapping[str, object]) -> list[str]:
    """Names of what differs as JSON: a recipe from the store has lists where a new one has tuples."""
    return sorted(name for name in {*new, *old} if canonical_json(new.get(name)) != canonical_json(old.get(name)))


@dataclass(frozen=True)
class File:
    """One file of an artifact: its path inside the artifact, its content hash and its size in bytes.

    Raises Malformed for a path that leaves the artifact, and for a hash or a size that is none.
    """

    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        checked_path(self.path)
        checked_sha256(self.sha256)
        if type(self.size) is not int or self.size < 0:
            raise Malformed(f"{_short(self.size)} is not the size of a file")

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The entry that was stored. Raises Malformed."""
        return shapes.read(cls, data)


@dataclass(frozen=True)
class Artifact:
    """Content-addressed files. A single file's artifact has that file's hash; a folder's, its listing's."""

    files: tuple[File, ...]

    def __post_init__(self) -> None:
        if not self.files:
            raise Malformed("an artifact without files")
        paths = {file.path for file in self.files}
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if len(paths) < len(self.files) or paths & folders:
            raise Malformed(
                f"an artifact that has {_short(sorted(paths))}: one path twice, or a file that is a folder too"
            )

    @property
    def sha256(self) -> str:
        if len(self.files) == 1:
            return self.files[0].sha256
        return digest([asdict(file) for file in self.files])

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The artifact that was stored. Raises Malformed."""
        return shapes.read(cls, data)


@dataclass(frozen=True)
class Result:
    """The memo of one step: what its recipe made. `artifact` is None where the step refused to build."""

    recipe: Recipe
    artifact: Artifact | None
    facts: Mapping[str, object]  # as JSON; of the shape that `evidence.shape_of` gives for the step
    refused: str | None = None
    seconds: float = 0.0
    reused: bool = False  # true when read from the store instead of built

    @property
    def sha256(self) -> str:
        """The content hash; for a refusal, the hash of the refused recipe."""
        return self.artifact.sha256 if self.artifact else digest(["refused", self.recipe.sha256])

    @property
    def has_failed(self) -> bool:
        """Whether it is a failure, of a conversion, a verification or a measurement."""
        return bool(self.facts.get("failed"))

    def said(self, shape: type[T]) -> T:
        """The facts as that type. Raises Malformed."""
        return shapes.read(shape, self.facts)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object, reused: bool | None = None, takes_any_facts: bool = False) -> Self:
        """The result that `to_dict` gave; `reused` overrides what was stored. Raises Malformed.

        With `takes_any_facts` their shape does not matter: for who needs to know only what there is.
        """
        result = shapes.read(cls, data)
        if not takes_any_facts:
            result.check_facts()
        if reused is None:
            return result
        return replace(result, reused=reused)

    def check_facts(self) -> None:
        """Raises Malformed where the facts are not what others will read of this step's."""
        if self.refused is None:
            self.said(shape_of(self.recipe.step))


def _failure(build: Result, evidence: Result | None) -> Result | None:
    """The one of the two that failed, if any."""
    if build.has_failed:
        return build
    return evidence if evidence and evidence.has_failed else None


@dataclass(frozen=True)
class Built:
    """One materialized variant: its build and its verification. What an asset hands to the next."""

    variant: str
    format: str
    precision: str
    runtime: str
    build: Result
    evidence: Result | None  # parity and accuracy; None where the build was refused
    # the same from devices and emulated instruction sets; None: there were none
    elsewhere: tuple[Result, ...] | None = field(default=None, metadata=LEFT_OUT)

    @property
    def artifact(self) -> Artifact | None:
        return self.build.artifact

    @cached_property
    def facts(self) -> Facts:
        """What the build says of its artifact."""
        return self.build.said(Facts)

    @cached_property
    def verified(self) -> Verified | None:
        """Parity and accuracy; None where there is nothing that was verified."""
        if self.evidence is None or self.evidence.refused is not None:
            return None
        return self.evidence.said(Verified)

    @property
    def parity(self) -> Parity | None:
        return self.verified.parity if self.verified else None

    @property
    def accuracy(self) -> Accuracy | None:
        return self.verified.accuracy if self.verified else None

    @property
    def size_bytes(self) -> int | None:
        """What the target holds of the artifact: all its files, unless the build says otherwise in `size_bytes`."""
        if self.artifact is None:
            return None
        if self.facts.size_bytes is None:
            return self.artifact.size_bytes
        return self.facts.size_bytes

    @property
    def recipe(self) -> str:
        """The name of its scheme: as the build says it, or, where nothing was built, as it was asked for."""
        if self.facts.recipe is not None:
            return self.facts.recipe
        asked = self.build.recipe.parameters.get("recipe")
        return asked if isinstance(asked, str) else self.precision

    @property
    def failed(self) -> str | None:
        """Why its conversion or its verification failed, if so; the fact `log` of the same result names the log."""
        failure = _failure(self.build, self.evidence)
        return failure.refused if failure else None

    @property
    def failure_log(self) -> str | None:
        """The file in the failures folder that tells the whole story of a failure."""
        failure = _failure(self.build, self.evidence)
        return failure.said(Facts).log if failure else None

    @property
    def unverified(self) -> str | None:
        """Why no parity or accuracy could be computed for what was built, if so."""
        if self.evidence is None:
            return None
        return self.evidence.refused

    @property
    def reused(self) -> bool:
        return self.build.reused and (self.evidence is None or self.evidence.reused)

    @property
    def data_version(self) -> str:
        """Changes when the bytes change or when they were verified against something else."""
        evidence = self.evidence.recipe.sha256 if self.evidence else None
        if not self.elsewhere:
            return digest([self.build.sha256, evidence])
        return digest([self.build.sha256, evidence, [result.recipe.sha256 for result in self.elsewhere]])

    def to_dict(self) -> Mapping[str, object]:
        return shapes.record(self)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The variant that was stored. Raises Malformed."""
        built = shapes.read(cls, data)
        built.check_facts()
        return built

    def check_facts(self) -> None:
        """Raises Malformed where what the build or the verification says is not what others will read of it."""
        self.build.check_facts()
        if self.evidence:
            self.evidence.check_facts()
        for result in self.elsewhere or ():
            result.check_facts()


@dataclass(frozen=True)
class Report:
    """What a benchmark report judged: the built variants in the order of their graph, and their measurement.

    A release is made from nothing else.
    """

    builts: tuple[Built, ...]
    measurement: Result

    @cached_property
    def by_name(self) -> dict[str, Built]:
        """The variants by name."""
        return {built.variant: built for built in self.builts}

    @property
    def sha256(self) -> str:
        """Changes when the measurement does, or a variant's bytes, or what they were verified against."""
        return digest([self.measurement.sha256, [built.data_version for built in self.builts]])

    def to_dict(self) -> Mapping[str, object]:
        return shapes.record(self)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The report that was stored. Raises Malformed."""
        report = shapes.read(cls, data)
        report.measurement.check_facts()
        for built in report.builts:
            built.check_facts()
        return report
