"""MLflow: what is logged, that MLflow can predict with it, and what happens while it is down."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from edge_assets.hashing import sha256_of
from tests.conftest import Project
from tests.tiny.data import evaluation
from tests.tiny.spec import TINY


@pytest.fixture(scope="module")
def client(built: Project) -> MlflowClient:
    uri = f"sqlite:///{built.home / 'mlflow' / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> dict[str, mlflow.entities.Run]:
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def parents(runs: dict[str, mlflow.entities.Run], family: str) -> list[mlflow.entities.Run]:
    """Runs that are no variant's: of a family's cells, or, for `all`, of the scorecards."""
    every = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    return [run for run in every if run.data.tags["family"] == family and "checkpoint" in run.data.tags]


def test_a_parent_per_checkpoint_and_target_and_a_child_per_variant(runs: dict[str, mlflow.entities.Run]) -> None:
    (parent,) = parents(runs, "cpu")
    children = {name for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {
        "checkpoint",
        "onnx_model",
        "onnx_optimized",
        "onnx_fp16",
        "onnx_int8_dynamic",
        "onnx_int8_static",
        "torch_int8",
    }
    assert all(run.info.status == "FINISHED" for run in runs.values())


def test_every_variant_has_the_same_metric_names(runs: dict[str, mlflow.entities.Run]) -> None:
    expected = {"accuracy", "accuracy_drop_points", "parity_max_abs", "parity_snr_db", "size_bytes", "size_ratio"}
    for name in ("checkpoint", "onnx_model", "onnx_fp16", "onnx_int8_static", "torch_int8"):
        assert expected <= set(runs[name].data.metrics), name
        assert "latency_p50_ms" not in runs[name].data.metrics, "no latency was measured on the target"


def test_tags_and_the_way_back_to_dagster(built: Project, runs: dict[str, mlflow.entities.Run]) -> None:
    import dagster as dg

    tags = runs["onnx_int8_static"].data.tags
    assert {
        "model": "tiny",
        "family": "cpu",
        "target": "graviton3",
        "format": "onnx",
        "precision": "int8",
    }.items() <= tags.items()
    assert len(tags["sha256"]) == 64
    assert tags["verdict"] in ("released", "not_selected", "dominated")
    with dg.DagsterInstance.from_config(str(built.home / "dagster")) as instance:
        assert instance.get_run_by_id(tags["dagster.run_id"]) is not None
        event = instance.get_latest_materialization_event(dg.AssetKey(["tiny", "cpu", "onnx_int8_static"]))
    assert event is not None
    assert event.asset_materialization is not None
    link = event.asset_materialization.metadata["mlflow_run"].value
    assert f"/runs/{runs['onnx_int8_static'].info.run_id}?" in str(link)


def test_mlflow_loads_and_predicts_with_every_flavor(
    client: MlflowClient, runs: dict[str, mlflow.entities.Run]
) -> None:
    data = evaluation()
    images = TINY.preprocess.apply({"image": data["image"][:64]})["image"]
    for name in ("onnx_model", "onnx_fp16", "onnx_int8_static"):
        model = mlflow.pyfunc.load_model(f"runs:/{runs[name].info.run_id}/model")
        logits = model.predict({"image": images})["logits"]
        assert (np.asarray(logits).argmax(1) == data["label"][:64]).mean() > 0.9, name
    import torch

    torch.backends.quantized.engine = "qnnpack"
    scripted = mlflow.pytorch.load_model(f"runs:/{runs['torch_int8'].info.run_id}/model")
    assert (scripted(torch.from_numpy(images)).argmax(1).numpy() == data["label"][:64]).mean() > 0.9


def test_the_release_is_a_registered_version_with_an_alias(built: Project, client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("tiny.graviton3", "released")
    assert version.tags["checkpoint"].startswith("tiny-")
    model = mlflow.pyfunc.load_model("models:/tiny.graviton3@released")
    data = evaluation()
    logits = model.predict({"image": data["image"][:64]})["logits"]
    assert (np.asarray(logits).argmax(1) == data["label"][:64]).mean() > 0.9
    assert model.input_example["image"].shape == (1, 8, 8, 1)
    assert [(spec.name, spec.type.name) for spec in model.metadata.signature.inputs] == [("image", "uint8")]
    for described in (version.description, client.get_registered_model("tiny.graviton3").description):
        assert described is not None
        assert described.startswith("# tiny for graviton3")


def test_the_experiment_is_of_model_training_and_has_tables_of_variants(built: Project, client: MlflowClient) -> None:
    import dagster as dg

    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    with dg.DagsterInstance.from_config(str(built.home / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["tiny", "cpu", "onnx_int8_static"]))
    assert event is not None
    assert event.asset_materialization is not None
    link = str(event.asset_materialization.metadata["mlflow_variants"].value)
    (key,) = re.findall(r"viewStateShareKey=([^&]+)", link)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    found = client.search_runs([experiment.experiment_id], view["searchFilter"], order_by=["metrics.size_bytes ASC"])
    assert [run.info.run_name for run in found][-1] == "onnx_int8_dynamic", "what has no size comes last"
    assert len(found) == 7, "the variants, and no other run"
    every = json.loads(experiment.tags["mlflow.sharedViewState.variants"])
    assert every["name"] == "Variants of all targets"
    assert json.loads(every["state"]).items() <= every.items(), "for MLflow before 3.17 and after"
    columns = {name.split("`")[1] for name in every["selectedColumns"]}
    assert columns <= {name for run in found for name in {**run.data.metrics, **run.data.tags}} | {"latency_p50_ms"}


def test_the_parent_is_described_and_has_the_winners_numbers(runs: dict[str, mlflow.entities.Run]) -> None:
    (parent,) = parents(runs, "cpu")
    winner = runs[parent.data.tags["released"]]
    for name in ("accuracy", "accuracy_drop_points", "size_bytes", "parity_snr_db"):
        assert parent.data.metrics[name] == winner.data.metrics[name]
    note = parent.data.tags["mlflow.note.content"]
    assert f"Released: **{winner.info.run_name}**" in note
    for name, run in runs.items():
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id:
            assert f"| {name} | {run.data.tags['verdict']} |" in note
    for link in ("/runs/", "/assets/tiny/cpu/release", "viewStateShareKey=variants-tiny-"):
        assert link in note


def test_runs_name_the_data_by_the_hashes_of_the_store(built: Project, runs: dict[str, mlflow.entities.Run]) -> None:
    blobs = {path.name for path in (built.home / "store" / "blobs").glob("*/*")}
    for name, contexts in (("onnx_optimized", {"evaluation"}), ("onnx_int8_static", {"evaluation", "calibration"})):
        given_to = runs[name].inputs
        assert given_to is not None
        inputs = given_to.dataset_inputs
        assert {given.tags[0].value for given in inputs} == contexts
        for given in inputs:
            assert any(blob.startswith(given.dataset.digest) for blob in blobs)
            assert json.loads(given.dataset.source)["tags"]["sha256"] in blobs
            fields = json.loads(given.dataset.schema or "")["mlflow_colspec"]
            assert {"name": "image", "type": "uint8 [8, 8, 1]"} in fields


def test_a_logged_model_has_an_example_of_its_input(runs: dict[str, mlflow.entities.Run]) -> None:
    for name in ("onnx_fp16", "torch_int8"):
        model = mlflow.models.Model.load(f"runs:/{runs[name].info.run_id}/model")
        assert model.saved_input_example_info is not None, name


def test_the_history_of_a_target_has_a_step_per_checkpoint(
    client: MlflowClient, runs: dict[str, mlflow.entities.Run]
) -> None:
    (parent,) = parents(runs, "cpu")
    history = runs["history graviton3"]
    for name in ("accuracy", "accuracy_drop_points", "size_bytes"):
        (point,) = client.get_metric_history(history.info.run_id, name)
        assert (point.step, point.value) == (1, parent.data.metrics[name])


def test_plots_and_tables_are_artifacts_of_the_parent(
    client: MlflowClient, runs: dict[str, mlflow.entities.Run]
) -> None:
    (parent,) = parents(runs, "cpu")
    names = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"benchmark.csv", "benchmark.json", "accuracy.png"} <= names
    (scorecard,) = parents(runs, "all")
    assert [item.path for item in client.list_artifacts(scorecard.info.run_id, "scorecard")] == [
        "scorecard/scorecard.html"
    ]


def test_each_artifact_is_kept_once_and_the_released_one_again_in_its_whole_folder(
    built: Project, runs: dict[str, mlflow.entities.Run]
) -> None:
    hashes = [sha256_of(path) for path in (built.home / "mlflow" / "artifacts").rglob("*") if path.is_file()]
    kept = {name: hashes.count(run.data.tags["sha256"]) for name, run in runs.items() if "sha256" in run.data.tags}
    (released,) = (name for name, run in runs.items() if run.data.tags.get("verdict") == "released")
    assert len(kept) == 6
    assert kept == {name: 2 if name == released else 1 for name in kept}


def test_a_build_in_a_copy_of_a_state_folder_logs_to_the_copy_alone(copy_of_built: Project, built: Project) -> None:
    """What the tests rest on: one that builds in its copy changes no other's artifacts."""

    def files(project: Project) -> int:
        return sum(path.is_file() for path in (project.home / "mlflow" / "artifacts").rglob("*"))

    original, before = files(built), files(copy_of_built)
    result = copy_of_built.run("build", "--model", "tiny", "--target", "raspberry-pi-5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert files(built) == original
    assert files(copy_of_built) > before


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_server(tmp_path: Path, free_port: int) -> Iterator[Callable[[], str]]:
    """Starts MLflow's server on the free port and gives its address."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        command = [
            str(Path(sys.executable).parent / "mlflow"),
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(free_port),
        ]
        store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
        artifacts = ["--artifacts-destination", (tmp_path / "server-artifacts").as_uri()]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (tmp_path / "server.log").open("wb") as log:
            processes.append(subprocess.Popen([*command, *store, *artifacts], stdout=log, stderr=log, env=environment))
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free_port)) == 0:
                    return f"http://127.0.0.1:{free_port}"
            time.sleep(0.2)
        raise AssertionError((tmp_path / "server.log").read_text())

    yield start
    for process in processes:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_while_mlflow_is_down_the_build_goes_on_and_the_next_run_logs_it(
    copy_of_built: Project, free_port: int, start_server: Callable[[], str]
) -> None:
    address = f"http://127.0.0.1:{free_port}"
    down = copy_of_built.run("build", "--model", "tiny", "--target", "raspberry-pi-5", MLFLOW_TRACKING_URI=address)
    assert down.returncode == 0, down.stdout + down.stderr
    assert f"MLflow is not reachable at {address}" in down.stdout
    assert "wait and are logged by the next run" in down.stdout
    assert start_server() == address
    up = copy_of_built.run("build", "--model", "tiny", "--target", "raspberry-pi-5", MLFLOW_TRACKING_URI=address)
    assert up.returncode == 0, up.stdout + up.stderr
    assert "0 built, 1 up to date" in up.stdout
    assert "did not take" not in up.stdout, up.stdout
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert {"onnx_model", "onnx_int8_static", "torch_int8", "checkpoint"} <= names
    assert client.get_model_version_by_alias("tiny.raspberry-pi-5", "released").version == "1"
    assert not list((copy_of_built.home / "store" / "pointers" / "outbox").rglob("*.json"))
