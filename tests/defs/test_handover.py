"""What one asset hands to the next: a report has all that a release is made from; an earlier version's has not."""

import json
from pathlib import Path

import dagster as dg
import pytest
from dagster import PythonObjectDagsterType

from edge_assets.core.types import Recipe, Report, Result
from edge_assets.defs.resources import store_resource
from resources.artifacts import ArtifactStoreResource, PointerIOManager
from tests.conftest import Project


def report_pointer(project: Project) -> Path:
    """Where the report of the one cell that was built is handed on."""
    (path,) = (project.home / "store" / "pointers" / "assets" / "tiny" / "cpu" / "benchmark_report").rglob("*.json")
    return path


def handed_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> object:
    """What the asset that takes a report would get."""
    monkeypatch.setenv("EDGE_ASSETS_HOME", str(project.home))
    path = report_pointer(project)
    context = dg.build_input_context(
        asset_key=dg.AssetKey(["tiny", "cpu", "benchmark_report"]),
        partition_key=f"{path.parent.name}|{path.stem}",
        dagster_type=PythonObjectDagsterType(Report),
    )
    return PointerIOManager(store=store_resource()).load_input(context)


def test_the_report_hands_on_the_variants_that_it_judged_and_their_measurement(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = handed_on(built, monkeypatch)
    assert isinstance(report, Report)
    names = list(report.by_name)
    assert names[:2] == ["checkpoint", "onnx_model"]
    assert "torch_int8" in names
    assert report.measurement.recipe.step == "measurement"
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_what_an_earlier_version_handed_on_is_written_again_without_building_anything(
    copy_of_built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = report_pointer(copy_of_built)
    former = json.loads(path.read_text())["value"]["measurement"]
    path.write_text(json.dumps({"type": "Result", "value": former}))
    with pytest.raises(dg.Failure, match="has no result for partition .* materialize it first"):
        handed_on(copy_of_built, monkeypatch)
    memos = {memo: memo.read_bytes() for memo in (copy_of_built.home / "store" / "recipes").rglob("*.json")}
    result = copy_of_built.build()
    assert result.returncode == 0, result.stderr
    assert "benchmark_report: an earlier version handed on less than its release needs" in result.stdout
    assert isinstance(handed_on(copy_of_built, monkeypatch), Report)
    assert {memo: memo.read_bytes() for memo in (copy_of_built.home / "store" / "recipes").rglob("*.json")} == memos
    assert "1 up to date" in copy_of_built.build().stdout


def test_a_report_of_variants_that_have_changed_since_is_not_current(copy_of_built: Project) -> None:
    path = report_pointer(copy_of_built)
    kept = json.loads(path.read_text())
    checkpoint, *others = kept["value"]["builts"]
    kept["value"]["builts"] = [checkpoint, *others[1:]]
    path.write_text(json.dumps(kept))
    assert "benchmark_report: an earlier result applies again" in copy_of_built.build().stdout


def test_a_store_that_fails_between_two_assets_is_one_message_as_within_one(tmp_path: Path) -> None:
    store = ArtifactStoreResource(root="http://127.0.0.1:1/store", cache=str(tmp_path))
    manager = PointerIOManager(store=store)
    key, partition = dg.AssetKey(["tiny", "cpu", "checkpoint"]), "e1-00000000|graviton3"
    taken = dg.build_input_context(
        asset_key=key,
        partition_key=partition,
        dagster_type=PythonObjectDagsterType(Result),
    )
    given = dg.build_output_context(asset_key=key, partition_key=partition)
    for hand_on in (
        lambda: manager.load_input(taken),
        lambda: manager.handle_output(given, Result(Recipe("example", "1"), None, {})),
    ):
        with pytest.raises(dg.Failure) as failed:
            hand_on()
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__, "Dagster shows none of what led to it"
        assert (failed.value.description or "").startswith("cannot read http://127.0.0.1:1/store/store.json: ")
        assert not failed.value.allow_retries
