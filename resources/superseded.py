"""Freeing what MLflow keeps of runs that another run of the same variant replaced.

Their parameters, metrics and tags stay. Files that a registered version comes from stay too. Only files that this
machine has before it are removed, through MLflow's own interface to them; what a server keeps is the server's to free.
"""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from resources import folders
from resources.collection import Freed, Policy

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList

T = TypeVar("T")
KIND = "MLflow artifacts of superseded runs"
SUPERSEDED = "tags.superseded = 'true'"
COLLECTED = "artifacts"  # the tag that says that a superseded run's files were freed
PAGE = 1000


def collect(uri: str, policy: Policy, freed: Freed) -> None:
    """Free the files of superseded runs at the tracking address `uri`; what cannot be freed from here is noted."""
    if urlsplit(uri).scheme in ("http", "https"):
        freed.notes.append(
            "MLflow is a server: nothing of it is freed from here. Delete its runs with the tag superseded = true "
            "there, and then run `mlflow gc` on it"
        )
        return
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return  # nothing was logged yet
    import logging

    import mlflow

    for name in ("mlflow", "alembic"):  # set after the import, which configures them
        logging.getLogger(name).setLevel(logging.ERROR)
    client = mlflow.MlflowClient(uri)
    runs, models = _registered(client)
    until = (time.time() - max(policy.older_than, policy.grace)) * 1000
    elsewhere = 0
    for run in _superseded(client, policy.models):
        ended = run.info.end_time or run.info.start_time
        if run.info.run_id in runs or ended > until or COLLECTED in run.data.tags:
            continue
        places = [run.info.artifact_uri, *_models_of(client, run, models)]
        local = [place for place in places if _is_local(place)]
        elsewhere += len(local) < len(places)
        size = sum(folders.size_of(_path(place)) for place in local)
        if local:
            freed.add(KIND, size)
        if local and not policy.dry_run:
            _delete(local)
            client.set_tag(run.info.run_id, COLLECTED, "freed")
    if elsewhere:
        freed.notes.append(f"{elsewhere} superseded runs have files that are not on this machine: they stay")


def _superseded(client: "MlflowClient", models: Collection[str]) -> Iterator["Run"]:
    """Superseded runs of the models named, or of all: an experiment has its model's name, or that and a number."""
    experiments = []
    for experiment in _pages(lambda token: client.search_experiments(page_token=token)):
        if not models or experiment.name.partition(" ")[0] in models:
            experiments.append(experiment.experiment_id)
    if not experiments:
        return
    yield from _pages(
        lambda token: client.search_runs(
            experiments,
            SUPERSEDED,
            max_results=PAGE,
            page_token=token,
        ),
    )


def _registered(client: "MlflowClient") -> tuple[set[str], set[str]]:
    """Ids of the runs and of the logged models that a registered version comes from."""
    versions = _pages(lambda token: client.search_model_versions(page_token=token))
    runs, models = set(), set()
    for version in versions:
        if version.run_id:
            runs.add(version.run_id)
        if version.model_id:
            models.add(version.model_id)
        if version.source:
            models.add(version.source.removeprefix("models:/"))
    return runs, models


def _models_of(client: "MlflowClient", run: "Run", registered: Collection[str]) -> Iterator[str]:
    """Where the models lie that a run logged, but for registered ones."""
    from mlflow.exceptions import MlflowException

    for output in run.outputs.model_outputs if run.outputs else ():
        try:
            model = client.get_logged_model(output.model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue  # somebody deleted it
        if model.source_run_id == run.info.run_id and output.model_id not in registered:
            yield model.artifact_location


def _delete(places: Collection[str]) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for place in places:
        get_artifact_repository(place).delete_artifacts()


def _is_local(place: str) -> bool:
    return urlsplit(place).scheme in ("", "file") and _path(place).is_dir()


def _path(place: str) -> Path:
    return Path(unquote(urlsplit(place).path))


def _pages(ask: "Callable[[str | None], PagedList[T]]") -> Iterator[T]:
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
