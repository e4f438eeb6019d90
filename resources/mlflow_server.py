"""A connection to MLflow, and whose fault it is when MLflow does not take something.

Three answers: the server's or the way's to it (nothing more is sent in this run), this machine's (it may not write
where the server keeps files, or not to one experiment), or the entry's own.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from edge_assets.addresses import hide_credentials, without_credentials
from edge_assets.errors import one_line, shortened
from edge_assets.hashing import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEALTH_SECONDS = 3
CREATION_SECONDS = 120  # so long another process may take to create the database
REQUEST_SECONDS = 60  # uploads too; no request is tried a second time, because the outbox does that
OUTAGE = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
UNKNOWN_USER = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")


class Outage(Exception):
    """MLflow cannot be used now. The message says why, without any credentials."""


class NotFromHere(Exception):
    """Something that this machine may not do, and another may. The message says what and why."""


def connect(uri: str) -> "MlflowClient":
    """A client of the MLflow at `uri`, which has answered just now.

    Raises Outage within a few seconds where nothing answers, and where what answers is not a usable MLflow: a login
    page, a database of another kind or of a later version.
    """
    try:
        if uri.startswith(("http://", "https://")):
            _check_health(uri)
        with _alone_with(uri):
            client = _client(uri)
            client.search_experiments(max_results=1)
    except Outage:
        raise
    except ImportError as error:
        raise Outage(f"the package mlflow cannot be imported: {said_by(error)}") from error
    except Exception as error:  # whatever it is: nothing was sent yet, so no entry is to blame
        raise Outage(said_by(error)) from error
    return client


def server_digest(uri: str) -> str:
    """What tells one MLflow from another in the store, which others read: no path, no password, and none to guess."""
    return digest(["mlflow", without_credentials(uri).rstrip("/")])


def has_run(client: "MlflowClient", run_id: str) -> bool:
    """Whether the run is there and was not deleted."""
    return _is_active(lambda: client.get_run(run_id).info.lifecycle_stage == "active")


def has_model(client: "MlflowClient", model_id: str) -> bool:
    """Whether the logged model is there and was not deleted."""
    return _is_active(lambda: client.get_logged_model(model_id) is not None)


def is_outage(error: BaseException) -> bool:
    """Whether the server, or the way to it, is at fault, so that the next entry would fare no better."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    for cause in _chain(error):
        if isinstance(cause, requests.ConnectionError | requests.Timeout | ConnectionError | TimeoutError):
            return True
        if isinstance(cause, OperationalError):
            return True
        if isinstance(cause, MlflowException) and cause.error_code in (*OUTAGE, *UNKNOWN_USER):
            return True
    return False


def is_missing_endpoint(error: BaseException) -> bool:
    """Whether the server does not know the request at all: an MLflow of an earlier major version."""
    code = getattr(error, "error_code", None)
    return code == "ENDPOINT_NOT_FOUND" or "{'detail': 'Not Found'}" in str(error)


def is_absent(error: BaseException) -> bool:
    """Whether the server knows the request and not what it asks for."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def is_forbidden(error: BaseException) -> bool:
    """Whether this user may not do this; what concerns another experiment may be allowed."""
    return getattr(error, "error_code", None) == "PERMISSION_DENIED"


def said_by(error: BaseException) -> str:
    """An error's first line as it may be logged."""
    whole = one_line(error, limit=len(str(error)))  # half an address would keep half of its password
    return shortened(hide_credentials(whole))


def _is_active(ask: Callable[[], bool]) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if is_absent(error):
            return False
        raise


def _check_health(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        # MLflow's own request: with its certificates, proxies and credentials
        answer = http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            max_retries=0,
            timeout=HEALTH_SECONDS,
            raise_on_status=False,
        )
    except Exception as error:
        raise Outage(_reason(error)) from error
    if answer.status_code >= 500:
        raise Outage(f"it answers {answer.status_code}")


def _reason(error: BaseException) -> str:
    """The commonest reasons in a few words; MLflow's name the request first."""
    if "timed out" in str(error):  # urllib3 tells it in words only, after its retries
        return f"no answer within {HEALTH_SECONDS} s"
    if any(isinstance(cause, ConnectionRefusedError) for cause in _chain(error)):
        return "connection refused"
    return said_by(error)


@contextmanager
def _alone_with(uri: str) -> Iterator[None]:
    """One process at a time opens a database that is a file: whoever is first creates its tables."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=CREATION_SECONDS):
        _check_database(path)
        yield


def _check_database(path: Path) -> None:
    """SQLAlchemy would try a file that it cannot open for a hundred seconds."""
    import sqlite3

    try:
        with closing(sqlite3.connect(path, timeout=HEALTH_SECONDS)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise Outage(said_by(error)) from error


def _client(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # requirements of models are stated, not the project's
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with the address as it was given, password and all
    import mlflow

    for name in ("mlflow", "alembic"):  # set after the import, which configures them
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
