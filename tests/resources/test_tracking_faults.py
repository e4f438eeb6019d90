"""MLflow that is down, slow, older, replaced or cleaned up, and entries that cannot be logged: no asset fails."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from edge_assets import toolchains
from edge_assets.core.types import Artifact
from edge_assets.pipeline.release import listing
from edge_assets.spec import preprocess
from resources import mlflow_server
from resources import tracking as tracking_module
from resources.artifacts import ArtifactStoreResource
from resources.outbox import HISTORY, PARENT, Entry
from resources.records import Pointers
from resources.tracking import MLflowTracking
from tests import warm
from tests.conftest import ROOT
from tests.proxy import HANG, PASS, Answer, Proxy, always, black_hole, proxy

CELL = "{model}/cpu/tiny-0/graviton3"
PASSWORD = "s3cret-word"


@dataclass
class Desk:
    """One machine's store and tracking: what an asset does when it logs."""

    folder: Path
    uri: str
    model: str = "tiny"
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resource = ArtifactStoreResource(root=str(self.folder / "store"), cache=str(self.folder / "cache"))
        self.store = self.resource.open()

    @property
    def cell(self) -> str:
        return CELL.format(model=self.model)

    @property
    def tracking(self) -> MLflowTracking:
        return MLflowTracking(uri=self.uri, artifacts=str(self.folder / "artifacts"), store=self.resource)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def entry(self, run: str = "onnx_model", kind: str = "variant", content: str = "", **fields: Any) -> Entry:
        return Entry(self.cell, run, kind, artifact=self.artifact(content) if content else None, **fields)

    def artifact(self, content: str) -> dict[str, Any]:
        path = self.folder / "content.bin"
        path.write_text(content)
        return asdict(Artifact((self.store.put(path, "content.bin"),)))

    def log(self, *entries: Entry) -> dict[str, str]:
        return self.tracking.log(list(entries), self.said.append)

    def flush(self) -> list[str]:
        """As the end of a build: what it says."""
        said: list[str] = []
        self.tracking.flush(said.append)
        return said

    def put(self, key: str, text: str) -> Path:
        """A file of the outbox, as another machine, version or accident left it."""
        path = self.folder / "store" / "pointers" / "outbox" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def waiting(self, prefix: str = "outbox") -> list[str]:
        return sorted(self.store.pointers.keys(prefix))

    def state(self) -> dict[str, Any]:
        return self.store.pointers.get(f"mlflow/{self.cell}") or {}

    def runs(self, experiment: str | None = None) -> dict[str, list[mlflow.entities.Run]]:
        """Every run of the experiment that was not deleted, by name."""
        found = self.client.get_experiment_by_name(experiment or self.model)
        assert found is not None
        runs: dict[str, list[mlflow.entities.Run]] = {}
        for run in self.client.search_runs([found.experiment_id]):
            runs.setdefault(run.info.run_name, []).append(run)
        return runs


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow's, which takes a second to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def desk(tmp_path: Path, database: Path) -> Desk:
    shutil.copy(database, tmp_path / "mlflow.db")
    return Desk(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture(autouse=True)
def next_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what this process knows of servers, as a new process would."""
    monkeypatch.setattr(tracking_module, "_memories", {}, raising=False)
    return lambda: monkeypatch.setattr(tracking_module, "_memories", {}, raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server."""
    import socket

    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    places = ["--backend-store-uri", f"sqlite:///{folder / 'db'}", "--artifacts-destination", (folder / "a").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *places, "--workers", "1"], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(900):  # three minutes, on a machine that does much else
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text())
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def front(server: int) -> Iterator[Proxy]:
    with proxy(server) as running:
        yield running


@pytest.fixture
def remote(tmp_path: Path, front: Proxy, request: pytest.FixtureRequest) -> Desk:
    """A desk whose MLflow is the server, behind the proxy, with an experiment of its own."""
    return Desk(tmp_path, front.address, model=request.node.originalname.removeprefix("test_")[:40])


# --- entries that cannot be logged -------------------------------------------------------------------------

