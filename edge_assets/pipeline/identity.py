"""Which cell it is: one (model, family, target, checkpoint), and what follows from these alone."""

from collections.abc import Callable
from dataclasses import dataclass

from edge_assets.core import failures
from edge_assets.core.select import NOT_MEASURED, Limits
from edge_assets.core.types import Recipe, Result
from edge_assets.core.variant import CHECKPOINT, Variant
from edge_assets.errors import (
    EdgeAssetsError,
    StoreError,
    told,
)
from edge_assets.families.family import Family
from edge_assets.hashing import digest
from edge_assets.spec.metrics import DEFAULT
from edge_assets.spec.model import Metric, ModelSpec
from edge_assets.spec.tiers import Tier, best
from edge_assets.targets import Target, is_this_machine, this_machine
from edge_assets.targets.project import catalog
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore, NotBuilt

NOT_THE_VARIANTS = (StoreError, NotBuilt)  # what a step raises that says nothing of the variant
REPORT, RELEASE = "benchmark_report", "release"
ENGINE = "engine"  # a parameter of what a device completes
MEASUREMENT_SAMPLES = 256  # evaluation samples that queries cycle through


@dataclass(frozen=True)
class Identity:
    """One (model, family, target, checkpoint): what one run works on."""

    spec: ModelSpec
    family: Family
    target: Target
    checkpoint: Checkpoint
    store: ArtifactStore
    log: Callable[[str], None] = print

    @property
    def is_local(self) -> bool:
        """Whether this machine is the target, so that latency can be measured."""
        return is_this_machine(self.target, catalog().values())

    @property
    def not_measured(self) -> str:
        """Why there is no latency where there is none."""
        return str(self.target.options.get("not_measured", NOT_MEASURED))

    @property
    def path(self) -> str:
        return f"{self.spec.name}/{self.family.name}/{self.checkpoint.key}/{self.target.name}"

    @property
    def partition(self) -> str:
        """The cell's key among those of its model and family: checkpoint|target."""
        return f"{self.checkpoint.key}|{self.target.name}"

    @property
    def artifacts(self) -> list[str]:
        """Names of what is made for the cell, in the order of the graph."""
        return [CHECKPOINT, *(variant.name for variant in self.family.variants), REPORT, RELEASE]

    def asset(self, artifact: str) -> tuple[str, str, str]:
        """model, family, artifact: which asset one of these is."""
        return self.spec.name, self.family.name, artifact

    @property
    def limits(self) -> Limits:
        """The tighter of the model's gates and the target's budgets."""
        gates, target, evaluation = self.spec.gates, self.target, self.spec.evaluation
        deciding = evaluation.deciding
        return Limits(
            accuracy_drop_points=max_drop_points(self.spec),
            own_unit=None if deciding.max_drop is None else deciding.label,
            metric=own_name(deciding),
            metrics={metric.label: metric.max_drop for metric in evaluation.others},
            size_bytes=min(gates.max_size_bytes or target.size_bytes, target.size_bytes),
            memory_bytes=min(gates.max_memory_bytes or target.memory_bytes, target.memory_bytes),
            cosine=gates.min_cosine,
            evidence=_stricter(gates.evidence, target.evidence),
        )


def own_name(deciding: Metric) -> str | None:
    """What the deciding metric is called; None where that is accuracy."""
    return None if deciding.name == DEFAULT else deciding.label


def _stricter(one: Tier | None, other: Tier | None) -> Tier | None:
    """The tier that both demand."""
    demanded = [tier for tier in (one, other) if tier is not None]
    return best(demanded) if demanded else None


def max_drop_points(spec: ModelSpec) -> float:
    """The largest drop of the deciding metric, in hundredths of its unit: its own gate, or the model's."""
    deciding = spec.evaluation.deciding
    if deciding.max_drop is not None:
        return 100 * deciding.max_drop
    return spec.gates.max_accuracy_drop_points


def failure(cell: Identity, variant: Variant, recipe: Recipe, error: BaseException, doing: str) -> Result:
    """What is known of a conversion or a verification that failed. It is not kept: the next build tries again."""
    log = failures.keep(error, cell.store.cache / failures.FOLDER, f"{cell.path} {variant.name} {doing}")
    reason = told(error) if isinstance(error, EdgeAssetsError) else f"{doing} failed: {told(error)}"
    return Result(recipe, None, {"failed": True, "log": log}, refused=reason)


def machine_digest() -> str:
    """Changes when a measurement here would be another machine's."""
    machine = this_machine()
    return digest([machine.cpu, machine.cores, machine.instruction_sets, machine.memory_bytes, *machine.gpus])
