"""The nightly schedule: what became stale for the newest checkpoint, and nothing of its history."""

from typing import TYPE_CHECKING

import dagster as dg

from edge_assets.defs.requests import Runs, stale_requests
from edge_assets.defs.ticks import clear_tick_errors
from edge_assets.families.family import Family
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import ModelSpec
from edge_assets.targets import Target
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def nightly_schedule(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
    job: "UnresolvedAssetJobDefinition",
) -> dg.ScheduleDefinition:
    """Rebuilds what is stale (code, data, tools, catalog) of the newest checkpoint at two in the morning."""

    @dg.schedule(
        name=f"{job.name}_nightly",
        cron_schedule="0 2 * * *",
        job=job,
        default_status=_status(spec),
        description=f"Rebuilds what is stale of {spec.name}'s newest checkpoint for {family.description}.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, store: ArtifactStoreResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        with clear_tick_errors(f"{job.name}_nightly"):
            opened = store.open()
            newest = checkpoints.newest(opened, spec.name, fitting_digest(spec))
            if newest is None:
                return dg.SkipReason(f"no checkpoint of {spec.name} that fits its architecture is registered yet")
            tick = context.scheduled_execution_time.isoformat()
            runs = Runs(context.instance)
            requests = list(stale_requests(spec, family, targets, newest, opened, runs, run_key=f"nightly:{tick}"))
        return requests or dg.SkipReason(f"{newest.key} is up to date on every target, or its runs wait already")

    return nightly


def _status(spec: ModelSpec) -> dg.DefaultScheduleStatus:
    """Whether the schedule is on until somebody switches it on Dagster's Automation page."""
    if spec.automation.nightly:
        return dg.DefaultScheduleStatus.RUNNING
    return dg.DefaultScheduleStatus.STOPPED
