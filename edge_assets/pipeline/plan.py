"""What is stale, and why: the same steps as a run, on a store that refuses to build.

The command line, the sensor and the nightly schedule all ask here, so that a build with nothing to do
launches no run.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from edge_assets.core.types import Built, Recipe, Report, Result
from edge_assets.errors import EdgeAssetsError
from edge_assets.pipeline import rows
from edge_assets.pipeline.cell import RELEASE, REPORT, Cell
from edge_assets.pipeline.identity import ENGINE
from edge_assets.pipeline.judgement import Judgement
from resources.pointers import Pointed, pointed_result, pointer_key
from resources.store import NotBuilt

Materialized = Callable[[Sequence[str]], Collection[str]]  # partitions by asset: model, family, artifact


@dataclass(frozen=True)
class Plan:
    """One cell's plan. `reason` is None when there is nothing to do."""

    cell: Cell
    reason: str | None

    @property
    def is_fresh(self) -> bool:
        return self.reason is None


def plan(cell: Cell, materialized: Materialized, mode: str) -> Plan:
    """Whether anything of `cell` has to be built, measured, or shown to Dagster."""
    planning = cell.planning()
    try:
        builts = planning.observe(planning.build_all())
        report = Report(tuple(builts.values()), planning.measure(builts, mode))
        judgement = Judgement(planning, builts, report.measurement)
        judgement.report()
        released = judgement.release()
    except NotBuilt as missing:
        return Plan(cell, why_missing(cell, missing.recipe))
    except EdgeAssetsError as error:
        return Plan(cell, str(error))  # the run says it again, as a failed asset
    current = {name: built.build.sha256 for name, built in builts.items()}
    current |= {REPORT: report.sha256, RELEASE: released.sha256}
    for name in cell.artifacts:
        if (why := _not_pointed(cell, name, current[name])) is not None:
            return Plan(cell, why)
    if not rows.read(cell.store, cell.path):
        return Plan(cell, "scorecard: its rows are missing, or have another shape")
    return Plan(cell, _not_materialized(cell, materialized))


def why_missing(cell: Cell, recipe: Recipe) -> str:
    """The missing step, and what changed since the result that is pointed at now."""
    if recipe.parameters.get(ENGINE) and "kit" in recipe.inputs:  # PyTorch's own recipes name their engine too
        return f"{ENGINE}: that of {recipe.step} is not built on its device yet"
    holder = {"measurement": REPORT}.get(recipe.step, recipe.step)
    pointed = pointed_result(cell.store, _key(cell, holder))
    if pointed is None:
        return f"{recipe.step}: not done yet"
    if _has_failed(pointed):
        return f"{recipe.step}: failed before, tried again"
    older = _result(pointed).recipe
    if older.step != recipe.step:
        return f"{recipe.step}: what it is made from changed"
    now, before = recipe.parameters.get("device"), older.parameters.get("device")
    if now != before:
        return f"{recipe.step}: by {now or 'this machine'}, and before by {before or 'this machine'}"
    changes = recipe.changes_from(older) or ["its bytes are missing or damaged"]
    return f"{recipe.step}: {', '.join(changes)}"


def _has_failed(pointed: Pointed) -> bool:
    """Whether what a pointer holds is a failure."""
    if isinstance(pointed, Built):
        return pointed.failed is not None
    return _result(pointed).has_failed


def _not_pointed(cell: Cell, name: str, sha256: str) -> str | None:
    """Why a pointer has to be written, though all it would name is there; None where it is right."""
    pointed = pointed_result(cell.store, _key(cell, name))
    if pointed is None:
        return f"{name}: not handed on yet"
    if name == REPORT:
        if not isinstance(pointed, Report):
            return f"{name}: an earlier version handed on less than its release needs"
        is_current = pointed.sha256 == sha256
    else:
        is_current = _result(pointed).sha256 == sha256
    return None if is_current else f"{name}: an earlier result applies again"


def _result(pointed: Pointed) -> Result:
    """What was built, or measured."""
    if isinstance(pointed, Built):
        return pointed.build
    if isinstance(pointed, Report):
        return pointed.measurement
    return pointed


def _not_materialized(cell: Cell, materialized: Materialized) -> str | None:
    for name in cell.artifacts:
        if cell.partition not in materialized(cell.asset(name)):
            return f"{name}: not materialized in this Dagster instance"
    return None


def _key(cell: Cell, name: str) -> str:
    return pointer_key(cell.asset(name), cell.partition)
