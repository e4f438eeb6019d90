"""A served Dagster: a dropped file becomes runs once, and what a person starts on its page goes before them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from edge_assets.toolchains.web.chromium import may_be_sandboxed
from tests.conftest import ROOT, Project
from tests.serving import CHROMIUM, Served, brisk_instance, serving, wait_for

SHOTS = ROOT / "test-screenshots"
BACKFILL = """
mutation B($assets: [AssetKeyInput!], $partitions: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: $assets, partitionNames: $partitions}) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
CHECKPOINT = [{"path": ["tiny", "cpu", "checkpoint"]}]
TARGETS = ["graviton3", "raspberry-pi-5", "x86-64-avx2"]
BY_HAND = "x86-64-avx2"
RELEASE_CHECK = dg.AssetCheckKey(dg.AssetKey(["tiny", "cpu", "release"]), "newest_checkpoint")
QUEUED = dg.DagsterRunStatus.QUEUED


def watched_project(folder: Path) -> Project:
    """Without a checkpoint yet; runs wait in the first step while `hold` is there; the sensor looks often."""
    (folder / "checkpoints").mkdir()
    (folder / "hold").touch()
    environment = {
        "EDGE_ASSETS_SENSOR_SECONDS": "2",
        "EDGE_ASSETS_MODELS": "tests.tiny.held:HELD_ON_THREE",
        "TINY_HOLD": str(folder / "hold"),
    }
    brisk_instance(folder / "home")
    return Project(folder / "home", folder / "checkpoints", environment)


@pytest.mark.slow
def test_a_dropped_file_becomes_its_runs_once_and_what_a_person_starts_goes_before_them(
    tmp_path: Path, checkpoint_file: Path
) -> None:
    project = watched_project(tmp_path)
    dropped = project.checkpoints / "step-100.safetensors"
    with serving(project) as served, dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance:
        a_file_that_is_still_written_starts_nothing(instance, dropped, checkpoint_file.read_bytes())
        shutil.copy(checkpoint_file, dropped)
        wait_for(lambda: len(waiting(instance)) == 2, 120, "the sensor's runs wait behind the one that is held")
        (key,) = instance.get_dynamic_partitions("tiny_checkpoints")
        assert sorted(asked(instance)) == [f"{key}|{target}" for target in TARGETS]

        with dagsters_page(served) as page:
            by_hand = launched_on_the_page(page, instance)
            backfill = launched_as_a_backfill(served, instance)
            page.goto("about:blank")  # the page of a run that goes on is drawn without pause, which takes a core
            (tmp_path / "hold").unlink()
            wait_for(lambda: by_hand in finished(instance), 300, "the page's run ends")
            held, last, again = (asked(instance)[f"{key}|{target}"] for target in TARGETS)
            assert again.status == QUEUED
            instance.report_run_canceled(again)  # which would find all made by hand
            page.goto(f"{served.dagster}/runs/{by_hand}")
            expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=60_000)
            page.screenshot(path=SHOTS / "dagster-launched.png")
        every = [f"{key}|{target}" for target in TARGETS[:2]]
        wait_for(lambda: succeeded(instance) == every, 300, "the sensor's other runs end")
        assert started(instance, held.run_id, last.run_id, backfill, by_hand) == [
            held.run_id,
            by_hand,
            backfill,
            last.run_id,
        ]
        assert release_checks(instance) == [
            (False, f"{key}, the newest checkpoint, is not released yet for graviton3, raspberry-pi-5, x86-64-avx2"),
            (False, f"{key}, the newest checkpoint, is not released yet for raspberry-pi-5, x86-64-avx2"),
            (False, f"{key}, the newest checkpoint, is not released yet for raspberry-pi-5"),
            (True, f"{key}, the newest checkpoint, is released for every target"),
        ]
        the_same_content_again_starts_nothing(instance, dropped)
        scorecard = dg.AssetKey(["tiny", "scorecard"])
        wait_for(lambda: key in instance.get_materialized_partitions(scorecard), 90, "the scorecard is there")


