"""The sensor that closes runs whose process is gone, and kills processes whose run is, so that the queue goes on."""

import os

import dagster as dg

from edge_assets.defs.running import close_dead_runs, kill_deaf_workers
from edge_assets.defs.ticks import clear_tick_errors

INTERVAL = int(os.environ.get("EDGE_ASSETS_RECOVERY_SECONDS", "60"))


@dg.sensor(
    name="dead_runs_sensor",
    minimum_interval_seconds=INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Marks runs as failed whose process was killed, or went down with its machine. Kills processes that go on "
        "after their run was ended."
    ),
)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Launches nothing: a model's sensor and schedule, and people, know what is to be run again."""
    with clear_tick_errors("dead_runs_sensor"):
        closed = close_dead_runs(context.instance)
        killed = kill_deaf_workers(context.instance)
    for run in closed:
        context.log.warning(f"closed {run.run_id} ({run.job_name}), whose process is gone")
    for run in killed:
        context.log.warning(f"killed the process of {run.run_id} ({run.job_name}), which had ended")
    return dg.SkipReason(f"{len(closed)} dead runs were closed" if closed else "no dead runs")
