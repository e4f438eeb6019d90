"""Who can reach the servers: routes that a web page has to them, one by one and from a real page, and the token."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from edge_assets.toolchains.web.chromium import may_be_sandboxed
from tests.conftest import Project
from tests.serving import CHROMIUM, Answer, Served, serving, wait_for

MUTATION = (
    'mutation { addDynamicPartition(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: '
    '"edge_assets"}, partitionsDefName: "tiny_checkpoints", partitionKey: "%s") { __typename } }'
)
LAUNCH = """
mutation Launch($config: RunConfigData!, $tags: [ExecutionTag!]) { launchRun(executionParams: {
  selector: {repositoryName: "__repository__", repositoryLocationName: "edge_assets", jobName: "tiny_cpu"},
  runConfigData: $config, executionMetadata: {tags: $tags}})
  { __typename ... on RunConfigValidationInvalid { errors { message } } ... on PythonError { message } } }"""
RESOURCE = """
query R($name: String!) { topLevelResourceDetailsOrError(resourceSelector: {repositoryName: "__repository__",
  repositoryLocationName: "edge_assets", resourceName: $name}) { __typename
  ... on ResourceDetails { configuredValues { key value type } } } }"""
FOREIGN = {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site", "Referer": "http://evil.example/"}
IMAGE = {"Referer": "http://evil.example/", "Sec_Fetch_Site": "cross-site", "Accept": "image/*"}
ADDED = '{ assetNodeOrError(assetKey: {path: ["tiny", "scorecard"]}) { ... on AssetNode { partitionKeys } } }'
JSON = "application/json"
ALLOWED = ("models.example.com", "mlflow.example.com:8443")  # besides the loopback names


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`edge-assets serve` over an empty state folder."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "checkpoints").mkdir()
    environment = {"EDGE_ASSETS_ALLOWED_HOSTS": ",".join(ALLOWED)}
    with serving(Project(folder / "home", folder / "checkpoints", environment)) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the browser test needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM, chromium_sandbox=may_be_sandboxed()
        )
        yield browser.new_page()
        browser.close()


def partitions(served: Served) -> list[str]:
    return served.graphql(ADDED)["assetNodeOrError"]["partitionKeys"]


def as_query(key: str) -> str:
    return f"/graphql?query={quote(MUTATION % key)}"


def as_json(key: str) -> str:
    return json.dumps({"query": MUTATION % key})


def refused(answer: Answer) -> str:
    assert answer.status == 403, f"{answer.status}: {answer.text[:300]}"
    assert answer.text.startswith("refused: ")
    assert answer.text.count("\n") == 1
    return answer.text


# --- one route each ------------------------------------------------------------------------------------


def test_a_mutation_in_the_address_of_an_image_is_refused(served: Served) -> None:
    refused(served.request("GET", as_query("by-img"), **IMAGE))
    assert partitions(served) == []


def test_a_mutation_by_get_is_refused_whoever_asks(served: Served) -> None:
    assert "not in the address" in refused(served.request("GET", as_query("by-get")))
    both = f"/graphql?query={quote('{ version }')}&query={quote(MUTATION % 'by-second')}"
    refused(served.request("GET", both))
    assert partitions(served) == []


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "",
    ],
)
def test_a_body_of_another_kind_than_json_is_refused_whoever_asks(served: Served, kind: str) -> None:
    headers = {"Content_Type": kind} if kind else {}
    assert JSON in refused(served.request("POST", "/graphql", as_json("by-body"), **headers))
    refused(served.request("POST", as_query("by-post"), "x", **headers))
    assert partitions(served) == []


@pytest.mark.parametrize("what", ["materialization", "check", "observation"])
def test_reports_of_assets_are_not_taken_from_pages(served: Served, what: str) -> None:
    path = f"/report_asset_{what}/tiny/scorecard?partition=forged&check_name=size&passed=true"
    refused(served.request("POST", path, "{}", **FOREIGN, Content_Type=JSON))
    refused(served.request("POST", path, "{}", Content_Type="text/plain"))
    refused(served.request("POST", path))
    forged = served.graphql('{ assetOrError(assetKey: {path: ["tiny", "scorecard"]}) { __typename } }')
    assert forged["assetOrError"]["__typename"] in ("Asset", "AssetNotFoundError")
    events = served.graphql(
        '{ assetNodeOrError(assetKey: {path: ["tiny", "scorecard"]}) { ... on AssetNode '
        "{ assetMaterializations { partition } assetObservations { partition } } } }"
    )
    assert events["assetNodeOrError"] == {"assetMaterializations": [], "assetObservations": []}


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost.evil.example"]
)
def test_json_of_a_foreign_origin_is_refused(served: Served, origin: str) -> None:
    refused(served.request("POST", "/graphql", as_json("by-origin"), Content_Type=JSON, Origin=origin))
    assert partitions(served) == []


def test_what_a_browser_calls_cross_site_is_refused_without_an_origin_too(served: Served) -> None:
    for site in ("cross-site", "same-site"):
        refused(served.request("POST", "/graphql", as_json("by-site"), Content_Type=JSON, Sec_Fetch_Site=site))
        refused(served.request("GET", "/server_info", Sec_Fetch_Site=site))
    framed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    refused(served.request("GET", "/", **framed))
    assert partitions(served) == []


def test_a_rebound_host_name_reads_nothing(served: Served) -> None:
    port = urlsplit(served.dagster).port
    for host in (f"evil.example:{port}", "evil.example", "127.0.0.1:1", f"127.0.0.1.evil.example:{port}"):
        text = refused(served.request("GET", "/server_info", Host=host))
        assert f"add {host} to EDGE_ASSETS_ALLOWED_HOSTS" in text
    query = json.dumps({"query": "{ version }"})
    refused(served.request("POST", "/graphql", query, Host=f"evil.example:{port}", Content_Type=JSON))


def test_mlflow_takes_nothing_from_other_sites_or_names(served: Served) -> None:
    search = f"{served.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert served.request("GET", search).status == 200
    refused(served.request("GET", search, Host="evil.example"))
    refused(served.request("GET", search, **IMAGE))
    create = f"{served.mlflow}/api/2.0/mlflow/experiments/create"
    refused(served.request("POST", create, '{"name": "forged"}', **FOREIGN, Content_Type="text/plain"))
    refused(served.request("POST", create, '{"name": "forged"}', Origin=served.dagster, Content_Type=JSON))
    assert "forged" not in served.request("GET", search.replace("=1", "=100")).text


@pytest.mark.parametrize("host", ALLOWED)
def test_a_name_that_was_allowed_is_let_in_at_both_servers(served: Served, host: str) -> None:
    page = {"Host": host, "Origin": f"https://{host}", "Sec_Fetch_Site": "same-origin"}
    version = json.dumps({"query": "{ version }"})
    answer = served.request("POST", "/graphql", version, Content_Type=JSON, **page)
    assert answer.status == 200, answer.text
    assert answer.json["data"]["version"]
    experiments = f"{served.mlflow}/api/2.0/mlflow/experiments"
    found = served.request("GET", f"{experiments}/search?max_results=1", Host=host)
    assert found.status == 200, found.text
    named = json.dumps({"name": f"made on {host}"})
    created = served.request("POST", f"{experiments}/create", named, Content_Type=JSON, **page)
    assert created.status == 200, created.text
    refused(served.request("GET", "/server_info", Host=f"{host}.evil.example"))
    refused(served.request("POST", "/graphql", version, Content_Type=JSON, Origin=f"https://other.{host}"))


def test_following_a_link_from_another_site_opens_the_page(served: Served) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    answer = served.request("GET", "/assets", **link, Accept="text/html")
    assert answer.status == 200
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


# --- WebSockets ----------------------------------------------------------------------------------------


def messages(served: Served, query: str, **headers: str) -> list[dict[str, Any]]:
    """Send a query through a WebSocket as Dagster's page does, and return what comes back before it ends."""
    address = served.dagster.replace("http", "ws") + "/graphql"
    origin = Origin(headers.pop("Origin", served.dagster))
    found: list[dict[str, Any]] = []
    with connect(
        address, origin=origin, subprotocols=[Subprotocol("graphql-ws")], additional_headers=headers
    ) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
        try:
            while len(found) < 2:
                found.append(json.loads(socket.recv(timeout=10)))
        except ConnectionClosed as closed:
            found.append({"type": "closed", "code": closed.rcvd.code if closed.rcvd else None})
    return found


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_websocket_of_a_foreign_origin_is_refused(served: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus) as failed:
        messages(served, MUTATION % "by-socket", Origin=origin)
    assert failed.value.response.status_code == 403
    assert partitions(served) == []


