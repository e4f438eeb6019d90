"""Everything Dagster loads: every registered model, instantiated for every family that it targets."""

import dagster as dg

from edge_assets.defs.assets import family_assets
from edge_assets.defs.jobs import family_job, scorecard_job
from edge_assets.defs.recovery import dead_runs_sensor
from edge_assets.defs.resources import resources
from edge_assets.defs.schedules import nightly_schedule
from edge_assets.defs.scorecard import scorecard_asset
from edge_assets.defs.sensors import checkpoint_sensor, scorecard_sensor
from edge_assets.families.families import family_targets
from edge_assets.registry import registry
from edge_assets.spec.model import ModelSpec


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
