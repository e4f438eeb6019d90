"""What passes between steps: recipes, artifacts and the evidence about them.

Everything here is a frozen dataclass that turns into JSON and back, so that it can be stored beside the
bytes it describes, shown in Dagster and logged to MLflow without translation.

What is read back was written by whoever may write the store, perhaps by a later version: `from_dict` ignores fields
that it does not know and raises Malformed for anything that is not of the right shape. Paths and hashes become parts of
file names, so no File exists whose path leaves its artifact or whose hash is not one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Self

from edge_assets.errors import Malformed
from edge_assets.hashing import canonical_json, digest

SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_sha256(value: Any) -> str:
    """`value`, which is a sha256 in hex. Raises Malformed for anything else: hashes become file names."""
    if isinstance(value, str) and SHA256.fullmatch(value):
        return value
    raise Malformed(f"{_short(value)} is not a sha256: 64 hexadecimal digits, lower case")


def checked_path(value: Any) -> str:
    """`value`, a relative, normalised path that stays where it is joined. Raises Malformed for anything else."""
    if not isinstance(value, str) or not value:
        raise Malformed(f"{_short(value)} is not a path")
    names = value.split("/")
    windows = PureWindowsPath(value)
    leaves = any(name in ("", ".") for name in names) or ".." in {*names, *windows.parts}
    if leaves or "\0" in value or windows.drive or windows.root:
        raise Malformed(f"{_short(value)} is not a relative, normalised path that stays inside of its folder")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _known_fields(cls: type, data: Any) -> dict[str, Any]:
    """What of `data` the dataclass knows; a later version may have written more. Raises Malformed."""
    if not isinstance(data, Mapping):
        raise Malformed(f"{_short(data)} is not a {cls.__name__}")
    for entry in fields(cls):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in data:
            raise Malformed(f"a {cls.__name__} without {entry.name}")
    names = [entry.name for entry in fields(cls)]
    return {name: data[name] for name in names if name in data}


def _check_types(cls: type, data: Mapping[str, Any], names: Iterable[str], types: type | tuple[type, ...]) -> None:
    """Raises Malformed unless each named value that is there is of one of the types."""
    for name in names:
        if name in data and not isinstance(data[name], types):
            raise Malformed(f"{name} of a {cls.__name__} is {_short(data[name])}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an output's bytes.

    It MUST record every input digest, parameter, code version and tool version that influences the result:
    two builds with the same recipe hash are taken to be the same build.
    """

    step: str
    code_version: str
    inputs: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)  # distribution -> version

    @cached_property
    def sha256(self) -> str:
        return digest(asdict(self))

    def changes_from(self, older: "Recipe") -> list[str]:
        """What differs from `older`, in words for a person: `calibration changed`, `tool onnx 1.22 -> 1.23`."""
        changes = []
        if self.code_version != older.code_version:
            changes.append(f"code version {older.code_version} -> {self.code_version}")
        changes += [f"{name} changed" for name in _differing(self.inputs, older.inputs)]
        for kind, new, old in (("", self.parameters, older.parameters), ("tool ", self.tools, older.tools)):
            changes += [_change(kind + name, old.get(name), new.get(name)) for name in _differing(new, old)]
        return changes

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The recipe that was stored. Raises Malformed."""
        known = _known_fields(cls, data)
        _check_types(cls, known, ("step", "code_version"), str)
        _check_types(cls, known, ("inputs", "parameters", "tools"), Mapping)
        return cls(**known)


def _change(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict | list | tuple) or isinstance(new, dict | list | tuple):
        return f"{name} changed"
    return f"{name} {old} -> {new}"


def _differing(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
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
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The entry that was stored. Raises Malformed."""
        return cls(**_known_fields(cls, data))


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
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The artifact that was stored. Raises Malformed."""
        listed = _known_fields(cls, data)["files"]
        if not isinstance(listed, list | tuple):
            raise Malformed(f"files of an Artifact are {_short(listed)}")
        return cls(tuple(File.from_dict(file) for file in listed))


@dataclass(frozen=True)
class Result:
    """The memo of one step: what its recipe made. `artifact` is None where the step refused to build."""

    recipe: Recipe
    artifact: Artifact | None
    facts: Mapping[str, Any]
    refused: str | None = None
    seconds: float = 0.0
    reused: bool = False  # true when read from the store instead of built

    @property
    def sha256(self) -> str:
        """The content hash; for a refusal, the hash of the refused recipe."""
        return self.artifact.sha256 if self.artifact else digest(["refused", self.recipe.sha256])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], reused: bool | None = None) -> Self:
        """The result that `to_dict` gave; `reused` overrides what was stored. Raises Malformed."""
        known = _known_fields(cls, data)
        _check_types(cls, known, ("facts",), Mapping)
        _check_types(cls, known, ("refused",), (str, type(None)))
        _check_types(cls, known, ("seconds",), (int, float))
        _check_types(cls, known, ("reused",), bool)
        known["recipe"] = Recipe.from_dict(known["recipe"])
        if known["artifact"] is not None:
            known["artifact"] = Artifact.from_dict(known["artifact"])
        if reused is not None:
            known["reused"] = reused
        return cls(**known)


@dataclass(frozen=True)
class Built:
    """One materialized variant: its build and its verification. What an asset hands to the next."""

    variant: str
    format: str
    precision: str
    runtime: str
    build: Result
    evidence: Result | None  # parity and accuracy; None where the build was refused

    @property
    def artifact(self) -> Artifact | None:
        return self.build.artifact

    @property
    def size_bytes(self) -> int | None:
        """What the target holds of the artifact: all its files, unless the build says otherwise in `size_bytes`."""
        return self.build.facts.get("size_bytes", self.artifact.size_bytes) if self.artifact else None

    @property
    def parity(self) -> Mapping[str, Any] | None:
        return self.evidence.facts.get("parity") if self.evidence else None

    @property
    def accuracy(self) -> Mapping[str, Any] | None:
        return self.evidence.facts.get("accuracy") if self.evidence else None

    @property
    def agreement(self) -> Mapping[str, Any] | None:
        """By output, how it agrees with the reference over the whole evaluation set."""
        return self.evidence.facts.get("agreement") if self.evidence else None

    def cosine_mean(self, output: str) -> float | None:
        """Mean cosine of one output with the reference's, per sample of the evaluation set."""
        return (self.agreement or {}).get(output, {}).get("cosine_mean")

    @property
    def unavailable(self) -> bool:
        """Not built because a toolchain is missing here, which says nothing of the model."""
        return bool(self.build.facts.get("unavailable"))

    @property
    def failed(self) -> str | None:
        """Why its conversion or its verification failed, if so; the fact `log` of the same result names the log."""
        result = self._failure
        return result.refused if result else None

    @property
    def failure_log(self) -> str | None:
        """The file in the failures folder that tells the whole story of a failure."""
        result = self._failure
        return result.facts.get("log") if result else None

    @property
    def _failure(self) -> Result | None:
        results = [result for result in (self.build, self.evidence) if result and result.facts.get("failed")]
        return results[0] if results else None

    @property
    def unverified(self) -> str | None:
        """Why no parity or accuracy could be computed for what was built, if so."""
        return self.evidence.refused if self.evidence else None

    @property
    def reused(self) -> bool:
        return self.build.reused and (self.evidence is None or self.evidence.reused)

    @property
    def data_version(self) -> str:
        """Changes when the bytes change or when they were verified against something else."""
        return digest([self.build.sha256, self.evidence.recipe.sha256 if self.evidence else None])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The variant that was stored. Raises Malformed."""
        known = _known_fields(cls, data)
        _check_types(cls, known, ("variant", "format", "precision", "runtime"), str)
        known["build"] = Result.from_dict(known["build"])
        if known["evidence"] is not None:
            known["evidence"] = Result.from_dict(known["evidence"])
        return cls(**known)
