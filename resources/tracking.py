"""MLflow: a parent run per checkpoint and target, a child run per variant, releases as registered versions.

A run per target goes on over the checkpoints: each is a step.

Every entry is first written to an outbox in the store and removed once MLflow has it. If MLflow cannot be used, the
run says so and goes on: nothing that MLflow does or does not do fails an asset. Whatever runs next sends what is
waiting. Run ids are kept in the store, so that nothing is ever searched for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from edge_assets.addresses import without_credentials
from edge_assets.settings import dagster_url, mlflow_url
from resources import mlflow_server, mlflow_views
from resources.artifacts import ArtifactStoreResource
from resources.mlflow_cell import CellLog, CellRuns, shortened
from resources.mlflow_server import NotFromHere, Outage
from resources.outbox import WAITING, Entry, OfLaterVersion, Outbox
from resources.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RELEASED = "released"  # the alias of the version in production
VARIANTS = "table of variants"  # among the addresses that `log` returns by run: no run has a name with spaces
NOT_LOGGED = "not logged yet: the run's log says why, and a later run logs it"
FAILURES = 5  # in so many runs an entry may fail by its own fault before it is put aside
AGAIN_SECONDS = 300  # so long a process does not try again what failed: all assets of a run are one process
Say = Callable[[str], None]
Tell = Callable[[str, str], None]  # what it is about, and the sentence


@dataclass
class Memory:
    """What this process found out about one MLflow, so that the next asset of the run need not find out again."""

    outage: str = ""
    files: str = ""  # why files cannot be kept
    until: dict[str, float] = field(default_factory=dict)  # "outage", "files" or an entry's key -> when to try again
    failures: dict[str, str] = field(default_factory=dict)  # an entry's key -> what was said
    told: set[tuple[str, str]] = field(default_factory=set)  # cell and what about: a run's log has each thing once

    def rests(self, what: str) -> bool:
        """Whether it is too early to try again."""
        return time.monotonic() < self.until.get(what, 0)

    def rest(self, what: str) -> None:
        self.until[what] = time.monotonic() + AGAIN_SECONDS


_memories: dict[tuple[str, str], Memory] = {}  # by server and store


class MLflowTracking(dg.ConfigurableResource["MLflowTracking"]):
    """Logs entries to the tracking server or file at `uri`."""

    uri: str
    artifacts: str  # where a new experiment keeps artifacts when `uri` is a file
    store: dg.ResourceDependency[ArtifactStoreResource]

    def log(self, entries: list[Entry], say: Say) -> dict[str, str]:
        """Put entries in the outbox and send all that wait.

        Returns the web addresses of the first entry's cell: of the entries' runs by name, and of the table of its
        checkpoint's variants as `VARIANTS`.
        Never raises for what MLflow answers; `say` gets what could not be sent, and why.
        """
        store = self.store.open()
        memory, server = self._memory(store), mlflow_server.server_digest(self.uri)
        for entry in entries:
            state = CellRuns.read(store, entry.cell)
            known = state.logged.get(entry.name) if state.server == server else None
            if known != entry.digest:
                Outbox(store).put(entry)
                memory.until.pop(entry.key, None)
        if not entries:
            return {}
        cell = entries[0].cell

        def once(about: str, sentence: str) -> None:
            if (cell, about) not in memory.told:
                memory.told.add((cell, about))
                say(sentence)

        self._send_waiting(store, once)
        addresses = {VARIANTS: self.variants_url(store, cell)}
        for entry in entries:
            if entry.cell == cell:
                addresses[entry.run] = self.run_url(store, cell, entry.run)
        return addresses

    def flush(self, say: Say) -> None:
        """Send what waits in the outbox, and say what does not go and why."""
        self._send_waiting(self.store.open(), lambda _about, sentence: say(sentence))

    def run_url(self, store: ArtifactStore, cell: str, run: str) -> str:
        """Web address of a run, or a sentence saying that it waits."""
        state = CellRuns.read(store, cell)
        run_id = state.runs.get(run)
        if run_id is None or state.server != mlflow_server.server_digest(self.uri):
            return NOT_LOGGED
        return f"{without_credentials(mlflow_url())}/{mlflow_views.run_path(state.experiment, run_id)}"

    def variants_url(self, store: ArtifactStore, cell: str) -> str:
        """Web address of the table of all variants of the cell's checkpoint, or a sentence saying that it waits.

        The page sorts by any column. `cell` is `model/family/checkpoint/target`, of any target that was logged.
        """
        state = CellRuns.read(store, cell)
        if not state.views or state.server != mlflow_server.server_digest(self.uri):
            return NOT_LOGGED
        path = mlflow_views.view_path(state.experiment, cell.split("/")[2])
        return f"{without_credentials(mlflow_url())}/{path}"

    # --- sending -----------------------------------------------------------------------------------------

    @property
    def _shown(self) -> str:
        return without_credentials(self.uri)

    def _memory(self, store: ArtifactStore) -> Memory:
        return _memories.setdefault((self.uri, str(store.root)), Memory())

    def _send_waiting(self, store: ArtifactStore, tell: Tell) -> None:
        outbox, memory = Outbox(store), self._memory(store)
        if not outbox.keys():
            return
        if not memory.rests("outage"):
            memory.outage = ""
            try:
                with store.workspaces.alone("mlflow"):  # two that send the same entry would both log it
                    client = mlflow_server.connect(self.uri)
                    waiting, sent = outbox.keys(), 0
                    for key in waiting:
                        sent += self._try(client, outbox, key, tell, others_went=sent > 0)
            except Outage as outage:
                memory.outage = str(outage)
                memory.rest("outage")
        if memory.outage:
            problem = f"MLflow is not reachable at {self._shown}: {memory.outage}"
            tell("outage", f"{problem}. {len(outbox.keys())} entries wait and are logged by the next run")
        elif memory.rests("files"):
            tell("files", f"{memory.files}. {len(outbox.keys())} entries wait for a machine that may write there")

    def _try(
        self,
        client: "MlflowClient",
        outbox: Outbox,
        key: str,
        tell: Tell,
        others_went: bool,
    ) -> bool:
        """Send one entry and return whether it went. Whatever is wrong with it is said, and it is kept.

        Raises Outage.
        """
        memory = self._memory(outbox.store)
        if memory.rests(key):
            tell(key, memory.failures[key])
            return False
        name = key.removeprefix(f"{WAITING}/")
        try:
            return self._send(client, outbox, key, tell)
        except OfLaterVersion as later:
            problem = f"{name} is kept for a later version of edge-assets: {later}"
        except NotFromHere as elsewhere:
            memory.files = f"MLflow at {self._shown} has the numbers, but {elsewhere}"
            memory.rest("files")
            return False
        except Exception as error:  # one entry's trouble, of any kind, must not fail the asset that happens to log
            reason = mlflow_server.said_by(error)
            if mlflow_server.is_outage(error):
                raise Outage(self._interrupted(outbox, key, reason, others_went)) from error
            problem = f"MLflow at {self._shown} did not take {name}: {reason}. "
            if mlflow_server.is_forbidden(error) or outbox.count_failure(key) < FAILURES:
                problem += "It waits and is logged by the next run"
            else:
                problem += outbox.refuse(key)
        memory.failures[key] = problem
        memory.rest(key)
        tell(key, problem)
        return False

    def _interrupted(self, outbox: Outbox, key: str, reason: str, others_went: bool) -> str:
        """What is said where the server stopped answering. Where it took others just before, the entry may be why."""
        said = f"{reason} (as {key.removeprefix(f'{WAITING}/')} was sent)"
        if not others_went:
            outbox.postpone(key)
        elif outbox.count_failure(key) >= FAILURES:
            said += f". {outbox.refuse(key)}"
        return said

    def _send(self, client: "MlflowClient", outbox: Outbox, key: str, tell: Tell) -> bool:
        """Log one entry. False if it has to wait for another, or for a machine that may keep files."""
        entry = outbox.read(key)
        if entry is None:
            return True  # another machine was faster
        no_files = bool(entry.artifact) and self._memory(outbox.store).rests("files")
        if no_files and CellRuns.read(outbox.store, entry.cell).numbers.get(entry.name) == entry.digest:
            return False
        log = CellLog.open(
            client, outbox.store, entry.cell, self.uri, self.artifacts, say=lambda sentence: tell(sentence, sentence)
        )
        opener = f"{WAITING}/{entry.cell}/variant-{entry.run}"
        if entry.kind != "variant" and entry.run not in log.state.runs and outbox.waits(opener):
            return False
        run_id = log.run_for(entry)
        log.add_numbers(entry)
        if no_files:
            return False
        source = log.add_files(entry)
        if entry.version:
            if not entry.model:  # an earlier version of edge-assets wrote it: the variant's model is what loads
                source = log.state.models.get(entry.run, source)
            _register(client, source, run_id, entry, log.say)
        log.finish(entry)
        outbox.drop(entry)
        return True


def variant_tags(cell: str, **tags: str) -> dict[str, str]:
    """The tags that every run carries."""
    model, family, checkpoint, target = cell.split("/")
    return {"model": model, "family": family, "checkpoint": checkpoint, "target": target, **tags}


def dagster_tags(run_id: str) -> dict[str, str]:
    """The way back: which Dagster run made this."""
    return {"dagster.run_id": run_id, "dagster.run_url": f"{dagster_url()}/runs/{run_id}"}


def _register(client: "MlflowClient", source: str, run_id: str, entry: Entry, say: Say) -> None:
    """A version of the registered model `<model>.<target>`, and the alias `released` on it.

    The same content is registered once; the alias never moves from a newer checkpoint to an older one. `source` is the
    address of the released folder in MLflow.
    """
    from mlflow.exceptions import MlflowException

    assert entry.version is not None
    model, _family, _checkpoint, target = entry.cell.split("/")
    name, description = f"{model}.{target}", shortened(entry.description)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {name: str(value) for name, value in entry.version.items()}
    version = _version_of(client, name, tags)
    if version is None:
        is_logged_model = source.startswith("models:/")
        model_id = source.removeprefix("models:/") if is_logged_model else None
        version = client.create_model_version(
            name,
            source,
            run_id,
            tags=tags,
            description=description,
            model_id=model_id,
        )
    elif not version.description:  # registered by an earlier version of edge-assets
        client.update_model_version(name, version.version, description)
    client.set_tag(run_id, "registered_version", f"{name}/{version.version}")
    try:
        current = client.get_model_version_by_alias(name, RELEASED)
    except MlflowException as error:
        if mlflow_server.is_outage(error):
            raise
        current = None
    if current is None or _order(current.tags) <= _order(tags):
        _describe(client, name, description, current)
        _set_alias(client, name, version.version, say)


def _describe(
    client: "MlflowClient",
    name: str,
    description: str,
    former: "ModelVersion | None",
) -> None:
    """Describes the registered model as its released version, unless a person wrote something there."""
    shown = client.get_registered_model(name).description or ""
    ours = {"", former.description if former else ""}
    was_written_by_us = shown in ours or shown.startswith("Releases of ")  # as earlier versions had it
    if was_written_by_us and shown != description:
        client.update_registered_model(name, description)


def _order(tags: Mapping[str, str]) -> tuple[int, float]:
    """Which of two versions is of a newer checkpoint: `Checkpoint.order`. Older versions have no number."""
    return int(tags.get("number", 0)), float(tags.get("registered", 0))


def _set_alias(client: "MlflowClient", name: str, version: str, say: Say) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.set_registered_model_alias(name, RELEASED, version)
    except MlflowException as error:
        if not mlflow_server.is_missing_endpoint(error):
            raise
        say(f"this MLflow server is of a version before 2.3: it has no aliases, so none marks {name}/{version}")


def _version_of(
    client: "MlflowClient",
    name: str,
    tags: Mapping[str, str],
) -> "ModelVersion | None":
    """The version that has this content in this flavor, if the run that it came from is still there."""
    for version in client.search_model_versions(f"name = '{name}'"):
        same = all(version.tags.get(tag) == tags.get(tag) for tag in ("release_sha256", "flavor"))
        if same and version.run_id and mlflow_server.has_run(client, version.run_id):
            return version
    return None
