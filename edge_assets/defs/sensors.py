"""The checkpoint sensor: a new file becomes a partition and its runs, once, by content.

A file counts when it has not changed since the last tick and its format says that it is whole, so a half-written one
never triggers. What was there before the sensor first ran becomes partitions, but only the newest is built:
registering a model with years of checkpoints does not start years of runs.
"""

import os
from typing import TYPE_CHECKING

import dagster as dg
from dagster import AssetSelection

from edge_assets.defs.arrivals import Cursor, look
from edge_assets.defs.assets import checkpoint_partitions
from edge_assets.defs.requests import SCORECARD_PRIORITY
from edge_assets.spec.model import ModelSpec
from resources.artifacts import ArtifactStoreResource

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# Seconds between ticks; also how long a file must lie unchanged.
INTERVAL = int(os.environ.get("EDGE_ASSETS_SENSOR_SECONDS", "15"))


def checkpoint_sensor(spec: ModelSpec, jobs: list["UnresolvedAssetJobDefinition"]) -> dg.SensorDefinition:
    """The sensor of one model's checkpoint folder."""

    @dg.sensor(
        name=f"{spec.name}_checkpoint_sensor",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Builds every target of {spec.name} when a new checkpoint lies in {spec.checkpoints}.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStoreResource) -> dg.SensorResult:
        cursor = Cursor.read(context.cursor)
        answer = look(spec, store.open(), context.instance, cursor, context.log.warning)
        partitions = checkpoint_partitions(spec)
        return dg.SensorResult(
            run_requests=answer.requests,
            dynamic_partitions_requests=[partitions.build_add_request(answer.partitions)] if answer.partitions else [],
            cursor=answer.cursor.write(),
        )

    return sensor


scorecard_sensor = dg.AutomationConditionSensorDefinition(
    name="scorecard_sensor",
    target=AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    run_tags=SCORECARD_PRIORITY,
    description="Rebuilds a checkpoint's scorecard when one of its releases changed.",
)
