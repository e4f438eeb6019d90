"""The checkpoint sensor: a new file becomes a partition and its runs, once, by content.

A file counts when it has not changed since the last tick and its format says that it is whole, so a half-written one
never triggers. What was there before the sensor first ran becomes partitions, but only the newest is built:
registering a model with years of checkpoints does not start years of runs.
"""

import os
from typing import TYPE_CHECKING

import dagster as dg
from dagster import AssetSelection

from edge_assets.addresses import without_credentials
from edge_assets.defs import freshness
from edge_assets.defs.arrivals import Answer, Cursor, look
from edge_assets.defs.assets import asset_key, checkpoint_partitions
from edge_assets.defs.requests import SCORECARD_PRIORITY
from edge_assets.defs.ticks import clear_tick_errors
from edge_assets.families.families import family_targets
from edge_assets.pipeline.identity import RELEASE
from edge_assets.spec.model import ModelSpec
from resources.artifacts import ArtifactStoreResource
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# Seconds between ticks; also how long a file must lie unchanged.
INTERVAL = int(os.environ.get("EDGE_ASSETS_SENSOR_SECONDS", "15"))
BY_HAND = "its spec says automation.on_checkpoint=False, so materialize its assets, or run edge-assets build"


def checkpoint_sensor(spec: ModelSpec, jobs: list["UnresolvedAssetJobDefinition"]) -> dg.SensorDefinition:
    """The sensor of one model's checkpoint folder."""

    @dg.sensor(
        name=f"{spec.name}_checkpoint_sensor",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=_description(spec),
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStoreResource) -> dg.SensorResult:
        partitions = checkpoint_partitions(spec)
        additions, events = [], []
        with clear_tick_errors(f"{spec.name}_checkpoint_sensor"):
            opened = store.open()
            answer = look(spec, opened, context.instance, Cursor.read(context.cursor), context.log.warning)
            if answer.partitions:
                additions.append(partitions.build_add_request(answer.partitions))
                events += _release_checks(spec, opened)
        return dg.SensorResult(
            run_requests=answer.requests,
            skip_reason=None if answer.requests else _why_nothing_starts(spec, answer),
            dynamic_partitions_requests=additions,
            cursor=answer.cursor.write(),
            asset_events=events,
        )

    return sensor


def _release_checks(spec: ModelSpec, store: ArtifactStore) -> list[dg.AssetCheckEvaluation]:
    """Whether each family's release is of the newest checkpoint, now that one has arrived."""
    evaluations = []
    for family, targets in family_targets(spec):
        passed, sentence = freshness.is_newest_released(spec, family, targets, store)
        evaluations.append(freshness.evaluation(asset_key(spec, family, RELEASE), passed, sentence))
    return evaluations


def _description(spec: ModelSpec) -> str:
    folder = without_credentials(spec.checkpoints)
    if spec.automation.on_checkpoint:
        return f"Builds every target of {spec.name} when a new checkpoint lies in {folder}."
    return f"Makes each new checkpoint in {folder} a partition of {spec.name}, and starts nothing: {BY_HAND}."


def _why_nothing_starts(spec: ModelSpec, answer: Answer) -> str:
    """What Dagster shows of a tick without runs."""
    if not spec.automation.on_checkpoint:
        added = f"new partitions: {len(answer.partitions)}. " if answer.partitions else ""
        return f"{added}{spec.name} is built when somebody asks for it: {BY_HAND}"
    if answer.cursor.waiting:
        return "waiting for checkpoints to settle"
    return "no new checkpoint to build"


scorecard_sensor = dg.AutomationConditionSensorDefinition(
    name="scorecard_sensor",
    target=AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    run_tags=SCORECARD_PRIORITY,
    description="Rebuilds a checkpoint's scorecard when one of its releases changed.",
)
