"""What a format or quantization scheme is to the rest of the product: one `Variant`, plain data and a function.

A module that adds one defines a `Variant` and a `build` function, imports its toolchain inside it, and is
listed by the families that ship it. Every variant passes the same template tests.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, TypeVarTuple

from edge_assets.core import isolation
from edge_assets.core.scheme import Precision
from edge_assets.core.session import CalibrationData, SavedFeeds
from edge_assets.core.tools import installed
from edge_assets.core.trials import Trials
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target

# calibration: the calibration data. training: the fine-tuning data and its loss. search: candidates of its own, judged
# on the evaluation data. architecture: its code, for what is not made from the checkpoint itself
Need = Literal["calibration", "training", "search", "architecture"]
Ts = TypeVarTuple("Ts")
T = TypeVar("T")
CHECKPOINT = "checkpoint"  # the source of the variants that start from PyTorch


@dataclass(frozen=True)
class BuildRequest:
    """What a `build` function gets to work with. Picklable, where `log` is."""

    spec: ModelSpec
    parameters: Mapping[str, Any]
    source: Path  # the source variant's artifact, or the checkpoint
    output: Path  # the folder to write into
    log: Callable[[str], None]
    calibration: CalibrationData = field(default_factory=dict)  # the model's inputs; only for variants that need them
    others: Mapping[str, Path] = field(default_factory=dict)  # artifacts of those `others` that were built, by name
    training: SavedFeeds | None = None  # the fine-tuning data's inputs; only for variants that need it
    trials: Trials | None = None  # only for variants that need a search
    kept: Path | None = None  # a folder of this recipe's own that outlives a killed build, for work that resumes


@dataclass(frozen=True)
class Variant:
    """One artifact that a family builds."""

    name: str  # the asset's name
    description: str
    format: str
    precision: Precision
    source: str  # name of the variant it is made from
    runtime: str  # what opens its sessions: a name in core/runtimes
    build: Callable[[BuildRequest], Mapping[str, object]]  # its facts, as JSON
    parameters: Callable[[ModelSpec, Target], dict[str, Any]]  # everything that shapes the result
    code_version: str
    tools: tuple[str, ...]  # distributions, or npm:package, browser:name, whose version enters the recipe
    kinds: tuple[str, ...] = field(default=())
    others: tuple[str, ...] = ()  # further variants it is made from, as far as they were built
    is_candidate: bool = True  # False: a package of others, never a winner itself
    needs: frozenset[Need] = frozenset()  # what it is made of besides its source; each enters the recipe
    is_model: bool = True  # False: evidence or an intermediate that no runtime opens, so there is nothing to verify
    extra: str | None = None  # the optional extra that installs its tools
    process: str | None = None  # child process for build and verification, shared by what names the same; None: none
    seconds: float = 900  # longest a build or a verification in that process may take
    mlflow_flavor: Literal["onnx", "pytorch"] | None = None
    offered: Callable[[ModelSpec], bool] = lambda _spec: True  # to which models; not a refusal: they have no such asset
    # the runtime that verifies it where `runtime` cannot: off the target, or with the fact `needs_device`; with the
    # fact `stand_in_sha256`, the hash of what it opens of the artifact, equal ones are verified once
    stand_in: str | None = None
    # a runtime that shows the arithmetic of another processor that users run it on: its evidence stands beside
    also_in: str | None = None

    def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """`function(*arguments)` in the variant's child process if it names one, else here."""
        if self.process is None:
            return function(*arguments)
        found: T = isolation.call(self.process, function, *arguments, seconds=self.seconds)
        return found

    def call_each(self, function: Callable[[*Ts], T], calls: Sequence[tuple[*Ts]]) -> list[T]:
        """Results of several calls at once, each in a child process of its own, in the order of `calls`.

        Only for a variant that names a process.
        """
        assert self.process is not None
        with ThreadPoolExecutor(len(calls)) as threads:
            futures = []
            for number, arguments in enumerate(calls):
                name = f"{self.process}-{number}"
                futures.append(threads.submit(isolation.call, name, function, *arguments, seconds=self.seconds))
            return [future.result() for future in futures]

    def tool_versions(self) -> dict[str, str]:
        """Versions of `tools`. Raises MissingTool naming the extra."""
        return installed(self.tools, self.extra)


def in_depth(spec: ModelSpec) -> bool:
    """`offered` of the schemes that only a model with `schemes="all"` has, or one that names them."""
    return spec.schemes == "all" or bool(spec.variants)
