"""The MLflow runs of one cell: a parent, and a child per variant, found again by the ids that the store keeps.

A target's history is a cell of its own with one run, whose metrics are steps over the checkpoints.

People delete runs and experiments, replace servers and keep old ones. Where a run cannot be used any more another is
begun, so that nothing is logged where nobody sees it, and nothing waits for what will not come back.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from edge_assets.addresses import without_credentials
from edge_assets.core.types import Artifact
from edge_assets.hashing import digest
from resources import mlflow_inputs, mlflow_server, mlflow_views
from resources.mlflow_models import write_model
from resources.mlflow_server import NotFromHere
from resources.outbox import HISTORY, KINDS, PARENT, Entry
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

BARE = ""  # of a run that additions opened, because the one they belong to is gone
MODEL, RELEASE = "model", "release"  # names of logged models: a variant's, and the one of a released folder
BATCH = 1000  # metrics that MLflow takes at once
SUPERSEDED = "superseded"  # the tag of runs that another run of the same variant replaced
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"  # the run's description
LINKS = {"dagster.run_url": "Dagster run", "dagster.asset_url": "Dagster assets"}
PARAMETER_LETTERS = 6000  # of a parameter's value that MLflow takes
NOTE_LETTERS = 4500  # with the links less than the 5000 that each version of MLflow takes
Say = Callable[[str], None]


class Step(TypedDict):
    """What was logged at one step."""

    time_ms: int
    metrics: dict[str, float]


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
    steps: dict[str, Step] = field(default_factory=dict)  # what the history has, by step
    views: str = ""  # digest of the views that the experiment's tags were given

    @classmethod
    def read(cls, store: ArtifactStore, cell: str) -> "CellRuns":
        """What the store knows of a cell; empty where that is nothing, or of a shape that this version cannot read."""
        data = store.pointers.get(f"mlflow/{cell}")
        if not isinstance(data, dict):
            return cls()
        known = {own.name: data[own.name] for own in fields(cls) if own.name in data}
        state = cls(**known)
        if not state._is_whole():
            return cls()
        if "uri" in data:  # as earlier versions wrote it: with the address itself, and without what was begun
            state.server = mlflow_server.server_digest(str(data["uri"]))
            for run in state.runs:
                state.begun[run] = state.logged.get(f"variant-{run}", "?")
        return state

    def _is_whole(self) -> bool:
        tables = (self.runs, self.models, self.drafts, self.begun, self.numbers, self.logged, self.steps)
        if not all(isinstance(table, dict) for table in tables):
            return False
        return PARENT in self.runs and bool(self.experiment)

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
        cls,
        client: "MlflowClient",
        store: ArtifactStore,
        cell: str,
        uri: str,
        artifacts: str,
        say: Say,
    ) -> "CellLog":
        """The cell's log at the MLflow of `uri`, whose parent run can be added to."""
        log = cls(client, store, cell, CellRuns.read(store, cell), say)
        server = mlflow_server.server_digest(uri)
        if log.state.server != server:
            log.state = CellRuns(server=server, steps=log.state.steps)
        elif mlflow_server.has_run(client, log.state.runs[PARENT]):
            log._show_views()
            return log
        is_server = uri.startswith(("http://", "https://"))
        log._begin(artifacts=None if is_server else artifacts)
        log._show_views()
        return log

    # --- runs ----------------------------------------------------------------------------------------------

    def run_for(self, entry: Entry) -> str:
        """The run that an entry belongs to, begun where there is none that can be used."""
        run_id = self.state.runs.get(entry.run)
        if run_id and entry.run != PARENT and not mlflow_server.has_run(self.client, run_id):
            self.say(f"the run of {self.cell}/{entry.run} was deleted in MLflow: a new one is begun")
            self.state.forget(entry.run)
            run_id = None
        begun = self.state.begun.get(entry.run)
        if run_id and entry.kind == "variant" and begun not in (BARE, entry.digest):
            # other bytes or other evidence: a new run, with its own measurements and parameters
            self.client.set_tag(run_id, SUPERSEDED, "true")
            self.client.set_tag(run_id, mlflow_views.VERDICT, mlflow_views.SUPERSEDED)
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
        self.state.drafts.pop(entry.digest, None)
        self.save()

    def _create(self, entry: Entry) -> str:
        tags = {**entry.tags, PARENT_TAG: self.state.runs[PARENT]}
        run_id: str = self.client.create_run(
            self.state.experiment,
            tags=tags,
            run_name=entry.run,
        ).info.run_id
        self.state.runs[entry.run] = run_id
        self.state.begun[entry.run] = BARE
        self.save()  # now, so that a failure later does not leave a second run
        return run_id

    def _begin(self, artifacts: str | None) -> None:
        """A new parent run; the children that are still there are put below it."""
        experiment = experiment_of(self.client, self.cell.split("/")[0], artifacts, self.say)
        former = self.state
        self.state = CellRuns(server=former.server, experiment=experiment, steps=former.steps)
        if former.experiment == experiment:
            self.say(f"the run of {self.cell} was deleted in MLflow: a new one is begun")
            self.state = former
            self.state.forget(PARENT)
        parent = self._create_parent()
        for run, run_id in list(self.state.runs.items()):
            if mlflow_server.has_run(self.client, run_id):
                self.client.set_tag(run_id, PARENT_TAG, parent)
            else:
                self.state.forget(run)
        self.state.runs[PARENT] = parent
        log_steps(self.client, parent, self.state.steps)
        self.save()

    def _create_parent(self) -> str:
        model, family, checkpoint, target = self.cell.split("/")
        tags = {"model": model, "family": family, "target": target}
        name = f"{HISTORY} {target}"
        if checkpoint != HISTORY:
            tags["checkpoint"] = checkpoint
            name = f"{target} {checkpoint}"
        run_id: str = self.client.create_run(
            self.state.experiment,
            tags=tags,
            run_name=name,
        ).info.run_id
        return run_id

    def _show_views(self) -> None:
        """Lets the experiment open as model training, with the tables of variants, unless that was done before.

        What somebody else chose to have the experiment as stays.
        """
        _model, _family, checkpoint, _target = self.cell.split("/")
        own = None if checkpoint == HISTORY else checkpoint
        known = digest(mlflow_views.experiment_tags(0, own))
        if self.state.views == known:
            return
        experiment = self.client.get_experiment(self.state.experiment)
        wanted = dict(mlflow_views.experiment_tags(int(experiment.creation_time or 0), own))
        if mlflow_views.KIND_TAG not in experiment.tags:
            wanted[mlflow_views.KIND_TAG] = mlflow_views.MODEL_TRAINING
        for name, value in wanted.items():
            if experiment.tags.get(name) != value:
                self.client.set_experiment_tag(experiment.experiment_id, name, value)
        self.state.views = known
        self.save()

    # --- numbers -------------------------------------------------------------------------------------------

    def add_numbers(self, entry: Entry) -> None:
        """Parameters, metrics, data sets and tags; metrics of a variant are those of its logged model too."""
        if self.state.numbers.get(entry.name) == entry.digest:
            return  # an earlier attempt came this far
        if entry.step is not None:
            self._add_step(entry)
            return
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.state.runs[entry.run]
        model_id = self._draft(entry)
        now = int(time.time() * 1000)
        metrics = []
        for name, number in entry.metrics.items():
            metric = Metric(
                name,
                float(number),
                timestamp=now,
                step=0,
                model_id=model_id,
                run_id=run_id,
            )
            metrics.append(metric)
        parameters = []
        for name, value in entry.parameters.items():
            parameters.append(Param(name, str(value)[:PARAMETER_LETTERS]))
        tags = []
        for name, text in tags_of(entry, self.state.experiment).items():
            tags.append(RunTag(name, str(text)))
        self.client.log_batch(
            run_id,
            metrics=metrics,
            params=parameters,
            tags=tags,
        )
        self._add_datasets(entry)
        self.client.set_terminated(run_id)  # before the files, which may have to wait; a finished run still takes them
        self.state.numbers[entry.name] = entry.digest
        self.save()

    def _add_datasets(self, entry: Entry) -> None:
        from mlflow.exceptions import MlflowException

        if not entry.datasets:
            return
        inputs = [mlflow_inputs.dataset_input(about) for about in entry.datasets]
        try:
            self.client.log_inputs(self.state.runs[entry.run], datasets=inputs)
        except MlflowException as error:
            if not mlflow_server.is_missing_endpoint(error):
                raise
            self.say("this MLflow server is of a version before 2.4: it keeps no data sets of runs")

    def _add_step(self, entry: Entry) -> None:
        """The entry's metrics at its step.

        Where the step has other numbers by now, the run is followed by one with all steps: MLflow would keep both.
        """
        step = str(entry.step)
        former = self.state.runs[PARENT]
        known = self.state.steps.get(step)
        now = Step(time_ms=entry.time_ms or 0, metrics=dict(entry.metrics))
        if known != now:
            self.state.steps[step] = now
            if known is None:
                log_steps(self.client, former, {step: now})
            else:
                self.state.runs[PARENT] = self._create_parent()
                log_steps(self.client, self.state.runs[PARENT], self.state.steps)
                self.client.delete_run(former)  # what it had is in the new one
        tags = {**entry.tags, NOTE_TAG: shortened(entry.description)}
        for name, value in tags.items():
            self.client.set_tag(self.state.runs[PARENT], name, value)
        self.save()

    # --- files ---------------------------------------------------------------------------------------------

    def add_files(self, entry: Entry) -> str:
        """The entry's artifact, once: as its logged model where it is one to MLflow, else as files.

        Returns where it is, as an address of MLflow's. Raises NotFromHere where MLflow keeps files in a place that this
        machine cannot write to, and StoreError where the artifact is gone.
        """
        if not entry.artifact:
            return ""
        artifact = Artifact.from_dict(entry.artifact)
        path = self.store.checkout(artifact)
        run_id = self.state.runs[entry.run]
        if entry.model:
            address = self._add_model(entry, path)
            if entry.kind == "variant":
                self.state.models[entry.run] = address
            return address
        send = self.client.log_artifact if path.is_file() else self.client.log_artifacts
        self._upload(run_id, lambda: send(run_id, str(path), entry.kind))
        return f"runs:/{run_id}/{entry.kind}"

    def _draft(self, entry: Entry) -> str | None:
        """The logged model that belongs to the entry's run, created where it has to be; None where there is none."""
        from mlflow.exceptions import MlflowException

        key = _draft_key(entry)
        known = self.state.drafts.get(key)
        if known and mlflow_server.has_model(self.client, known):
            return known
        if known:
            self.say(f"the model of {self.cell}/{entry.run} was deleted in MLflow")
            for table in (self.state.drafts, self.state.models):
                table.pop(key, None)
        if not (entry.model and entry.artifact):
            return None
        try:
            draft = self.client.create_logged_model(
                self.state.experiment,
                name=_model_name(entry),
                source_run_id=self.state.runs[entry.run],
                params={name: str(value) for name, value in entry.parameters.items()},
            )
        except MlflowException as error:
            if not mlflow_server.is_missing_endpoint(error):
                raise
            self.say(
                "this MLflow server is of a version before 3: it keeps models in their runs, below model/ and release/"
            )
            return None
        self.state.drafts[key] = draft.model_id
        self.save()
        return draft.model_id

    def _add_model(self, entry: Entry, path: Path) -> str:
        """The artifact in MLflow's layout, so that MLflow can load it and predict. Returns the model's address."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        run_id = self.state.runs[entry.run]
        model_id = self._draft(entry)
        name = _model_name(entry)
        with self.store.workspace() as work:
            folder = work / name
            if model_id is None:
                about = Model(artifact_path=name, run_id=run_id)
                write_model(self.store, entry.model or {}, path, folder, about)
                self._upload(run_id, lambda: self.client.log_artifacts(run_id, str(folder), name))
                return f"runs:/{run_id}/{name}"
            place = self.client.get_logged_model(model_id).artifact_location
            about = Model(
                artifact_path=place,
                model_uuid=model_id,
                model_id=model_id,
                run_id=run_id,
            )
            write_model(self.store, entry.model or {}, path, folder, about)
            self._upload(run_id, lambda: self.client.log_model_artifacts(model_id, str(folder)))
        self.client.finalize_logged_model(model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        return f"models:/{model_id}"

    def _upload(self, run_id: str, send: Callable[[], None]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            send()
        except Exception as error:  # each object store's client has errors of its own
            if isinstance(error, MlflowException):  # the server's own answer, or none
                raise
            place = without_credentials(self.client.get_run(run_id).info.artifact_uri)
            said = mlflow_server.said_by(error)
            raise NotFromHere(f"{_root(place)} takes no files from here: {said}") from error


def experiment_of(client: "MlflowClient", model: str, artifacts: str | None, say: Say) -> str:
    """The experiment of a model: of its name, or of its name and a number where that one was deleted.

    A deleted experiment is not restored, because somebody wanted to be rid of its runs, and MLflow keeps its name
    taken until `mlflow gc`. Another process may create one of the same name meanwhile: it is taken as found.
    """
    from mlflow.exceptions import MlflowException

    name = model
    number = 1
    while (found := client.get_experiment_by_name(name)) is not None:
        if found.lifecycle_stage == "active":
            break
        number += 1
        name = f"{model} {number}"
    if number > 1:
        say(
            f"the experiment '{model}' was deleted in MLflow, which keeps its name: new runs go to '{name}'. "
            f"To use it again, restore it with `mlflow experiments restore`"
        )
    if found is not None:
        return found.experiment_id
    place = None
    if artifacts is not None:
        folder = name.replace(" ", "-")
        place = f"{Path(artifacts).resolve().as_uri()}/{folder}"
    kind = {mlflow_views.KIND_TAG: mlflow_views.MODEL_TRAINING}
    try:
        return client.create_experiment(name, artifact_location=place, tags=kind)
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found.experiment_id


def tags_of(entry: Entry, experiment: str) -> dict[str, str]:
    """The entry's tags, and its description as the run's note; a version's is the version's."""
    if not entry.description or entry.version:
        return dict(entry.tags)
    checkpoint = entry.cell.split("/")[2]
    links = [f"[Its variants as a table]({mlflow_views.view_path(experiment, checkpoint)})"]
    for name, title in LINKS.items():
        if name in entry.tags:
            links.append(f"[{title}]({entry.tags[name]})")
    parts = [" · ".join(links), shortened(entry.description)]
    return {**entry.tags, NOTE_TAG: "\n\n".join(parts)}


def log_steps(client: "MlflowClient", run_id: str, steps: Mapping[str, Step]) -> None:
    """Each step at the time of its checkpoint, so that what was logged before is not there twice."""
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for step, logged in steps.items():
        for name, value in logged["metrics"].items():
            metric = Metric(
                name,
                float(value),
                timestamp=logged["time_ms"],
                step=int(step),
            )
            metrics.append(metric)
    for i in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[i : i + BATCH])
    if metrics:
        client.set_terminated(run_id)


def shortened(text: str) -> str:
    """Markdown of at most so many letters as MLflow takes, cut between lines, and saying so."""
    if len(text) <= NOTE_LETTERS:
        return text
    whole = text[:NOTE_LETTERS].rpartition("\n")[0]
    left = len(text[len(whole) :].strip().splitlines())
    return f"{whole}\n\n({left} more lines: see the artifacts)"


def _model_name(entry: Entry) -> str:
    return MODEL if entry.kind == "variant" else RELEASE


def _draft_key(entry: Entry) -> str:
    """What is added to a run belongs to its variant's one model, but a run may come to be released more than once."""
    if entry.kind == "release" and entry.model:
        return entry.digest
    return entry.run


def _root(address: str) -> str:
    """The bucket or server of an address; a path as it is."""
    scheme, mark, rest = address.partition("://")
    if mark == "" or scheme == "file":
        return address
    host, _, _ = rest.partition("/")
    return f"{scheme}{mark}{host}"
