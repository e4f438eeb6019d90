"""MLflow: a parent run per checkpoint and target, a child run per variant, releases as registered versions.

Every entry is first written to an outbox in the store and removed once MLflow has it. If MLflow is down, the
run says so and goes on; whatever runs next sends what is waiting. Run ids are kept in the store, so that
nothing is ever searched for.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from edge_assets.core.types import Artifact, digest
from edge_assets.settings import dagster_url, mlflow_url
from resources.artifacts import ArtifactStoreResource
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "parent"
RELEASED = "released"  # the alias of the version in production


@dataclass(frozen=True)
class Entry:
    """One thing to log: a child run (a variant), or additions to one that exists, or to the parent."""

    cell: str  # model/family/checkpoint/target
    run: str  # the variant's name, or PARENT
    kind: str  # "variant" opens a run; "report", "release" and "scorecard" add to it
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifact: Mapping[str, Any] | None = None  # an Artifact as JSON
    model: Mapping[str, Any] | None = None  # flavor and signature of `artifact`
    version: Mapping[str, Any] | None = None  # register this run's model as a version with these tags

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.run}"

    @property
    def digest(self) -> str:
        """Changes when there is something new to log; who logged it does not count."""
        data = asdict(self)
        data["tags"] = {name: value for name, value in self.tags.items() if not name.startswith("dagster.")}
        return digest(data)


class MLflowTracking(dg.ConfigurableResource):
    """Logs entries to the tracking server or file at `uri`."""

    uri: str
    artifacts: str  # where a new experiment keeps artifacts when `uri` is a file
    store: dg.ResourceDependency[ArtifactStoreResource]

    def log(self, entries: list[Entry], say: Callable[[str], None]) -> dict[str, str]:
        """Put entries in the outbox and send all that wait. Returns the run's web address by run name."""
        store = self.store.open()
        for entry in entries:
            state = _state(store, entry.cell)
            known = state.get("uri") == self.uri and state["logged"].get(entry.name)
            if known != entry.digest:
                store.point(f"outbox/{entry.cell}/{entry.name}", asdict(entry))
        self.flush(say)
        return {run: self.run_url(store, entry.cell, run) for entry in entries if (run := entry.run)}

    def pending(self) -> bool:
        """Whether something waits to be logged."""
        return any(True for _ in _outbox(self.store.open()))

    def flush(self, say: Callable[[str], None]) -> None:
        """Send what waits in the outbox. If MLflow cannot be reached, say so and keep it."""
        store = self.store.open()
        waiting = list(_outbox(store))
        if not waiting:
            return
        if not self.reachable():
            say(f"MLflow is not reachable at {self.uri}: {len(waiting)} entries wait and are logged by the next run")
            return
        from mlflow.exceptions import MlflowException

        order = {"variant": 0, "report": 1, "release": 2, "scorecard": 3}
        for key in sorted(waiting, key=lambda k: order[k.rpartition("/")[2].partition("-")[0]]):
            try:
                self._send(store, Entry(**store.pointer(key) or {}))
            except (MlflowException, OSError) as error:
                first = str(error).partition("\n")[0]
                say(f"MLflow at {self.uri} did not take {key}: {first}. It waits and is logged by the next run")
                continue  # what is wrong with one entry need not be wrong with the next
            store.drop_pointer(key)

    def reachable(self) -> bool:
        """Whether a server answers at `uri` within three seconds; a file always does."""
        address = urlsplit(self.uri)
        if address.scheme not in ("http", "https"):
            return True
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            with socket.create_connection((address.hostname or "", port), timeout=3):
                return True
        except OSError:
            return False

    def run_url(self, store: ArtifactStore, cell: str, run: str) -> str:
        """Web address of a run, or a sentence saying that it waits."""
        state = _state(store, cell)
        run_id = state.get("runs", {}).get(run)
        if run_id is None:
            return "not logged yet: MLflow was not reachable, the next run logs it"
        return f"{mlflow_url()}/#/experiments/{state['experiment']}/runs/{run_id}"

    # --- sending -----------------------------------------------------------------------------------------

    def _client(self) -> "MlflowClient":
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        import mlflow

        for name in ("mlflow", "alembic"):  # set after the import, which configures them
            logging.getLogger(name).setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient(self.uri)

    def _send(self, store: ArtifactStore, entry: Entry) -> None:
        from mlflow.exceptions import MlflowException

        client = self._client()
        state = self._cell_state(client, store, entry.cell)
        runs, logged = state["runs"], state["logged"]
        if entry.kind != "variant" and entry.run not in runs:
            raise MlflowException(f"{entry.run} has no run yet")
        if entry.kind == "variant":
            if entry.name in logged:  # other bytes or other evidence: a new run, with its own measurements
                client.set_tag(runs.pop(entry.run), "superseded", "true")
                for kind in ("variant", "report", "release"):
                    logged.pop(f"{kind}-{entry.run}", None)
            if entry.run not in runs:
                runs[entry.run] = self._create_run(client, state["experiment"], entry, runs[PARENT])
                store.point(f"mlflow/{entry.cell}", state)  # now, so that a failure below does not leave a second run
        run_id = runs[entry.run]
        self._add(client, store, run_id, entry)
        if entry.model:
            state["models"][entry.run] = self._log_model(store, run_id, entry)
        if entry.version:
            _register(client, state["models"].get(entry.run), run_id, entry)
        client.set_terminated(run_id)
        logged[entry.name] = entry.digest
        store.point(f"mlflow/{entry.cell}", state)

    def _cell_state(self, client: "MlflowClient", store: ArtifactStore, cell: str) -> dict[str, Any]:
        """Experiment, run ids and logged digests of a cell; anew if this MLflow does not know the parent run."""
        from mlflow.exceptions import MlflowException

        state = _state(store, cell)
        if state.get("uri") == self.uri:
            try:
                client.get_run(state["runs"][PARENT])
                return state
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                # a tracking database that was replaced: begin anew
        model, family, checkpoint, target = cell.split("/")
        experiment = self._experiment(client, model)
        tags = {"model": model, "family": family, "checkpoint": checkpoint, "target": target}
        parent = client.create_run(experiment, tags=tags, run_name=f"{target} {checkpoint}").info.run_id
        state = {"uri": self.uri, "experiment": experiment, "runs": {PARENT: parent}, "models": {}, "logged": {}}
        store.point(f"mlflow/{cell}", state)
        return state

    def _experiment(self, client: "MlflowClient", model: str) -> str:
        found = client.get_experiment_by_name(model)
        if found:
            return found.experiment_id
        local = None if self.uri.startswith("http") else Path(self.artifacts).resolve().as_uri() + f"/{model}"
        return client.create_experiment(model, artifact_location=local)

    def _create_run(self, client: "MlflowClient", experiment: str, entry: Entry, parent: str) -> str:
        tags = {**entry.tags, "mlflow.parentRunId": parent}
        return client.create_run(experiment, tags=tags, run_name=entry.run).info.run_id

    def _add(self, client: "MlflowClient", store: ArtifactStore, run_id: str, entry: Entry) -> None:
        import time

        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in entry.metrics.items()],
            params=[Param(name, str(value)[:6000]) for name, value in entry.parameters.items()],
            tags=[RunTag(name, str(value)) for name, value in entry.tags.items()],
        )
        if entry.artifact:
            artifact = Artifact.from_dict(entry.artifact)
            path = store.checkout(artifact)
            if path.is_file():
                client.log_artifact(run_id, str(path), entry.kind)
            else:
                client.log_artifacts(run_id, str(path), entry.kind)

    def _log_model(self, store: ArtifactStore, run_id: str, entry: Entry) -> str:
        """Log the artifact in its MLflow flavor, so that MLflow can load it and predict. Returns its URI."""
        import mlflow

        assert entry.model is not None and entry.artifact is not None
        path = store.checkout(Artifact.from_dict(entry.artifact))
        signature = _signature(entry.model)
        with mlflow.start_run(run_id=run_id):
            # requirements are stated: MLflow would otherwise find them by running the model in a new process
            if entry.model["flavor"] == "onnx":
                import onnx

                info = mlflow.onnx.log_model(
                    onnx.load(path), name="model", signature=signature, pip_requirements=entry.model["requirements"]
                )
            else:
                import torch

                info = mlflow.pytorch.log_model(
                    torch.jit.load(path),
                    name="model",
                    signature=signature,
                    pip_requirements=entry.model["requirements"],
                    serialization_format="pickle",  # for a TorchScript module: its own zip format, no pickled code
                )
        return info.model_uri


