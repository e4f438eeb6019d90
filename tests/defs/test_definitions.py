"""What Dagster loads: the asset graph, the two YAML files, and how light the import is."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from edge_assets.defs.location import model_definitions
from tests.conftest import ROOT
from tests.tiny.spec import TINY

SNAPSHOT = Path(__file__).with_name("asset_graph.json")
HEAVY = ["torch", "coremltools", "onnx", "onnxruntime", "mlflow", "pandas", "matplotlib", "sklearn", "boto3"]
HEAVY += ["numpy", "fsspec", "dagster_aws"]
HEAVY += ["executorch", "torchao", "litert_torch", "ai_edge_litert", "tensorrt_rtx", "playwright"]


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    from edge_assets.definitions import defs

    return defs


def test_the_asset_graph_is_what_it_was(defs: dg.Definitions) -> None:
    """`python -m tests.defs.test_definitions` updates it."""
    assert graph(defs) == json.loads(SNAPSHOT.read_text())


def graph(defs: dg.Definitions) -> dict[str, dict[str, object]]:
    """Key, upstream keys, group, kinds, checks and partition dimensions of every asset."""
    found = {}
    for key in sorted(defs.resolve_asset_graph().get_all_asset_keys()):
        if key.path[0] != "digits":
            continue
        node = defs.resolve_asset_graph().get(key)
        assert node.partitions_def is not None
        found[key.to_user_string()] = {
            "upstream": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "checks": sorted(check.name for check in node.check_keys),
            "partitions": getattr(node.partitions_def, "partition_dimension_names", ["checkpoint"]),
            "code_version": node.code_version,
        }
    return found


def test_every_asset_has_description_owner_kind_and_code_version(defs: dg.Definitions) -> None:
    for key in defs.resolve_asset_graph().get_all_asset_keys():
        node = defs.resolve_asset_graph().get(key)
        assert node.description, key
        assert node.kinds, key
        assert node.code_version, key
        assert node.owners or key.path[0] == "tiny", key


def test_jobs_sensors_and_schedules(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    assert {"digits_cpu", "digits_scorecard"} <= {job.name for job in repository.get_all_jobs()}
    assert {sensor.name for sensor in repository.sensor_defs} >= {"digits_checkpoint_sensor", "scorecard_sensor"}
    assert {schedule.name for schedule in repository.schedule_defs} >= {"digits_cpu_nightly"}


def test_examples_are_built_when_asked_and_other_models_by_themselves(defs: dg.Definitions) -> None:
    schedules = {schedule.name: schedule.default_status for schedule in defs.get_repository_def().schedule_defs}
    assert set(schedules.values()) == {dg.DefaultScheduleStatus.STOPPED}, "digits, twice, and minilm"
    (own,) = model_definitions(TINY).schedules or []
    assert isinstance(own, dg.ScheduleDefinition)
    assert own.default_status == dg.DefaultScheduleStatus.RUNNING
    for sensor in defs.get_repository_def().sensor_defs:
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING, "they still make partitions"


def test_importing_the_definitions_is_light() -> None:
    code = f"import sys, edge_assets.definitions; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_workspace_yaml_loads_in_dagster() -> None:
    executable = Path(sys.executable).parent / "dagster"
    result = subprocess.run(
        [executable, "definitions", "validate", "-w", "workspace.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_dagster_cloud_yaml_is_valid() -> None:
    from dagster_cloud_cli.config.models import DagsterCloudYaml

    loaded = DagsterCloudYaml.model_validate(yaml.safe_load((ROOT / "dagster_cloud.yaml").read_text()))
    (location,) = loaded.locations
    assert location.code_source is not None
    assert location.code_source.module_name == "edge_assets.definitions"


if __name__ == "__main__":
    from edge_assets.definitions import defs as definitions

    SNAPSHOT.write_text(json.dumps(graph(definitions), indent=1) + "\n")