def test_a_mutation_through_a_websocket_of_the_own_page_closes_it(served: Served) -> None:
    assert messages(served, MUTATION % "by-own-socket")[-1] == {"type": "closed", "code": 1008}
    assert partitions(served) == []


def test_the_own_page_subscribes_through_a_websocket(served: Served) -> None:
    query = "subscription { locationStateChangeEvents { event { message } } }"
    address = served.dagster.replace("http", "ws") + "/graphql"
    with connect(address, origin=Origin(served.dagster), subprotocols=[Subprotocol("graphql-ws")]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=10)) == {"type": "connection_ack"}
        socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
        with pytest.raises(TimeoutError):
            socket.recv(timeout=1)  # neither an error nor the end: it is subscribed


# --- what a run may say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "value"),
    [
        ("store", {"root": "http://evil.example/s", "cache": "/tmp/x"}),
        ("store", {"s3": {"endpoint_url": "http://evil.example"}}),
        ("tracking", {"uri": "http://evil.example", "artifacts": "/tmp/x"}),
        ("tracking", {"store": {"root": "/tmp/x", "cache": "/tmp/x"}}),
        ("pointers", {"store": {"root": "/tmp/x", "cache": "/tmp/x"}}),
        ("io_manager", {"base_dir": "/tmp/x"}),
    ],
)
def test_a_run_that_names_another_store_or_server_is_refused_by_name(
    served: Served, resource: str, value: dict[str, object]
) -> None:
    config = json.dumps({"resources": {resource: {"config": value}}})
    tags = [{"key": f"dagster/partition/{name}", "value": "x"} for name in ("checkpoint", "target")]
    launched = served.graphql(LAUNCH, config=config, tags=tags)["launchRun"]
    assert launched["__typename"] == "RunConfigValidationInvalid", launched
    messages = [error["message"] for error in launched["errors"]]
    for name in value:
        assert any(name in message for message in messages), messages
    assert all(f"root:resources:{resource}:config" in message for message in messages)


