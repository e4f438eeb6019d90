"""Everything Dagster loads: every registered model, instantiated for every family that it targets."""

import dagster as dg

from edge_assets.assets.graph import family_assets
from edge_assets.assets.scorecard import scorecard_asset
from edge_assets.automation import (
    checkpoint_sensor,
    dead_runs_sensor,
    family_job,
    nightly_schedule,
    scorecard_job,
    scorecard_sensor,
)
from edge_assets.families.families import family_targets
from edge_assets.registry import registry
from edge_assets.spec.model import ModelSpec
from edge_assets.wiring import resources


def model_definitions(spec: ModelSpec) -> dg.Definitions:
    """One model: a graph, a job and a nightly schedule per family, a scorecard, and the checkpoint sensor."""
    graphs = list(family_targets(spec))
    jobs = {family.name: family_job(spec, family, targets) for family, targets in graphs}
    return dg.Definitions(
        assets=[
            *(asset for family, targets in graphs for asset in family_assets(spec, family, targets)),
            scorecard_asset(spec),
        ],
        jobs=[*jobs.values(), scorecard_job(spec)],
        schedules=[nightly_schedule(spec, family, targets, jobs[family.name]) for family, targets in graphs],
        sensors=[checkpoint_sensor(spec, list(jobs.values()))],
    )


defs = dg.Definitions.merge(
    dg.Definitions(
        resources=resources(),
        sensors=[scorecard_sensor, dead_runs_sensor],
        executor=dg.in_process_executor,  # a process per step would import torch again for each
    ),
    *(model_definitions(spec) for spec in registry().models.values()),
)