def a_file_that_is_still_written_starts_nothing(instance: dg.DagsterInstance, dropped: Path, content: bytes) -> None:
    wait_for(lambda: ticks(instance) >= 1, 90, "the sensor has seen the empty folder")
    dropped.write_bytes(content[: len(content) // 2])
    seen = ticks(instance)
    wait_for(lambda: ticks(instance) >= seen + 3, 60, "the sensor has seen that the file stays as it is")
    assert asked(instance) == {}
    assert instance.get_dynamic_partitions("tiny_checkpoints") == []


def the_same_content_again_starts_nothing(instance: dg.DagsterInstance, dropped: Path) -> None:
    before = {run.run_id for run in asked(instance).values()}
    partitions = instance.get_dynamic_partitions("tiny_checkpoints")
    shutil.copy(dropped, dropped.with_name("the-same-again.safetensors"))
    dropped.touch()
    seen = ticks(instance)
    wait_for(lambda: ticks(instance) >= seen + 4, 60, "the sensor has seen the other file")
    assert {run.run_id for run in asked(instance).values()} == before
    assert instance.get_dynamic_partitions("tiny_checkpoints") == partitions


# --- what a person starts ------------------------------------------------------------------------------


@contextmanager
def dagsters_page(served: Served) -> Iterator[Page]:
    """The assets of the tiny model."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the browser test needs Chromium: apt-get install chromium"
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM, chromium_sandbox=may_be_sandboxed()
        )
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        page.goto(f"{served.dagster}/locations/edge_assets/asset-groups/tiny_cpu")
        yield page
        browser.close()


def choose(page: Page, partition: str) -> None:
    """One partition of the first dimension of which none is chosen yet."""
    page.get_by_text("Select a partition").first.click()
    page.get_by_role("menuitem").filter(has_text=partition).click()
    page.keyboard.press("Escape")


def launched_on_the_page(page: Page, instance: dg.DagsterInstance) -> str:
    """A run of all assets, by its id, which waits."""
    before = len(waiting(instance))
    page.get_by_role("button", name="Materialize all").click()
    choose(page, "step-100-")  # the first of the two dimensions
    choose(page, BY_HAND)
    page.screenshot(path=SHOTS / "dagster-launch.png")
    page.get_by_role("button", name="Launch 1 run").click()
    wait_for(lambda: len(waiting(instance)) == before + 1, 60, "the page launches a run")
    (run,) = [run for run in waiting(instance) if not is_of_automation(run)]
    assert "dagster/priority" not in run.tags
    assert run.tags["dagster/partition"].endswith(f"|{BY_HAND}")
    return run.run_id


def launched_as_a_backfill(served: Served, instance: dg.DagsterInstance) -> str:
    """A run of the first asset of the partition that waits last, by its id, which waits too."""
    before = [run.run_id for run in waiting(instance)]
    last = min(run.tags["dagster/partition"] for run in waiting(instance) if is_of_automation(run))
    answer = served.graphql(BACKFILL, assets=CHECKPOINT, partitions=[last])["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    wait_for(lambda: len(waiting(instance)) == len(before) + 1, 60, "the backfill's run waits too")
    (run,) = [run for run in waiting(instance) if run.run_id not in before]
    assert run.tags["dagster/backfill"] == answer["backfillId"]
    return run.run_id


# --- what the instance knows ---------------------------------------------------------------------------


def waiting(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(statuses=[QUEUED])))


def finished(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the runs that have come to an end, good or bad."""
    return {run.run_id for run in instance.get_runs() if run.is_finished}


def is_of_automation(run: dg.DagsterRun) -> bool:
    return run.tags.get("dagster/priority") == "-10"


def asked(instance: dg.DagsterInstance) -> dict[str, dg.DagsterRun]:
    """What the checkpoint sensor asked for, by partition: each once."""
    found = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "tiny_checkpoint_sensor"}))
    by_partition = {run.tags["dagster/partition"]: run for run in found}
    assert len(by_partition) == len(found)
    return by_partition


def started(instance: dg.DagsterInstance, *ids: str) -> list[str]:
    """These runs in the order in which they started."""
    records = instance.get_run_records(dg.RunsFilter(run_ids=list(ids)))
    assert all(record.start_time for record in records)
    return [record.dagster_run.run_id for record in sorted(records, key=lambda record: record.start_time or 0)]


def succeeded(instance: dg.DagsterInstance) -> list[str]:
    """Partitions of the sensor's runs that succeeded."""
    found = asked(instance)
    return sorted(partition for partition, run in found.items() if run.status == dg.DagsterRunStatus.SUCCESS)


def ticks(instance: dg.DagsterInstance) -> int:
    """How often the checkpoint sensor has been evaluated."""
    states = [s for s in instance.all_instigator_state() if s.instigator_name == "tiny_checkpoint_sensor"]
    return sum(len(instance.get_ticks(state.instigator_origin_id, state.selector_id)) for state in states)


def release_checks(instance: dg.DagsterInstance) -> list[tuple[bool, str]]:
    """What was said of the tiny model's releases, the earliest first: whether they are of the newest checkpoint."""
    events = []
    for record in instance.event_log_storage.get_asset_check_execution_history(RELEASE_CHECK, limit=10):
        event = record.event
        if event and event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            events.append(event)
    said = []
    for event in sorted(events, key=lambda event: event.timestamp):  # not as their runs were asked for
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        said.append((evaluation.passed, evaluation.description or ""))
    return said