def variant_tags(cell: str, **tags: str) -> dict[str, str]:
    """The tags that every run carries."""
    model, family, checkpoint, target = cell.split("/")
    return {"model": model, "family": family, "checkpoint": checkpoint, "target": target, **tags}


def dagster_tags(run_id: str) -> dict[str, str]:
    """The way back: which Dagster run made this."""
    return {"dagster.run_id": run_id, "dagster.run_url": f"{dagster_url()}/runs/{run_id}"}


def _signature(model: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: list[Mapping[str, Any]]) -> Schema:
        return Schema(
            [
                TensorSpec(np.dtype(t["dtype"]), [-1 if isinstance(a, str) else a for a in t["shape"]], t["name"])
                for t in tensors
            ]
        )

    return ModelSignature(schema(model["inputs"]), schema(model["outputs"]))


def _register(client: "MlflowClient", model_uri: str | None, run_id: str, entry: Entry) -> None:
    """A version of the registered model `<model>.<target>`, and the alias `released` on it.

    The same content is registered once; the alias never moves from a newer checkpoint to an older one.
    """
    from mlflow.exceptions import MlflowException

    assert entry.version is not None
    model, _family, _checkpoint, target = entry.cell.split("/")
    name = f"{model}.{target}"
    try:
        client.create_registered_model(name, description=f"Releases of {model} for {target}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {name: str(value) for name, value in entry.version.items()}
    versions = client.search_model_versions(f"name = '{name}'")
    same = [v for v in versions if v.tags.get("release_sha256") == tags["release_sha256"]]
    source = model_uri or f"runs:/{run_id}/release"
    model_id = model_uri.removeprefix("models:/") if model_uri else None
    version = same[0] if same else client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)
    try:
        current = client.get_model_version_by_alias(name, RELEASED)
    except MlflowException:
        current = None
    if current is None or _order(current.tags) <= _order(tags):
        client.set_registered_model_alias(name, RELEASED, version.version)


def _order(tags: Mapping[str, str]) -> tuple[int, float]:
    """Which of two versions is of a newer checkpoint: `Checkpoint.order`. Older versions have no number."""
    return int(tags.get("number", 0)), float(tags.get("registered", 0))


def _state(store: ArtifactStore, cell: str) -> dict[str, Any]:
    return store.pointer(f"mlflow/{cell}") or {}


def _outbox(store: ArtifactStore) -> Iterator[str]:
    return store.all_pointers("outbox")
