"""The real UIs in headless Chromium, behind a token: what was materialized and logged is there to be seen."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from edge_assets.toolchains.web.chromium import may_be_sandboxed
from tests.conftest import ROOT, Project
from tests.serving import CHROMIUM, Served, serving, tokens_in

SHOTS = ROOT / "test-screenshots"
TOKEN = "not+to/be=guessed&really"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`edge-assets serve` with a token over a copy of the built state."""
    project = built.copy_to(tmp_path_factory.mktemp("served"))
    with serving(project, TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Page]:
    """A browser that was opened at the address that `serve` printed."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the browser test needs Chromium: apt-get install chromium"
    SHOTS.mkdir(exist_ok=True)
    (printed,) = re.findall(r"Dagster +(\S+)", "".join(served.printed))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM, chromium_sandbox=may_be_sandboxed()
        )
        opened = browser.new_page(viewport={"width": 1500, "height": 950})
        opened.set_default_timeout(60_000)
        opened.goto(printed)
        assert "token" not in opened.url
        yield opened
        browser.close()


def test_without_the_token_nothing_is_answered(served: Served) -> None:
    for url in (served.dagster, served.mlflow):
        assert served.request("GET", f"{url}/").status == 401
        assert served.request("GET", f"{url}/server_info", Authorization="Bearer guessed").status == 401
        assert served.request("POST", f"{url}/graphql", "{}", Content_Type="application/json").status == 401
        page = served.request("GET", f"{url}/runs?a=<b>", Accept="text/html")
        assert page.status == 401
        assert "Sign in" in page.text
        assert "<b>" not in page.text
        wrong = served.request("GET", f"{url}/?token=guessed", Accept="text/html")
        assert wrong.status == 401
        assert "set-cookie" not in wrong.headers
    assert served.request("GET", f"{served.mlflow}/health").text == "OK"  # says that it is there, and no more
    with pytest.raises(InvalidStatus) as failed:
        connect(served.dagster.replace("http", "ws") + "/graphql", origin=Origin(served.dagster))
    assert failed.value.response.status_code == 401


def test_the_token_is_a_bearer_token_for_programs(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.request("GET", "/server_info", **BEARER).status == 200
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    assert MlflowClient(served.mlflow).get_experiment_by_name("tiny") is not None


def test_the_printed_address_signs_in_once_and_the_cookie_is_not_the_token(served: Served) -> None:
    quoted = tokens_in("".join(served.printed))
    assert len(quoted) == 3, "of Dagster, of MLflow, and of its table of variants"
    assert quoted[0] == quoted[1]
    answer = served.request("GET", f"/runs?view=all&token={quoted[0]}")
    assert answer.status == 303
    assert answer.headers["location"] == "/runs?view=all"
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(attributes)
    assert TOKEN not in cookie
    assert quoted[0] not in cookie
    for url in (served.dagster, served.mlflow):  # cookies do not know ports: one visit signs in to both
        assert served.request("GET", f"{url}/", Cookie=cookie).status == 200
    elsewhere = served.request("GET", f"//evil.example/?token={quoted[0]}")
    assert elsewhere.headers["location"].startswith("/evil.example")


def test_the_printed_address_of_mlflow_opens_on_the_experiments_of_model_training(served: Served, page: Page) -> None:
    assert page.context.browser is not None
    (printed,) = re.findall(r"MLflow +(\S+)", "".join(served.printed))
    opened = page.context.browser.new_context().new_page()  # a browser that has signed in nowhere yet
    opened.goto(printed)
    expect(opened.get_by_role("heading", name="Experiments")).to_be_visible(timeout=60_000)
    expect(opened.get_by_role("link", name="Model registry")).to_be_visible()
    expect(opened.get_by_role("link", name="tiny", exact=True)).to_be_visible()
    assert "token" not in opened.url
    (variants,) = re.findall(r"^ +tiny: (\S+)", "".join(served.printed), re.MULTILINE)
    opened.goto(variants)
    expect(opened.get_by_role("link", name="onnx_int8_static").first).to_be_visible(timeout=60_000)
    opened.context.close()


def test_the_token_does_not_open_the_door_for_other_sites(served: Served) -> None:
    assert served.request("GET", "/server_info", **BEARER, Host="evil.example").status == 403
    assert served.request("GET", "/server_info", **BEARER, Sec_Fetch_Site="cross-site").status == 403


def test_no_log_and_no_process_that_runs_user_code_holds_the_token(served: Served) -> None:
    for log in (served.project.home / "logs").iterdir():
        assert TOKEN not in log.read_text()
    for name, pid in served.processes().items():
        holds = f"EDGE_ASSETS_TOKEN={TOKEN}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        assert holds == ("edge_assets.cli.webservers" in name), name


def test_the_form_signs_in(served: Served, page: Page) -> None:
    assert page.context.browser is not None
    other = page.context.browser.new_context().new_page()  # a browser that knows nothing yet
    other.goto(f"{served.mlflow}/#/models")
    other.get_by_label("Token").fill("guessed")
    other.get_by_role("button").click()
    expect(other.get_by_text("This is not the token")).to_be_visible()
    other.get_by_label("Token").fill(TOKEN)
    other.get_by_role("button").click()
    expect(other.get_by_text("Experiments").first).to_be_visible(timeout=60_000)
    other.context.close()


def test_the_own_page_receives_what_it_subscribes_to(served: Served, page: Page) -> None:
    """Its WebSocket is signed in by the cookie."""
    page.goto(f"{served.dagster}/runs")
    answer = page.evaluate(
        """() => new Promise(resolve => {
          const socket = new WebSocket(location.origin.replace("http", "ws") + "/graphql", "graphql-ws");
          socket.onopen = () => socket.send(JSON.stringify({type: "connection_init"}));
          socket.onmessage = message => resolve(message.data);
          socket.onerror = () => resolve("refused");
        })"""
    )
    assert "connection_ack" in answer


def test_dagster_shows_the_materialized_partition(served: Served, page: Page) -> None:
    page.goto(f"{served.dagster}/assets/tiny/cpu/onnx_int8_static?view=partitions")
    expect(page.get_by_text("Materialized (1)")).to_be_visible(timeout=60_000)
    page.get_by_text("graviton3", exact=True).first.click()
    expect(page.get_by_text("drop_points", exact=True)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("int8_static_qdq_s8s8_perchannel_minmax").first).to_be_visible()
    page.screenshot(path=SHOTS / "dagster-partition.png")


def test_dagster_shows_the_checks(served: Served, page: Page) -> None:
    page.goto(f"{served.dagster}/assets/tiny/cpu/onnx_int8_static?view=checks")
    for check in ("parity", "accuracy", "size"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "dagster-checks.png")


def test_dagster_shows_the_graph(served: Served, page: Page) -> None:
    page.goto(f"{served.dagster}/locations/edge_assets/asset-groups/tiny_cpu")
    expect(page.get_by_text("benchmark_report").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "dagster-graph.png")


def test_mlflow_shows_the_runs(served: Served, page: Page) -> None:
    page.goto(served.mlflow)
    page.goto(f"{served.mlflow}/#/experiments/1/runs")
    expect(page.get_by_text(re.compile(r"graviton3 tiny-[0-9a-f]{8}")).first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "mlflow-runs.png")


def test_mlflow_shows_the_variants_of_a_checkpoint_and_sorts_them_by_a_click(
    built: Project, served: Served, page: Page
) -> None:
    """By the address that Dagster has: nothing has to be set up."""
    with dg.DagsterInstance.from_config(str(built.home / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["tiny", "cpu", "release"]))
    assert event is not None
    assert event.asset_materialization is not None
    link = str(event.asset_materialization.metadata["mlflow_variants"].value)
    page.goto("about:blank")
    page.goto(f"{served.mlflow}/#{link.partition('#')[2]}")
    expect(page.get_by_text("7 matching runs")).to_be_visible(timeout=60_000)
    assistant = page.get_by_role("button", name="Close", exact=True)  # beside the table until it is closed once
    if assistant.count():
        assistant.last.click()
    for column in ("size_bytes", "accuracy", "accuracy_drop_points", "parity_snr_db"):
        expect(page.get_by_test_id(f"sort-header-{column}")).to_be_visible()
    for tag in ("target", "verdict", "precision"):
        expect(page.get_by_role("columnheader", name=tag).first).to_be_visible()
    page.screenshot(path=SHOTS / "mlflow-variants.png")
    for direction in ("false", "true"):  # the first click sorts downwards
        page.get_by_test_id("sort-header-accuracy_drop_points").click()
        expect(page).to_have_url(re.compile(rf"accuracy_drop_points%60&orderByAsc={direction}"))
        expect(page.get_by_text("7 matching runs")).to_be_visible()


def test_mlflow_shows_the_registered_release(served: Served, page: Page) -> None:
    page.goto(f"{served.mlflow}/#/models/tiny.graviton3")
    expect(page.get_by_text("released").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "mlflow-release.png")
