"""What runs without anybody: jobs, the checkpoint sensor, the nightly schedule, the scorecard's condition."""

from edge_assets.automation.jobs import family_job, scorecard_job
from edge_assets.automation.recovery import dead_runs_sensor
from edge_assets.automation.schedules import nightly_schedule
from edge_assets.automation.sensors import checkpoint_sensor, scorecard_sensor

__all__ = [
    "checkpoint_sensor",
    "dead_runs_sensor",
    "family_job",
    "nightly_schedule",
    "scorecard_job",
    "scorecard_sensor",
]