@pytest.mark.parametrize(
    ("resource", "setting", "variable"),
    [("store", "root", "EDGE_ASSETS_STORE"), ("tracking", "uri", "MLFLOW_TRACKING_URI")],
)
def test_the_page_shows_which_variable_decides_and_a_run_may_name_no_other(
    served: Served, resource: str, setting: str, variable: str
) -> None:
    details = served.graphql(RESOURCE, name=resource)["topLevelResourceDetailsOrError"]
    shown = {entry["key"]: (entry["value"], entry["type"]) for entry in details["configuredValues"]}
    assert shown[setting] == (variable, "ENV_VAR"), "not set in this environment, and shown all the same"
    config = json.dumps({"resources": {resource: {"config": {setting: {"env": "HOME"}}}}})
    tags = [{"key": f"dagster/partition/{name}", "value": "x"} for name in ("checkpoint", "target")]
    launched = served.graphql(LAUNCH, config=config, tags=tags)["launchRun"]
    assert launched["__typename"] == "RunConfigValidationInvalid", launched
    assert f"{setting}:env not in enum type {variable}" in launched["errors"][0]["message"]


# --- a real page ---------------------------------------------------------------------------------------

EVIL = """<!doctype html><title>evil</title><iframe name="one"></iframe><iframe name="two"></iframe>
<img src="{url}/graphql?query={by_image}">
<form id="plain" method="post" enctype="text/plain" target="one" action="{url}/graphql?query={by_form}"></form>
<form id="multi" method="post" enctype="multipart/form-data" target="two" action="{url}/graphql?query={by_multi}">
</form>
<script>
const ends = [];
for (const form of document.forms) form.submit();
ends.push(fetch("{url}/graphql?query={by_fetch}", {{method: "POST", mode: "no-cors", body: "x"}}));
ends.push(fetch("{url}/report_asset_materialization/tiny/scorecard?partition=x", {{method: "POST", mode: "no-cors"}}));
window.read = fetch("{rebound}/server_info").then(answer => answer.text(), () => "nothing");
window.socket = new Promise(resolve => {{
  const socket = new WebSocket("{url}/graphql".replace("http", "ws"), "graphql-ws");
  socket.onerror = () => resolve("refused");
  socket.onmessage = message => resolve(message.data);
  socket.onopen = () => {{
    socket.send(JSON.stringify({{type: "connection_init"}}));
    socket.send(JSON.stringify({{type: "start", id: "1", payload: {{query: {by_socket}}}}}));
  }};
}});
window.sent = Promise.allSettled(ends);
</script>"""


