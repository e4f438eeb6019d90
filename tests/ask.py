"""Evaluates the tiny model's schedule or sensor in the project of the working folder and prints the answers as JSON.

python -m tests.ask schedule | python -m tests.ask sensor TIMES
"""

import json
import sys
from datetime import datetime
from typing import TypedDict

import dagster as dg

from edge_assets.definitions import defs
from edge_assets.defs.instance import open_instance
from edge_assets.defs.resources import store_resource
from edge_assets.settings import home


class Night(TypedDict):
    """What a nightly schedule answers: the partitions of its runs, and why there are none."""

    runs: list[str | None]
    skip: str | None


class Tick(TypedDict):
    """What a sensor answers: the partitions of its runs, and those that are new."""

    runs: list[str | None]
    added: list[str]


def schedule(instance: dg.DagsterInstance) -> Night:
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


def sensor(instance: dg.DagsterInstance, times: int) -> list[Tick]:
    """The checkpoint sensor's runs and new partitions, tick after tick; the partitions are added, as a daemon would."""
    repository = defs.get_repository_def()
    answers: list[Tick] = []
    cursor: str | None = None
    for _ in range(times):
        context = dg.build_sensor_context(
            instance, cursor=cursor, repository_def=repository, resources={"store": store_resource()}
        )
        data = repository.get_sensor_def("tiny_checkpoint_sensor")(context)
        assert isinstance(data, dg.SensorResult)
        cursor = data.cursor
        added = [key for request in data.dynamic_partitions_requests or [] for key in request.partition_keys]
        instance.add_dynamic_partitions("tiny_checkpoints", added)
        answers.append({"runs": [run.partition_key for run in data.run_requests or []], "added": added})
    return answers


if __name__ == "__main__":
    with open_instance(home()) as opened:
        print(json.dumps(schedule(opened) if sys.argv[1] == "schedule" else sensor(opened, int(sys.argv[2]))))
