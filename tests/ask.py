"""Evaluates the tiny model's schedule or sensor in the project of the working folder and prints the answers as JSON.

python -m tests.ask schedule | python -m tests.ask sensor TIMES
"""

import json
import sys
from datetime import datetime

import dagster as dg

from edge_assets.definitions import defs
from edge_assets.defs.instance import open_instance
from edge_assets.defs.resources import store_resource
from edge_assets.settings import home


def schedule(instance: dg.DagsterInstance) -> dict[str, object]:
    """The nightly schedule's runs, or why there are none."""
    repository = defs.get_repository_def()
    context = dg.build_schedule_context(
        instance,
        repository_def=repository,
        resources={"store": store_resource()},
        scheduled_execution_time=datetime(2026, 1, 1, 2),
    )
    data = repository.get_schedule_def("tiny_cpu_nightly").evaluate_tick(context)
    return {"runs": [run.partition_key for run in data.run_requests or []], "skip": data.skip_message}


def sensor(instance: dg.DagsterInstance, times: int) -> list[dict[str, object]]:
    """The checkpoint sensor's runs and new partitions, tick after tick; the partitions are added, as a daemon would."""
    repository = defs.get_repository_def()
    answers, cursor = [], None
    for _ in range(times):
        context = dg.build_sensor_context(
            instance, cursor=cursor, repository_def=repository, resources={"store": store_resource()}
        )
        data = repository.get_sensor_def("tiny_checkpoint_sensor")(context)
        cursor = data.cursor
        added = [key for request in data.dynamic_partitions_requests or [] for key in request.partition_keys]
        instance.add_dynamic_partitions("tiny_checkpoints", added)
        answers.append({"runs": [run.partition_key for run in data.run_requests or []], "added": added})
    return answers


if __name__ == "__main__":
    with open_instance(home()) as opened:
        print(json.dumps(schedule(opened) if sys.argv[1] == "schedule" else sensor(opened, int(sys.argv[2]))))
