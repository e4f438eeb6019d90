"""Run requests for a checkpoint, shared by the sensor and the schedule."""

from collections.abc import Iterator

import dagster as dg

from edge_assets.assets.family import Family
from edge_assets.assets.steps import Cell
from edge_assets.automation.jobs import family_job_name
from edge_assets.model import ModelSpec
from edge_assets.plan import known_to, plan
from edge_assets.targets import Target
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore


def stale_requests(
    spec: ModelSpec,
    family: Family,
    targets: list[Target],
    checkpoint: Checkpoint,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    run_key: str,
) -> Iterator[dg.RunRequest]:
    """One request per target that has something to do. `run_key` is completed by the target."""
    materialized = known_to(instance)
    for target in targets:
        planned = plan(Cell(spec, family, target, checkpoint, store), materialized, mode="rapid")
        if not planned.is_fresh:
            yield dg.RunRequest(
                run_key=f"{run_key}:{target.name}",
                job_name=family_job_name(spec, family),
                partition_key=planned.partition_key,
                tags={"edge_assets/reason": (planned.reason or "")[:250]},
            )
