"""What Dagster loads of a model, and what all models share."""

from functools import cache

import dagster as dg

from edge_assets.defs.assets import family_assets
from edge_assets.defs.devices import device_sensors
from edge_assets.defs.jobs import family_job, scorecard_job
from edge_assets.defs.recovery import dead_runs_sensor
from edge_assets.defs.resources import resources
from edge_assets.defs.schedules import nightly_schedule
from edge_assets.defs.scorecard import scorecard_asset
from edge_assets.defs.sensors import checkpoint_sensor, scorecard_sensor
from edge_assets.families.families import family_targets
from edge_assets.spec.model import ModelSpec


def model_definitions(spec: ModelSpec) -> dg.Definitions:
    """One model: a graph, a job and a nightly schedule per family, a scorecard, the checkpoint sensor; resources."""
    graphs = list(family_targets(spec))
    jobs = {family.name: family_job(spec, family, targets) for family, targets in graphs}
    own = dg.Definitions(
        assets=[
            *(asset for family, targets in graphs for asset in family_assets(spec, family, targets)),
            scorecard_asset(spec),
        ],
        jobs=[*jobs.values(), scorecard_job(spec)],
        schedules=[nightly_schedule(spec, family, targets, jobs[family.name]) for family, targets in graphs],
        sensors=[checkpoint_sensor(spec, list(jobs.values())), *device_sensors(spec, list(jobs.values()))],
    )
    return dg.Definitions.merge(resource_definitions(), own)


@cache
def resource_definitions() -> dg.Definitions:
    """What every model needs: the same objects for each, so that Dagster merges them into one."""
    return dg.Definitions(
        resources=resources(),
        executor=dg.in_process_executor,  # a process per step would import torch again for each
    )


def location_definitions() -> dg.Definitions:
    """What a code location has once, whatever its models.

    Sensors, because Dagster copies those of each component, and takes none twice.
    """
    return dg.Definitions(sensors=[scorecard_sensor, dead_runs_sensor])
