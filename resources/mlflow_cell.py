"""The MLflow runs of one cell: a parent, and a child per variant, found again by the ids that the store keeps.

People delete runs and experiments, replace servers and keep old ones. Where a run cannot be used any more another is
begun, so that nothing is logged where nobody sees it, and nothing waits for what will not come back.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_assets.addresses import without_credentials
from edge_assets.core.types import Artifact
from resources import mlflow_server
from resources.mlflow_server import NotFromHere
from resources.outbox import KINDS, PARENT, Entry
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

BARE = ""  # of a run that additions opened, because the one they belong to is gone
MODEL = "model"  # the name of a variant's logged model
SUPERSEDED = "superseded"  # the tag of runs that another run of the same variant replaced
PARENT_TAG = "mlflow.parentRunId"
Say = Callable[[str], None]


@dataclass
class CellRuns:
    """What MLflow has of one cell, kept in the store as `mlflow/<cell>`."""

    server: str = ""  # digest of the server's address
    experiment: str = ""
    runs: dict[str, str] = field(default_factory=dict)  # variant -> run id
    models: dict[str, str] = field(default_factory=dict)  # variant -> address of its model, once it is whole
    drafts: dict[str, str] = field(default_factory=dict)  # variant -> id of the logged model that is being filled
    begun: dict[str, str] = field(default_factory=dict)  # variant -> digest of the entry that its run was begun with
    numbers: dict[str, str] = field(default_factory=dict)  # entry -> digest of what was logged but for its files
    logged: dict[str, str] = field(default_factory=dict)  # entry -> digest of what was logged as a whole

    @classmethod
    def read(cls, store: ArtifactStore, cell: str) -> "CellRuns":
        """What the store knows of a cell; empty where that is nothing, or of a shape that this version cannot read."""
        data = store.pointers.get(f"mlflow/{cell}")
        if not isinstance(data, dict):
            return cls()
        state = cls(**{own.name: data[own.name] for own in fields(cls) if own.name in data})
        if not state._is_whole():
            return cls()
        if "uri" in data:  # as earlier versions wrote it: with the address itself, and without what was begun
            state.server = mlflow_server.server_digest(str(data["uri"]))
            state.begun = {run: state.logged.get(f"variant-{run}", "?") for run in state.runs}
        return state

    def _is_whole(self) -> bool:
        tables = (self.runs, self.models, self.drafts, self.begun, self.numbers, self.logged)
        return all(isinstance(table, dict) for table in tables) and PARENT in self.runs and bool(self.experiment)

    def forget(self, run: str) -> None:
        """Begin anew with one run: nothing of it counts as logged."""
        for table in (self.runs, self.models, self.drafts, self.begun):
            table.pop(run, None)
        for kind in KINDS:
            self.logged.pop(f"{kind}-{run}", None)
            self.numbers.pop(f"{kind}-{run}", None)


@dataclass
class CellLog:
    """Logs one cell's entries to MLflow."""

    client: "MlflowClient"
    store: ArtifactStore
    cell: str
    state: CellRuns
    say: Say  # for what happens once

    @classmethod
    def open(
        cls, client: "MlflowClient", store: ArtifactStore, cell: str, uri: str, artifacts: str, say: Say
    ) -> "CellLog":
        """The cell's log at the MLflow of `uri`, whose parent run can be added to."""
        log = cls(client, store, cell, CellRuns.read(store, cell), say)
        server = mlflow_server.server_digest(uri)
        if log.state.server != server:
            log.state = CellRuns(server=server)
        elif mlflow_server.has_run(client, log.state.runs[PARENT]):
            return log
        log._begin(artifacts=None if uri.startswith(("http://", "https://")) else artifacts)
        return log

    # --- runs ----------------------------------------------------------------------------------------------

    def run_for(self, entry: Entry) -> str:
        """The run that an entry belongs to, begun where there is none that can be used."""
        run_id = self.state.runs.get(entry.run)
        if run_id and entry.run != PARENT and not mlflow_server.has_run(self.client, run_id):
            self.say(f"the run of {self.cell}/{entry.run} was deleted in MLflow: a new one is begun")
            self.state.forget(entry.run)
            run_id = None
        if run_id and entry.kind == "variant" and self.state.begun.get(entry.run) not in (BARE, entry.digest):
            # other bytes or other evidence: a new run, with its own measurements and parameters
            self.client.set_tag(run_id, SUPERSEDED, "true")
            self.state.forget(entry.run)
            run_id = None
        if run_id is None:
            run_id = self._create(entry)
        if entry.kind == "variant" and self.state.begun.get(entry.run) != entry.digest:
            self.state.begun[entry.run] = entry.digest
            self.save()
        return run_id

    def save(self) -> None:
        """Keep in the store what MLflow has."""
        self.store.pointers.set(f"mlflow/{self.cell}", asdict(self.state))

    def finish(self, entry: Entry) -> None:
        """Note that MLflow has the whole entry."""
        self.state.logged[entry.name] = entry.digest
        self.save()

    def _create(self, entry: Entry) -> str:
        tags = {**entry.tags, PARENT_TAG: self.state.runs[PARENT]}
        run_id: str = self.client.create_run(self.state.experiment, tags=tags, run_name=entry.run).info.run_id
        self.state.runs[entry.run] = run_id
        self.state.begun[entry.run] = BARE
        self.save()  # now, so that a failure later does not leave a second run
        return run_id

    def _begin(self, artifacts: str | None) -> None:
        """A new parent run; the children that are still there are put below it."""
        model, family, checkpoint, target = self.cell.split("/")
        experiment = self._experiment(model, artifacts)
        former = self.state
        self.state = CellRuns(server=former.server, experiment=experiment)
        if former.experiment == experiment:
            self.say(f"the run of {self.cell} was deleted in MLflow: a new one is begun")
            self.state = former
            self.state.forget(PARENT)
        tags = {"model": model, "family": family, "checkpoint": checkpoint, "target": target}
        parent = self.client.create_run(experiment, tags=tags, run_name=f"{target} {checkpoint}").info.run_id
        for run, run_id in list(self.state.runs.items()):
            if mlflow_server.has_run(self.client, run_id):
                self.client.set_tag(run_id, PARENT_TAG, parent)
            else:
                self.state.forget(run)
        self.state.runs[PARENT] = parent
        self.save()

    def _experiment(self, model: str, artifacts: str | None) -> str:
        """The experiment of a model: of its name, or of its name and a number where that one was deleted.

        A deleted experiment is not restored, because somebody wanted to be rid of its runs, and MLflow keeps its name
        taken until `mlflow gc`.
        """
        name, number = model, 1
        while (found := self.client.get_experiment_by_name(name)) is not None:
            if found.lifecycle_stage == "active":
                break
            number += 1
            name = f"{model} {number}"
        if number > 1:
            self.say(
                f"the experiment '{model}' was deleted in MLflow, which keeps its name: new runs go to '{name}'. "
                f"To use it again, restore it with `mlflow experiments restore`"
            )
        if found is not None:
            return found.experiment_id
        place = None if artifacts is None else f"{Path(artifacts).resolve().as_uri()}/{name.replace(' ', '-')}"
        return self.client.create_experiment(name, artifact_location=place)

    # --- numbers -------------------------------------------------------------------------------------------

    def add_numbers(self, entry: Entry) -> None:
        """Parameters, metrics and tags; metrics of a variant are those of its logged model too."""
        if self.state.numbers.get(entry.name) == entry.digest:
            return  # an earlier attempt came this far
        from mlflow.entities import Metric, Param, RunTag

        run_id, model_id = self.state.runs[entry.run], self._draft(entry)
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, 0, model_id=model_id, run_id=run_id)
            for name, value in entry.metrics.items()
        ]
        self.client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(name, str(value)[:6000]) for name, value in entry.parameters.items()],
            tags=[RunTag(name, str(value)) for name, value in entry.tags.items()],
        )
        self.client.set_terminated(run_id)  # before the files, which may have to wait; a finished run still takes them
        self.state.numbers[entry.name] = entry.digest
        self.save()

    # --- files ---------------------------------------------------------------------------------------------

    def add_files(self, entry: Entry) -> None:
        """The entry's artifact, once: as its logged model where it has a flavor of MLflow's, else as files.

        Raises NotFromHere where MLflow keeps files in a place that this machine cannot write to, and StoreError where
        the artifact is gone.
        """
        if not entry.artifact:
            return
        path = self.store.checkout(Artifact.from_dict(entry.artifact))
        if entry.model:
            self._add_model(entry, path)
            return
        send = self.client.log_artifact if path.is_file() else self.client.log_artifacts
        run_id = self.state.runs[entry.run]
        self._upload(run_id, lambda: send(run_id, str(path), entry.kind))

    def _draft(self, entry: Entry) -> str | None:
        """The logged model that belongs to the entry's run, created where it has to be; None where there is none."""
        from mlflow.exceptions import MlflowException

        known = self.state.drafts.get(entry.run)
        if known and mlflow_server.has_model(self.client, known):
            return known
        if known:
            self.say(f"the model of {self.cell}/{entry.run} was deleted in MLflow")
            for table in (self.state.drafts, self.state.models):
                table.pop(entry.run, None)
        if not (entry.model and entry.artifact):
            return None
        try:
            draft = self.client.create_logged_model(
                self.state.experiment,
                name=MODEL,
                source_run_id=self.state.runs[entry.run],
                params={name: str(value) for name, value in entry.parameters.items()},
            )
        except MlflowException as error:
            if not mlflow_server.is_missing_endpoint(error):
                raise
            self.say("this MLflow server is of a version before 3: it keeps a variant's model in its run, below model/")
            return None
        self.state.drafts[entry.run] = draft.model_id
        self.save()
        return draft.model_id

    def _add_model(self, entry: Entry, path: Path) -> None:
        """The artifact in MLflow's layout, so that MLflow can load it and predict."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        run_id, model_id = self.state.runs[entry.run], self._draft(entry)
        with self.store.workspace() as work:
            folder = work / MODEL
            if model_id is None:
                write_model(entry.model or {}, path, folder, Model(artifact_path=MODEL, run_id=run_id))
                self._upload(run_id, lambda: self.client.log_artifacts(run_id, str(folder), MODEL))
                self.state.models[entry.run] = f"runs:/{run_id}/{MODEL}"
                return
            place = self.client.get_logged_model(model_id).artifact_location
            about = Model(artifact_path=place, model_uuid=model_id, model_id=model_id, run_id=run_id)
            write_model(entry.model or {}, path, folder, about)
            self._upload(run_id, lambda: self.client.log_model_artifacts(model_id, str(folder)))
        self.client.finalize_logged_model(model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        self.state.models[entry.run] = f"models:/{model_id}"

    def _upload(self, run_id: str, send: Callable[[], None]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            send()
        except Exception as error:  # each object store's client has errors of its own
            if isinstance(error, MlflowException):  # the server's own answer, or none
                raise
            place = without_credentials(self.client.get_run(run_id).info.artifact_uri)
            raise NotFromHere(f"{_root(place)} takes no files from here: {mlflow_server.said_by(error)}") from error


def write_model(about: Mapping[str, Any], artifact: Path, folder: Path, model: "Model") -> None:
    """A folder in the layout of the artifact's flavor, around the very bytes that were verified."""
    import mlflow

    signature = _signature(about)
    # requirements are stated: MLflow would otherwise find them by running the model in a new process
    if about["flavor"] == "onnx":
        import onnx

        mlflow.onnx.save_model(
            onnx.load(artifact),
            str(folder),
            mlflow_model=model,
            signature=signature,
            pip_requirements=about["requirements"],
            save_as_external_data=False,
        )
        own = folder / "model.onnx"
    else:
        import torch

        mlflow.pytorch.save_model(
            torch.jit.load(artifact),
            str(folder),
            mlflow_model=model,
            signature=signature,
            pip_requirements=about["requirements"],
            serialization_format="pickle",  # for a TorchScript module: its own zip format, no pickled code
        )
        own = folder / "data" / "model.pth"
    assert own.is_file()
    shutil.copyfile(artifact, own)  # what MLflow wrote is the same graph in other bytes


def _signature(model: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(spec: Mapping[str, Any]) -> TensorSpec:
        shape = [-1 if isinstance(axis, str) else axis for axis in spec["shape"]]
        return TensorSpec(np.dtype(spec["dtype"]), shape, spec["name"])

    def schema(side: str) -> Schema:
        return Schema([tensor(spec) for spec in model[side]])

    return ModelSignature(schema("inputs"), schema("outputs"))


def _root(address: str) -> str:
    """The bucket or server of an address; a path as it is."""
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}" if mark and scheme != "file" else address