def evil_page(served: Served, host: str) -> str:
    keys = ("by_image", "by_form", "by_multi", "by_fetch")
    queries = {key: quote(MUTATION % key) for key in keys}
    rebound = served.dagster.replace("127.0.0.1", host)
    return EVIL.format(url=served.dagster, rebound=rebound, by_socket=json.dumps(MUTATION % "by_socket"), **queries)


@pytest.fixture
def evil(served: Served) -> Iterator[str]:
    """The address of a page that tries every way to change something on the served instance."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(evil_page(served, "evil.example").encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.example:{server.server_port}/"
    server.shutdown()


def test_a_visited_page_changes_nothing_and_reads_nothing(served: Served, page: Page, evil: str) -> None:
    port = f":{urlsplit(served.dagster).port}"
    statuses: dict[str, int] = {}
    page.on("response", lambda answer: statuses.update({answer.url: answer.status}) if port in answer.url else None)
    page.goto(evil)
    page.evaluate("window.sent")
    assert page.evaluate("window.socket") == "refused"
    assert page.evaluate("window.read") == "nothing"
    # five that a page can send without reading: each arrived, and each was refused
    for _ in range(100):
        if len(sent := [url for url in statuses if "by_" in unquote(url) or "report_asset" in url]) >= 5:
            break
        page.wait_for_timeout(100)
    assert len(sent) == 5, statuses
    assert {statuses[url] for url in sent} == {403}, statuses
    assert partitions(served) == []


def test_a_page_of_the_rebound_name_itself_is_refused(served: Served, page: Page) -> None:
    answer = page.goto(served.dagster.replace("127.0.0.1", "evil.example"))
    assert answer is not None
    assert answer.status == 403


def test_the_own_page_loads_and_changes_what_it_is_asked_to(served: Served, page: Page) -> None:
    page.goto(f"{served.dagster}/overview/activity/timeline")
    page.get_by_text("Overview").first.wait_for(timeout=60_000)
    added = page.evaluate(
        """async query => (await fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({query})})).json()""",
        MUTATION % "by-own-page",
    )
    assert added["data"]["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"
    assert partitions(served) == ["by-own-page"]


def test_reloading_the_location_loads_the_code_anew_in_one_server_for_all(served: Served) -> None:
    def code() -> list[int]:
        return [pid for name, pid in served.processes().items() if "api grpc" in name]

    before = code()
    assert len(before) == 1, "web server and daemon share it"
    query = "mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"
    reloaded = served.graphql(query, name="edge_assets")["reloadRepositoryLocation"]
    assert reloaded == {"__typename": "WorkspaceLocationEntry"}
    wait_for(lambda: len(code()) == 1 and code() != before, 20, "a new process has the code")


def test_the_state_folder_is_its_owners_alone(served: Served) -> None:
    assert served.project.home.stat().st_mode & 0o777 == 0o700
    (command,) = [name for name in served.processes() if "code-server start" in name]
    socket = Path(command.split("--socket ")[1].split()[0])
    assert socket.is_socket()
    assert socket.parent.stat().st_mode & 0o777 == 0o700
