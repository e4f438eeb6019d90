"""Run requests for a checkpoint, shared by the sensor and the schedule."""

from collections.abc import Collection, Iterator
from functools import cache

import dagster as dg
from dagster import DagsterRunStatus

from edge_assets.core.variant import CHECKPOINT
from edge_assets.defs.assets import known_to, partition_key
from edge_assets.defs.jobs import family_job_name
from edge_assets.families.family import Family
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.plan import Materialized, plan
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore

PRIORITY = {"dagster/priority": "-10"}  # what a person starts has 0, and goes first
SCORECARD_PRIORITY = {"dagster/priority": "-5"}  # a page of what is built already does not wait for what is to be built
PARTITION, CHECKPOINT_PARTITION = "dagster/partition", "dagster/partition/checkpoint"
UNFINISHED = [
    *(DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED),
    *(DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING),
]


class Runs:
    """What a Dagster instance knows of cells. Each question is asked once: planning looks at many cells."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.materialized: Materialized = known_to(instance)
        self._built = cache(self._built_checkpoints)
        self._instance = instance
        self._unfinished: list[dg.DagsterRun] | None = None

    def has(self, spec: ModelSpec, family: Family, checkpoint: str) -> bool:
        """Whether a checkpoint was ever run or materialized for a family."""
        if checkpoint in self._built((spec.name, family.name, CHECKPOINT)):
            return True
        runs = self._instance.get_runs(dg.RunsFilter(tags={CHECKPOINT_PARTITION: checkpoint}))
        return any(_is_of(run, spec, family) for run in runs)

    def is_unfinished(self, spec: ModelSpec, family: Family, partition: str) -> bool:
        """Whether a run of that cell waits, runs or is being ended, whoever started it."""
        if self._unfinished is None:
            self._unfinished = list(self._instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))
        of_the_cell = [run for run in self._unfinished if run.tags.get(PARTITION) == partition]
        return any(_is_of(run, spec, family) for run in of_the_cell)

    def _built_checkpoints(self, asset: tuple[str, str, str]) -> Collection[str]:
        return {partition.partition("|")[0] for partition in self.materialized(asset)}


def _is_of(run: dg.DagsterRun, spec: ModelSpec, family: Family) -> bool:
    """Whether a run works on a family of a model, by its job, or by its assets as in what people start on the page."""
    if run.job_name == family_job_name(spec, family):
        return True
    return any(key.path[:2] == [spec.name, family.name] for key in run.asset_selection or ())


def stale_requests(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
    checkpoint: Checkpoint,
    store: ArtifactStore,
    runs: Runs,
    run_key: str,
) -> Iterator[dg.RunRequest]:
    """One request per target that has something to do and is not waiting or running. `run_key` is completed by it."""
    job = family_job_name(spec, family)
    for target in targets:
        cell = Cell(spec, family, target, checkpoint, store)
        if runs.is_unfinished(spec, family, f"{checkpoint.key}|{target.name}"):
            continue
        planned = plan(cell, runs.materialized, mode="rapid")
        if not planned.is_fresh:
            yield dg.RunRequest(
                run_key=f"{run_key}:{target.name}",
                job_name=job,
                partition_key=partition_key(cell),
                tags={"edge_assets/reason": (planned.reason or "")[:250], **PRIORITY},
            )
