"""All Dagster: assets, checks, jobs, sensors, schedules, resources, and the instance they run in."""