GOOD = {"cell": "tiny/cpu/tiny-0/graviton3", "run": "bad", "kind": "variant"}
BAD = {
    "later kind": ("lineage-bad", json.dumps({**GOOD, "kind": "lineage"})),
    "later field": ("variant-bad", json.dumps({**GOOD, "carbon": 3})),
    "no JSON": ("variant-bad", "{half"),
    "not an object": ("variant-bad", "[1, 2]"),
    "nothing": ("variant-bad", "{}"),
    "blob is gone": (
        "variant-bad",
        json.dumps({**GOOD, "artifact": {"files": [{"path": "m", "sha256": "a" * 64, "size": 1}]}}),
    ),
    "artifact of another shape": ("variant-bad", json.dumps({**GOOD, "artifact": {"trees": []}})),
    "target with a slash": ("variant-bad", json.dumps({**GOOD, "cell": "tiny/cpu/tiny-0/a/b"})),
    "a metric that is none": ("variant-bad", json.dumps({**GOOD, "metrics": {"accuracy": "good"}})),
    "a name that MLflow refuses": ("variant-bad", json.dumps({**GOOD, "metrics": {"no:@name": 1.0}})),
}


@pytest.mark.parametrize(("name", "text"), BAD.values(), ids=BAD.keys())
def test_one_bad_entry_fails_nothing_and_is_named_once(desk: Desk, name: str, text: str) -> None:
    desk.put(f"tiny/cpu/tiny-0/graviton3/{name}", text)
    desk.log(desk.entry("good", metrics={"accuracy": 1.0}))
    desk.log(desk.entry("second"))
    assert {"good", "second"} <= desk.runs().keys()
    assert [sentence for sentence in desk.said if name in sentence] == desk.said
    assert len(desk.said) == 1
    assert desk.waiting() == [f"outbox/tiny/cpu/tiny-0/graviton3/{name}"]
    assert [name in sentence for sentence in desk.flush()] == [True], "the end of a build says it too"


def test_an_entry_that_another_machine_sends_first_is_skipped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk.put("tiny/cpu/tiny-0/graviton3/variant-sent", json.dumps({**GOOD, "run": "sent"}))
    listed = Pointers.keys

    def list_and_lose(self: Pointers, prefix: str) -> Iterator[str]:
        yield from list(listed(self, prefix))
        path.unlink(missing_ok=True)  # between listing and reading

    monkeypatch.setattr(Pointers, "keys", list_and_lose)
    desk.log(desk.entry("good"))
    assert desk.said == []
    assert "good" in desk.runs()


@pytest.mark.slow
def test_what_is_put_in_its_place_while_an_entry_is_sent_is_sent_too(remote: Desk, front: Proxy) -> None:
    newer = remote.entry("onnx_model", metrics={"accuracy": 0.8})

    def put_newer(_method: str, path: str, _body: bytes) -> None:
        if path.endswith("log-batch"):
            front.rule = lambda *_request: PASS
            remote.put(f"{remote.cell}/variant-onnx_model", json.dumps(asdict(newer)))

    front.rule = put_newer
    remote.log(remote.entry("onnx_model", metrics={"accuracy": 0.9}))
    assert len(remote.waiting()) == 1
    assert remote.flush() == remote.waiting() == []
    assert {run.data.metrics["accuracy"] for run in remote.runs()["onnx_model"]} == {0.8, 0.9}


def test_after_five_failures_an_entry_is_put_aside_and_comes_back_as_told(
    desk: Desk, next_run: Callable[[], None]
) -> None:
    entry = desk.entry("lost", content="bytes that get lost")
    blob = next((desk.folder / "store" / "blobs").glob("*/*"))
    blob.rename(desk.folder / "kept")
    desk.log(entry)
    for _ in range(3):
        next_run()
        assert "It waits and is logged by the next run" in desk.flush()[0]
    next_run()
    (told,) = desk.flush()
    aside, back = told.rpartition("move ")[2].split(" to ")
    assert "outbox-refused" in aside
    assert desk.waiting() == desk.waiting("outbox-trouble") == []
    next_run()
    assert desk.flush() == [], "nothing waits for ever"
    shutil.move(desk.folder / "kept", blob)
    shutil.move(aside, back)
    assert desk.flush() == []
    assert desk.waiting() == []
    assert "lost" in desk.runs()


