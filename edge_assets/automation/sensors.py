"""The checkpoint sensor: a new file becomes a partition and its runs, once, by content.

A file counts when its size and time have not changed since the last tick and its format says that it is
whole, so a half-written one never triggers. What was there before the sensor first ran becomes partitions,
but only the newest is built: registering a model with years of checkpoints does not start years of runs.
"""

import json
import os
from typing import Any

import dagster as dg
from dagster import AssetSelection
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from edge_assets.assets.families import family_targets
from edge_assets.assets.graph import checkpoint_partitions
from edge_assets.automation.requests import stale_requests
from edge_assets.core.errors import CheckpointError
from edge_assets.model import ModelSpec
from edge_assets.registry import checkpoint_folder
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource

# Seconds between ticks; also how long a file must lie unchanged.
INTERVAL = int(os.environ.get("EDGE_ASSETS_SENSOR_SECONDS", "15"))


def checkpoint_sensor(spec: ModelSpec, jobs: list[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    """The sensor of one model's checkpoint folder."""

    @dg.sensor(
        name=f"{spec.name}_checkpoint_sensor",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Builds every target of {spec.name} when a new checkpoint lies in {spec.checkpoints}.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStoreResource) -> dg.SensorResult:
        opened = store.open()
        cursor: dict[str, Any] = json.loads(context.cursor or '{"seen": {}, "done": {}, "first": true}')
        seen = {file.url: file.stamp for file in checkpoints.list_files(checkpoint_folder(spec))}
        settled = {url: stamp for url, stamp in seen.items() if cursor["seen"].get(url) == stamp}
        waiting = {url: stamp for url, stamp in settled.items() if cursor["done"].get(url) != stamp}
        found = []
        for url in waiting:
            try:
                found.append(checkpoints.register(opened, spec.name, url))
            except CheckpointError as error:
                context.log.warning(f"not a whole checkpoint, left alone until it changes: {error}")
        is_first = cursor["first"] and not found
        after = {
            "seen": seen,
            "done": {u: s for u, s in {**cursor["done"], **waiting}.items() if u in seen},
            "first": is_first,
        }
        partitions = checkpoint_partitions(spec)
        known = set(context.instance.get_dynamic_partitions(partitions.name or ""))
        new = [c for c in dict.fromkeys(found) if c.key not in known]
        building = new[-1:] if cursor["first"] else new
        requests = [
            request
            for checkpoint in building
            for family, targets in family_targets(spec)
            for request in stale_requests(
                spec, family, targets, checkpoint, opened, context.instance, checkpoint.file.sha256
            )
        ]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[partitions.build_add_request([c.key for c in new])] if new else [],
            cursor=json.dumps(after),
        )

    return sensor


scorecard_sensor = dg.AutomationConditionSensorDefinition(
    name="scorecard_sensor",
    target=AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Rebuilds a checkpoint's scorecard when one of its releases changed.",
)
