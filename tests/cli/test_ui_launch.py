"""What a person starts goes before what automation queued: on Dagster's page in headless Chromium, and a backfill."""

import shutil
from pathlib import Path

import dagster as dg
from playwright.sync_api import Page, expect, sync_playwright

from edge_assets.toolchains.web.chromium import may_be_sandboxed
from tests.conftest import ROOT
from tests.serving import CHROMIUM, held_project, serving, wait_for

SHOTS = ROOT / "test-screenshots"
BACKFILL = """
mutation B($assets: [AssetKeyInput!], $partitions: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: $assets, partitionNames: $partitions}) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
CHECKPOINT = [{"path": ["tiny", "cpu", "checkpoint"]}]


def queued(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs that wait."""
    return list(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])))


def of_automation(runs: list[dg.DagsterRun]) -> list[dg.DagsterRun]:
    """Those that the sensor asked for."""
    return [run for run in runs if run.tags.get("dagster/priority") == "-10"]


def choose(page: Page, partition: str) -> None:
    """One partition of the first dimension of which none is chosen yet."""
    page.get_by_text("Select a partition").first.click()
    page.get_by_role("menuitem").filter(has_text=partition).click()
    page.keyboard.press("Escape")


def test_a_run_of_the_page_and_a_backfill_go_before_what_automation_queued(
    tmp_path: Path, checkpoint_file: Path
) -> None:
    project = held_project(tmp_path, checkpoint_file)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the browser test needs Chromium: apt-get install chromium"
    SHOTS.mkdir(exist_ok=True)
    with (
        serving(project) as served,
        dg.DagsterInstance.from_config(str(project.home / "dagster")) as instance,
        sync_playwright() as playwright,
    ):
        wait_for(lambda: len(queued(instance)) == 3, 180, "the sensor's runs wait behind the one that is held")
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM, chromium_sandbox=may_be_sandboxed()
        )
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        page.goto(f"{served.dagster}/locations/edge_assets/asset-groups/tiny_cpu")
        page.get_by_role("button", name="Materialize all").click()
        choose(page, "tiny-")  # the first of the two dimensions
        choose(page, "x86-64-avx2")
        page.screenshot(path=SHOTS / "dagster-launch.png")
        page.get_by_role("button", name="Launch 1 run").click()
        wait_for(lambda: len(queued(instance)) == 4, 60, "the page launches a run")
        (by_hand,) = [run.run_id for run in queued(instance) if "dagster/priority" not in run.tags]
        last = min(of_automation(queued(instance)), key=lambda run: run.tags["dagster/partition"])
        partitions = [last.tags["dagster/partition"]]
        answer = served.graphql(BACKFILL, assets=CHECKPOINT, partitions=partitions)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        wait_for(lambda: len(queued(instance)) == 5, 60, "the backfill's run waits too")
        page.goto(f"{served.dagster}/runs/{by_hand}")
        (tmp_path / "hold").unlink()
        expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=300_000)
        page.screenshot(path=SHOTS / "dagster-launched.png")
        run = instance.get_run_by_id(by_hand)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["dagster/partition"].endswith("|x86-64-avx2")
        of_backfill = dg.RunsFilter(tags={"dagster/backfill": answer["backfillId"]})
        wait_for(lambda: instance.get_runs(of_backfill)[0].is_finished, 120, "the backfill's run ends")
        waited = of_automation(queued(instance))
        assert len(waited) >= 2, "of the three that waited before, at most one has started since"
        for other in waited:
            instance.report_run_canceled(other)
        browser.close()
