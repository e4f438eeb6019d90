"""The sensor that measures what waited for a device, once the device is back."""

import os
from typing import TYPE_CHECKING

import dagster as dg

from edge_assets.defs.assets import partition_key
from edge_assets.defs.jobs import family_job_name
from edge_assets.defs.requests import PRIORITY, Runs
from edge_assets.defs.ticks import clear_tick_errors
from edge_assets.devices.inventory import Device, devices
from edge_assets.families.families import family_targets
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.plan import plan
from edge_assets.spec.architecture import fitting_digest
from edge_assets.spec.model import ModelSpec
from resources import checkpoints
from resources.artifacts import ArtifactStoreResource

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

    from resources.checkpoints import Checkpoint
    from resources.store import ArtifactStore

INTERVAL = int(os.environ.get("EDGE_ASSETS_DEVICES_SECONDS", "60"))
WAITED = ("measurement", "observation", "engine")  # steps that only a device can do


def device_sensors(spec: ModelSpec, jobs: list["UnresolvedAssetJobDefinition"]) -> list[dg.SensorDefinition]:
    """The sensor of a model's devices, where the project has one for a target of the model's."""
    mine = [device for device in devices().devices.values() if device.target in spec.targets]
    asked = [device for device in mine if device.kind in ("ssh", "local")]
    return [_sensor(spec, asked, jobs)] if asked else []


def _sensor(spec: ModelSpec, mine: list[Device], jobs: list["UnresolvedAssetJobDefinition"]) -> dg.SensorDefinition:
    names = ", ".join(device.name for device in mine)

    @dg.sensor(
        name=f"{spec.name}_devices_sensor",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Measures what waited for a device of {spec.name} once it answers: {names}.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStoreResource) -> dg.SensorResult:
        from edge_assets.devices.reach import asked

        with clear_tick_errors(f"{spec.name}_devices_sensor"):
            answers = [asked(device) for device in mine]
            here = {answer.device.target for answer in answers if answer.hello}
            opened = store.open()
            newest = checkpoints.newest(opened, spec.name, fitting_digest(spec))
            requests = []
            if here and newest:
                requests = _waited(spec, here, newest, opened, Runs(context.instance))
        away = [answer.reason for answer in answers if answer.reason]
        reason = "; ".join(away) or "nothing waits for a device"
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else reason)

    return sensor


def _waited(
    spec: ModelSpec, targets: set[str], newest: "Checkpoint", store: "ArtifactStore", runs: Runs
) -> list[dg.RunRequest]:
    """One request per target whose cell was built, and lacks what its device alone can say."""
    requests = []
    for family, of_family in family_targets(spec):
        for target in of_family:
            cell = Cell(spec, family, target, newest, store, lambda _line: None)
            if target.name not in targets or runs.is_unfinished(spec, family, cell.partition):
                continue
            reason = plan(cell, runs.materialized, mode="rapid").reason or ""
            if reason.startswith(WAITED) and runs.has(spec, family, newest.key):
                requests.append(
                    dg.RunRequest(
                        job_name=family_job_name(spec, family),
                        partition_key=partition_key(cell),
                        tags={"edge_assets/reason": reason[:250], **PRIORITY},
                    )
                )
    return requests
