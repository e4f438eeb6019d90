"""Prints what Dagster loads: names of jobs, schedules and sensors, and every asset's code version, as JSON."""

import json

from edge_assets.definitions import defs

if __name__ == "__main__":
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    found = {
        "assets": {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()},
        "jobs": sorted(job.name for job in repository.get_all_jobs()),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }
    print(json.dumps(found))
