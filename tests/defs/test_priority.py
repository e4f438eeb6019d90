"""What a person starts goes before what automation has queued: a run, and a backfill of Dagster's UI."""

from pathlib import Path

import dagster as dg

from tests.serving import Served, held_project, serving, wait_for

BACKFILL = """
mutation B($assets: [AssetKeyInput!], $partitions: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: $assets, partitionNames: $partitions}) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
LAUNCH = """
mutation L($tags: [ExecutionTag!], $assets: [AssetKeyInput!]) { launchRun(executionParams: {
  selector: {repositoryName: "__repository__", repositoryLocationName: "edge_assets", jobName: "__ASSET_JOB",
  assetSelection: $assets}, runConfigData: {}, executionMetadata: {tags: $tags}})
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation T($run: String!) { terminateRun(runId: $run) { __typename } }"
CHECKPOINT = [{"path": ["tiny", "cpu", "checkpoint"]}]


def runs(instance: dg.DagsterInstance, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
    """Runs of any of these statuses."""
    return list(instance.get_runs(dg.RunsFilter(statuses=list(statuses))))


def started_after(served: Served, instance: dg.DagsterInstance, former: dg.DagsterRun) -> dg.DagsterRun:
    """End a run, and return the one that starts next."""
    served.graphql(TERMINATE, run=former.run_id)
    wait_for(lambda: instance.get_run_by_id(former.run_id).is_finished, 60, "the run ends")  # type: ignore[union-attr]
    wait_for(lambda: runs(instance, dg.DagsterRunStatus.STARTED), 120, "another starts")
    (running,) = runs(instance, dg.DagsterRunStatus.STARTED)
    return running


def test_a_run_and_a_backfill_that_a_person_starts_go_before_what_automation_queued(
    tmp_path: Path, checkpoint_file: Path
) -> None:
    project = held_project(tmp_path, checkpoint_file)
    with serving(project) as served, dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance:
        wait_for(lambda: runs(instance, dg.DagsterRunStatus.STARTED), 180, "a run of the sensor starts")
        wait_for(lambda: len(runs(instance, dg.DagsterRunStatus.QUEUED)) == 3, 60, "its other runs wait")
        (first,) = runs(instance, dg.DagsterRunStatus.STARTED)
        last = min(runs(instance, dg.DagsterRunStatus.QUEUED), key=lambda run: run.tags["dagster/partition"])
        partition = last.tags["dagster/partition"]
        answer = served.graphql(BACKFILL, assets=CHECKPOINT, partitions=[partition])["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        backfill = answer["backfillId"]
        wait_for(lambda: len(runs(instance, dg.DagsterRunStatus.QUEUED)) == 4, 60, "the backfill's run waits too")
        checkpoint, _, target = partition.partition("|")
        tags = {
            "dagster/partition": partition,
            "dagster/partition/checkpoint": checkpoint,
            "dagster/partition/target": target,
        }
        listed = [{"key": name, "value": value} for name, value in tags.items()]
        answer = served.graphql(LAUNCH, assets=CHECKPOINT, tags=listed)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer

        second = started_after(served, instance, first)
        assert second.tags.get("dagster/backfill") == backfill, "started by hand before the other"
        third = started_after(served, instance, second)
        assert third.run_id == answer["run"]["runId"], "asked for last of all"
        fourth = started_after(served, instance, third)
        assert fourth.tags["dagster/priority"] == "-10"
        served.graphql(TERMINATE, run=fourth.run_id)