def test_what_a_later_version_wrote_is_never_put_aside(desk: Desk, next_run: Callable[[], None]) -> None:
    desk.put("tiny/cpu/tiny-0/graviton3/variant-bad", json.dumps({**GOOD, "carbon": 3}))
    for _ in range(7):
        next_run()
        (said,) = desk.flush()
        assert "later version of edge-assets" in said
        assert "carbon" in said
    assert len(desk.waiting()) == 1


# --- servers that do not answer ----------------------------------------------------------------------------


def test_a_server_that_never_answers_costs_three_seconds_once(tmp_path: Path) -> None:
    with black_hole() as (port, connections):
        desk = Desk(tmp_path, f"http://127.0.0.1:{port}")
        started = time.monotonic()
        for number in range(8):
            urls = desk.log(desk.entry(f"variant{number}"), desk.entry(f"other{number}"))
        assert time.monotonic() - started < 10
        assert len(connections) == 1
        assert len(desk.said) == 1
        assert f"MLflow is not reachable at {desk.uri}: no answer within 3 s" in desk.said[0]
        assert urls["variant7"].startswith("not logged yet")
        assert "16 entries wait and are logged by the next run" in desk.flush()[0]


def test_a_server_that_answers_only_to_health_costs_one_timeout(
    remote: Desk, front: Proxy, next_run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    front.rule = lambda _method, path, _body: PASS if path == "/health" else HANG
    started = time.monotonic()
    for number in range(4):
        remote.log(remote.entry(f"variant{number}"))
    assert time.monotonic() - started < 8
    assert len(remote.said) == 1
    front.rule = lambda *_request: PASS
    next_run()
    assert remote.flush() == []
    assert remote.runs().keys() >= {f"variant{number}" for number in range(4)}


def test_an_upload_that_always_times_out_does_not_hold_up_the_others(
    remote: Desk, front: Proxy, next_run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    front.rule = lambda method, _path, body: HANG if method == "PUT" and b"too large" in body else PASS
    remote.log(remote.entry("a_large_one", content="too large"), remote.entry("small", content="fits"))
    assert len(remote.waiting()) == 2, "the first timeout ends it"
    monkeypatch.setattr(tracking_module, "FAILURES", 2)
    for number in range(2):
        next_run()
        remote.log(remote.entry(f"small{number}"))
        assert {"small", f"small{number}"} <= remote.runs().keys()
    assert "It was put aside" in remote.said[-1]
    assert remote.waiting() == []


def test_a_login_page_and_a_refused_user_are_said_and_count_against_no_entry(
    remote: Desk, front: Proxy, next_run: Callable[[], None]
) -> None:
    answers: dict[Answer, str] = {401: "401", (200, b"<html>please log in</html>"): "JSON", 503: "503"}
    for answer, word in answers.items():
        front.rule = always(answer)
        next_run()
        said = remote.said[:]
        remote.log(remote.entry("onnx_model"))
        (new,) = remote.said[len(said) :]
        assert word in new
    assert remote.waiting("outbox-trouble") == []
    front.rule = lambda *_request: PASS
    next_run()
    assert remote.flush() == []


def test_an_experiment_that_this_user_may_not_write_holds_up_no_other(
    remote: Desk, front: Proxy, next_run: Callable[[], None]
) -> None:
    denied = (403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "not yours"}).encode())
    front.rule = lambda _method, _path, body: denied if b"an_other" in body else PASS
    for _ in range(6):
        next_run()
        remote.log(remote.entry("an_other"), remote.entry("mine"))
    assert "not yours" in remote.said[0]
    assert remote.waiting() == [f"outbox/{remote.cell}/variant-an_other"], "an administrator may allow it"
    assert "mine" in remote.runs()


# --- databases that cannot be used -------------------------------------------------------------------------


def test_a_database_that_is_none_or_cannot_be_opened_is_said_at_once(desk: Desk, next_run: Callable[[], None]) -> None:
    database = desk.folder / "mlflow.db"
    started = time.monotonic()
    database.write_bytes(b"this is no database, and long enough to be looked at" * 100)
    desk.log(desk.entry())
    assert "file is not a database" in desk.said[-1]
    database.unlink()
    database.mkdir()
    next_run()
    desk.log(desk.entry())
    assert "unable to open database file" in desk.said[-1]
    assert time.monotonic() - started < 20
    database.rmdir()
    next_run()
    assert desk.flush() == []
    assert "onnx_model" in desk.runs()


def test_a_database_that_is_locked_is_said_and_waited_for_once(desk: Desk, next_run: Callable[[], None]) -> None:
    desk.log(desk.entry("first"))
    holder = sqlite3.connect(desk.folder / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    for number in range(3):
        desk.log(desk.entry(f"variant{number}"))
    assert time.monotonic() - started < 10
    assert len(desk.said) == 1
    assert "locked" in desk.said[0]
    holder.close()
    next_run()
    assert desk.flush() == []


# --- runs and experiments that somebody deleted --------------------------------------------------------------


def test_a_deleted_parent_is_begun_anew_and_its_variants_move_below_it(remote: Desk) -> None:
    remote.log(remote.entry("onnx_model"), remote.entry("onnx_fp16"))
    former = remote.state()["runs"]
    remote.client.delete_run(former[PARENT])
    remote.client.delete_run(former["onnx_fp16"])
    remote.log(remote.entry("onnx_int8"), remote.entry("onnx_model", "report", metrics={"load_ms": 1.0}))
    parent = remote.state()["runs"][PARENT]
    assert parent != former[PARENT]
    below = {
        name: [run.data.tags["mlflow.parentRunId"] for run in runs]
        for name, runs in remote.runs().items()
        if name.startswith("onnx")
    }
    assert below == {"onnx_model": [parent], "onnx_int8": [parent]}
    assert remote.runs()["onnx_model"][0].data.metrics == {"load_ms": 1.0}
    assert len([sentence for sentence in remote.said if "deleted" in sentence]) == 1
    assert remote.waiting() == []
    remote.log(remote.entry("onnx_fp16"))
    assert "onnx_fp16" in remote.runs(), "what was deleted is logged again when it is built again"


def test_what_adds_to_a_deleted_run_begins_a_new_one(remote: Desk) -> None:
    entry = remote.entry("onnx_model", parameters={"opset": 20}, metrics={"accuracy": 0.9})
    remote.log(entry)
    former = remote.state()["runs"]["onnx_model"]
    remote.client.delete_run(former)
    remote.log(remote.entry("onnx_model", "report", metrics={"load_ms": 1.0}))
    (run,) = remote.runs()["onnx_model"]
    assert run.info.run_id != former
    assert run.data.metrics == {"load_ms": 1.0}
    assert len([sentence for sentence in remote.said if "was deleted in MLflow" in sentence]) == 1
    remote.log(entry)  # the next time it is built
    (run,) = remote.runs()["onnx_model"]
    assert run.data.params == {"opset": "20"}
    assert run.data.metrics == {"load_ms": 1.0, "accuracy": 0.9}
    assert remote.waiting() == []


def test_a_deleted_experiment_is_not_restored_but_followed_by_another(remote: Desk) -> None:
    remote.log(remote.entry("onnx_model"))
    remote.client.delete_experiment(remote.state()["experiment"])
    urls = remote.log(remote.entry("onnx_fp16"))
    assert f"new runs go to '{remote.model} 2'" in remote.said[0]
    assert "restore" in remote.said[0]
    assert remote.runs(f"{remote.model} 2").keys() == {"graviton3 tiny-0", "onnx_fp16"}
    assert f"/experiments/{remote.state()['experiment']}/runs/" in urls["onnx_fp16"]
    remote.log(remote.entry("onnx_model"))
    assert "onnx_model" in remote.runs(f"{remote.model} 2")
    assert remote.waiting() == []
    assert len([sentence for sentence in remote.said if "was deleted" in sentence]) == len(remote.said) == 1


def test_a_database_that_was_replaced_is_begun_anew(desk: Desk) -> None:
    desk.log(desk.entry("onnx_model"))
    desk.uri = f"sqlite:///{desk.folder / 'other.db'}"
    desk.log(desk.entry("onnx_model"))
    assert "onnx_model" in desk.runs()
    assert desk.said == desk.waiting() == []


# --- runs that were logged in part -------------------------------------------------------------------------


def test_a_half_logged_run_whose_parameters_changed_is_superseded(
    remote: Desk, front: Proxy, next_run: Callable[[], None]
) -> None:
    front.rule = lambda method, _path, _body: 500 if method == "PUT" else PASS
    remote.log(remote.entry("onnx_model", content="one", parameters={"opset": 20}))
    assert len(remote.waiting()) == 1
    front.rule = lambda *_request: PASS
    next_run()
    remote.log(remote.entry("onnx_model", content="two", parameters={"opset": 21}))
    runs = {run.data.params["opset"]: run for run in remote.runs()["onnx_model"]}
    assert runs["20"].data.tags["superseded"] == "true"
    assert "superseded" not in runs["21"].data.tags
    assert remote.waiting() == []


def test_a_run_that_was_logged_in_part_is_finished_not_repeated(
    remote: Desk, front: Proxy, next_run: Callable[[], None]
) -> None:
    front.rule = lambda method, _path, _body: 500 if method == "PUT" else PASS
    entry = remote.entry("onnx_model", content="one", parameters={"opset": 20}, metrics={"accuracy": 0.9})
    remote.log(entry)
    front.rule = lambda *_request: PASS
    next_run()
    assert remote.flush() == []
    (run,) = remote.runs()["onnx_model"]
    assert len(remote.client.get_metric_history(run.info.run_id, "accuracy")) == 1
    assert [item.path for item in remote.client.list_artifacts(run.info.run_id, "variant")] == ["variant/content.bin"]
    assert run.info.status == "FINISHED"


def test_an_artifact_store_without_credentials_keeps_the_files_waiting_and_logs_the_numbers(
    remote: Desk, next_run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    remote.client.create_experiment(remote.model, artifact_location="s3://bucket-of-ours/runs")
    for _ in range(2):
        next_run()
        urls = remote.log(remote.entry("a", content="one", metrics={"accuracy": 0.9}), remote.entry("b", content="two"))
        remote.log(remote.entry("c"))
    assert len(remote.said) == 2, "once per run"
    assert "s3://bucket-of-ours takes no files from here: Unable to locate credentials" in remote.said[0]
    assert remote.runs()["a"][0].data.metrics == {"accuracy": 0.9}
    assert "c" in remote.runs()
    assert urls["a"].startswith("http")
    assert len(remote.waiting()) == 2, "for a machine that has credentials"
    assert remote.waiting("outbox-trouble") == [], "it is no entry's fault"


# --- an older server ---------------------------------------------------------------------------------------


def without_aliases(_method: str, path: str, body: bytes) -> int | None:
    """What an MLflow 2.2 server does not know."""
    return 404 if "/registered-models/alias" in path else without_logged_models(_method, path, body)


def test_a_server_without_aliases_gets_the_version(remote: Desk, front: Proxy) -> None:
    front.rule = without_aliases
    version = {"release_sha256": "f" * 64, "checkpoint": "tiny-0", "artifact": "onnx_model", "registered": 1.0}
    remote.log(remote.entry("onnx_model"), remote.entry("onnx_model", "release", content="whole", version=version))
    (registered,) = remote.client.search_model_versions(f"name = '{remote.model}.graviton3'")
    assert registered.source == f"runs:/{remote.state()['runs']['onnx_model']}/release"
    assert remote.runs()["onnx_model"][0].data.tags["registered_version"] == f"{remote.model}.graviton3/1"
    assert len(remote.said) == 1
    assert "has no aliases" in remote.said[0]
    assert remote.waiting() == []


def without_logged_models(_method: str, path: str, _body: bytes) -> int | None:
    """What an MLflow 2 server does not know."""
    unknown = ("/mlflow/logged-models", "/mlflow/runs/outputs", "/api/3.0/")
    return 404 if any(part in path for part in unknown) else PASS


def test_an_mlflow_2_server_gets_models_into_their_runs(
    remote: Desk, front: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.rule = without_logged_models
    entry = remote.entry("onnx_model", model=MODEL_ABOUT, metrics={"accuracy": 0.9})
    entry = Entry(**{**asdict(entry), "artifact": onnx_artifact(remote)})
    version = {"release_sha256": "f" * 64, "checkpoint": "tiny-0", "artifact": "onnx_model", "registered": 1.0}
    remote.log(entry, remote.entry("onnx_model", "release", content="whole", version=version))
    remote.log(remote.entry("onnx_model", "report", metrics={"load_ms": 1.0}))
    assert len(remote.said) == 1
    assert "version before 3" in remote.said[0]
    assert remote.waiting() == []
    (run,) = remote.runs()["onnx_model"]
    assert run.data.metrics == {"accuracy": 0.9, "load_ms": 1.0}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", remote.uri)
    mlflow.set_tracking_uri(remote.uri)
    for address in (f"runs:/{run.info.run_id}/model", f"models:/{remote.model}.graviton3@released"):
        model = mlflow.pyfunc.load_model(address)
        assert model.predict({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2.0, 2.0]]


# --- what people look at -------------------------------------------------------------------------------------


def history(desk: Desk, step: int, accuracy: float) -> Entry:
    """One checkpoint's step in the history of the target."""
    return Entry(
        f"{desk.model}/cpu/{HISTORY}/graviton3",
        PARENT,
        HISTORY,
        metrics={"accuracy": accuracy},
        description="Each step is a checkpoint.",
        step=step,
        time_ms=1_000_000 + step,
    )


def steps(desk: Desk) -> list[tuple[int, float]]:
    """What the one history run has."""
    (run,) = desk.runs()["history graviton3"]
    assert run.info.status == "FINISHED"
    return sorted((point.step, point.value) for point in desk.client.get_metric_history(run.info.run_id, "accuracy"))


def test_a_history_has_each_step_once_whatever_is_built_again(desk: Desk, next_run: Callable[[], None]) -> None:
    desk.log(history(desk, 1, 0.8), history(desk, 2, 0.9))
    desk.log(history(desk, 2, 0.9))  # built again
    assert steps(desk) == [(1, 0.8), (2, 0.9)]
    desk.log(history(desk, 3, 0.95), history(desk, 1, 0.85))  # the first came out otherwise
    assert steps(desk) == [(1, 0.85), (2, 0.9), (3, 0.95)]
    (run,) = desk.runs()["history graviton3"]
    desk.client.delete_run(run.info.run_id)
    next_run()
    desk.log(history(desk, 4, 0.96))
    assert steps(desk) == [(1, 0.85), (2, 0.9), (3, 0.95), (4, 0.96)], "a new run has what the deleted one had"
    assert desk.waiting() == []


def test_a_step_that_was_logged_but_not_noted_is_not_there_twice(
    remote: Desk, front: Proxy, next_run: Callable[[], None]
) -> None:
    answered = []

    def lose(_method: str, path: str, _body: bytes) -> int | None:
        if path.endswith("log-batch"):
            answered.append(path)
        return 500 if path.endswith("runs/update") and len(answered) == 1 else PASS

    front.rule = lose
    remote.log(history(remote, 1, 0.8))
    assert len(remote.waiting()) == 1
    front.rule = lambda *_request: PASS
    next_run()
    assert remote.flush() == []
    assert steps(remote) == [(1, 0.8)]


def test_an_experiment_of_before_is_shown_as_model_training_once(desk: Desk) -> None:
    experiment = desk.client.create_experiment(desk.model)
    desk.log(desk.entry())
    tags = desk.client.get_experiment(experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert {"mlflow.sharedViewState.variants", "mlflow.sharedViewState.variants-tiny-0"} <= tags.keys()
    desk.client.set_experiment_tag(experiment, "mlflow.experimentKind", "genai_development")
    desk.log(desk.entry("onnx_fp16"))
    assert desk.client.get_experiment(experiment).tags["mlflow.experimentKind"] == "genai_development"


def test_a_replaced_variant_leaves_the_table(desk: Desk) -> None:
    for opset, verdict in ((20, "released"), (21, "dominated")):
        variant = desk.entry(parameters={"opset": opset}, tags={"checkpoint": "tiny-0"})
        desk.log(variant, desk.entry(kind="report", tags={"verdict": verdict}))
    experiment = desk.client.get_experiment(desk.state()["experiment"])
    view = json.loads(experiment.tags["mlflow.sharedViewState.variants-tiny-0"])
    (shown,) = desk.client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert shown.data.tags["verdict"] == "dominated"


def test_a_long_description_is_cut_between_lines_and_says_so(desk: Desk) -> None:
    lines = [f"| variant{number} | not_selected | {'because ' * 20} |" for number in range(60)]
    desk.log(desk.entry(PARENT, "report", description="\n".join(lines)))
    (run,) = desk.runs()["graviton3 tiny-0"]
    note = run.data.tags["mlflow.note.content"]
    assert len(note) <= 5000
    assert note.endswith("more lines: see the artifacts)")


def test_processes_of_two_stores_create_one_database_and_one_experiment(tmp_path: Path) -> None:
    uri, go = f"sqlite:///{tmp_path / 'shared' / 'mlflow.db'}", tmp_path / "go"
    processes = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        arguments = [str(tmp_path / name), uri, name, str(go)]
        processes.append(warm.start("tests.send", arguments, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)}))
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()
    go.touch()
    for process in processes:
        output, errors = process.communicate()
        assert output.strip() == "[] []", output + errors
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert {"one", "two", "three"} <= names


def test_an_experiment_that_another_process_creates_meanwhile_is_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def absent_at_first(self: MlflowClient, name: str) -> mlflow.entities.Experiment | None:
        asked.append(name)
        if len(asked) == 1:
            create(name)  # by the other
            return None
        return found(self, name)

    found, create = MlflowClient.get_experiment_by_name, desk.client.create_experiment
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", absent_at_first)
    desk.log(desk.entry())
    assert desk.said == desk.waiting() == []
    assert "onnx_model" in desk.runs()


MODEL_ABOUT = {
    "flavor": "onnx",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "requirements": ["onnxruntime"],
}


def onnx_artifact(desk: Desk) -> dict[str, Any]:
    """y = x + x as an ONNX file in the store."""
    import onnx
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", sides[:1], sides[1:])
    path = desk.folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return asdict(Artifact((desk.store.put(path, "model.onnx"),)))


def test_the_logged_model_is_the_artifact_itself_and_nothing_else_holds_it(remote: Desk) -> None:
    artifact = onnx_artifact(remote)
    entry = Entry(remote.cell, "onnx_model", "variant", artifact=artifact, model=MODEL_ABOUT, metrics={"accuracy": 0.9})
    remote.log(entry)
    (run,) = remote.runs()["onnx_model"]
    assert remote.client.list_artifacts(run.info.run_id, "variant") == []
    folder = Path(mlflow.artifacts.download_artifacts(remote.state()["models"]["onnx_model"], tracking_uri=remote.uri))
    assert (folder / "model.onnx").read_bytes() == (remote.folder / "model.onnx").read_bytes()
    (model,) = remote.client.search_logged_models([remote.state()["experiment"]])
    assert {metric.key: metric.value for metric in model.metrics or []} == {"accuracy": 0.9}
    assert model.status == "READY"
    remote.log(remote.entry("onnx_model", "report", metrics={"load_ms": 1.0}))
    (model,) = remote.client.search_logged_models([remote.state()["experiment"]])
    assert {metric.key: metric.value for metric in model.metrics or []} == {"accuracy": 0.9, "load_ms": 1.0}


def released_artifact(desk: Desk) -> dict[str, Any]:
    """A released folder around the same graph in the store."""
    folder = desk.folder / "released"
    folder.mkdir()
    onnx_artifact(desk)
    shutil.copy(desk.folder / "model.onnx", folder)
    shutil.copy(preprocess.__file__, folder / "preprocess.py")
    shutil.copy(Path(toolchains.__path__[0]) / "onnx" / "loader.py", folder / "runtime.py")
    np.savez(folder / "sample.npz", raw_x=np.ones((1, 2), np.float32), output_y=np.full((1, 2), 2, np.float32))
    manifest = {
        "model": "double",
        "target": "graviton3",
        "precision": "fp32",
        "format": "onnx",
        "runtime": "onnx",
        "file": "model.onnx",
        "inputs": ["x"],
        "outputs": ["y"],
        "session": {},
        "preprocessing": {"kind": "passthrough", "inputs": ["x"]},
        "files": [asdict(file) for file in listing(folder)],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    files = [desk.store.put(path, path.name) for path in sorted(folder.iterdir())]
    return asdict(Artifact(tuple(files)))


@pytest.mark.parametrize("version", [2, 3])
def test_the_registered_version_is_the_released_folder_on_every_server(
    remote: Desk, front: Proxy, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    remote.model = f"released_{version}"
    if version == 2:
        front.rule = without_logged_models
    release = Entry(
        remote.cell,
        "onnx_model",
        "release",
        artifact=released_artifact(remote),
        model={**MODEL_ABOUT, "flavor": "release"},
        version={"release_sha256": "f" * 64, "flavor": "release", "number": 1},
        description="# The card",
    )
    remote.log(remote.entry("onnx_model"), release)
    remote.log(release)
    assert remote.waiting() == []
    name = f"{remote.model}.graviton3"
    (registered,) = remote.client.search_model_versions(f"name = '{name}'")
    assert registered.description == remote.client.get_registered_model(name).description == "# The card"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", remote.uri)
    mlflow.set_tracking_uri(remote.uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}@released")
    assert model.predict({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2.0, 2.0]] * 3
    remote.client.update_registered_model(name, "what a person wrote")
    another = {"release_sha256": "e" * 64, "flavor": "release", "number": 2}
    second = replace(release, version=another, description="# Another")
    remote.log(second)
    assert remote.client.get_registered_model(name).description == "what a person wrote"
    assert remote.client.get_model_version_by_alias(name, "released").description == "# Another"


# --- credentials -------------------------------------------------------------------------------------------


def test_credentials_of_the_address_reach_the_server_and_nothing_else(
    remote: Desk,
    front: Proxy,
    next_run: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    remote.uri = f"http://alice:{PASSWORD}@127.0.0.1:{front.port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", remote.uri)
    urls = [remote.log(remote.entry("onnx_model", content="one"))]
    assert any(header.startswith("Basic ") for header in front.authorizations), "the client has them"
    answers: list[Answer] = [500, 401, (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}'), HANG]
    for answer in answers:
        next_run()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        front.rule = always(answer, but="search")
        urls.append(remote.log(remote.entry("onnx_model", content="two")))
    next_run()
    remote.uri = remote.uri.replace(str(front.port), "9")  # nothing listens there
    urls.append(remote.log(remote.entry("onnx_model", content="three")))
    said = " ".join([*remote.said, *remote.flush()])
    assert "MLflow is not reachable at http://127.0.0.1:9: connection refused" in said
    stored = b" ".join(path.read_bytes() for path in (remote.folder / "store").rglob("*") if path.is_file())
    for shown in (said, json.dumps(urls), stored.decode(errors="replace"), *capfd.readouterr()):
        assert PASSWORD not in shown
        assert "alice" not in shown


def test_the_state_tells_servers_apart_by_a_digest_and_understands_the_address_of_earlier_versions(
    remote: Desk, front: Proxy
) -> None:
    entries = [remote.entry("onnx_model", parameters={"opset": 20}), remote.entry("onnx_model", "report")]
    remote.log(*entries)
    state = remote.state()
    assert front.address not in json.dumps(state)
    before = {name: state[name] for name in ("experiment", "runs", "models", "logged")}
    earlier = {"uri": f"http://alice:{PASSWORD}@127.0.0.1:{front.port}", **before}
    remote.store.pointers.set(f"mlflow/{remote.cell}", earlier)
    remote.log(*entries)  # nothing to do
    assert remote.state() == earlier
    remote.log(remote.entry("onnx_fp16"))
    assert remote.state()["runs"].items() >= before["runs"].items(), "no run was begun anew"
    assert "uri" not in remote.state()
    assert {name: len(runs) for name, runs in remote.runs().items() if name.startswith("onnx")} == {
        "onnx_model": 1,
        "onnx_fp16": 1,
    }
    remote.log(remote.entry("onnx_model", parameters={"opset": 21}))
    assert len(remote.runs()["onnx_model"]) == 2, "another build is another run"


@pytest.mark.parametrize("content", ["[]", "{}", '{"uri": 3, "runs": []}', '{"server": "x", "runs": {"parent": "y"}}'])
def test_state_of_another_shape_is_begun_anew(desk: Desk, content: str) -> None:
    path = desk.folder / "store" / "pointers" / "mlflow" / f"{desk.cell}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    desk.log(desk.entry("onnx_model"))
    assert "onnx_model" in desk.runs()
    assert desk.said == []


def test_an_mlflow_that_cannot_be_imported_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(mlflow_server.Outage, match="the package mlflow cannot be imported"):
        mlflow_server.connect(f"sqlite:///{tmp_path}/mlflow.db")
