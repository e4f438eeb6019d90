"""The two web servers, each behind the guard: `python -m edge_assets.cli.webservers dagster|mlflow ...`.

`edge-assets serve` starts them. Both are the applications that `dagster-webserver` and `mlflow server` would serve.
"""

import os
from pathlib import Path

import click
import uvicorn
from starlette.types import ASGIApp

from edge_assets.cli.guard import Door, Guard
from edge_assets.core import garbage
from edge_assets.settings import allowed_hosts, home, token

HOST = "127.0.0.1"
POLL_MILLISECONDS = 2000  # how often Dagster's pages ask for what changed
DATABASE = {"statement_timeout": 15_000, "pool_recycle": 3600, "max_overflow": 20}  # dagster-webserver's


@click.group()
def main() -> None:
    """Serve one of the two until told to stop."""
    garbage.look_less_often()


@main.command()
@click.option("--port", type=int, required=True)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    required=True,
    help="Which code server to show.",
)
def dagster(port: int, workspace: Path) -> None:
    """Dagster's web server over the instance in DAGSTER_HOME."""
    import dagster as dg
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster._utils.log import configure_loggers
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    configure_loggers()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(**DATABASE)
        target = WorkspaceFileTarget([str(workspace)])
        with WorkspaceProcessContext(
            instance,
            workspace_load_target=target,
            version=__version__,
        ) as context:
            app = create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MILLISECONDS)
            run(app, Door(port, allowed_hosts(), token()), graphql=True)


@main.command()
@click.option("--port", type=int, required=True)
def mlflow(port: int) -> None:
    """MLflow's tracking server over the database and the artifacts in the state folder."""
    folder = home().mlflow
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    # what `mlflow server` hands to the process that serves; read when the modules are imported
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (folder / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven idle processes otherwise
    }
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, uri, "mlflow-artifacts:/")
    from mlflow.server.fastapi_app import app

    door = Door(
        port=port,
        allowed_hosts=allowed_hosts(),
        token=token(),
        open_paths=frozenset({"/health"}),
    )
    run(app, door, graphql=False)


def run(app: ASGIApp, door: Door, graphql: bool) -> None:
    """Serve an application to those whom its door lets in, until SIGTERM."""
    uvicorn.run(
        Guard(app, door, graphql),
        host=HOST,
        port=door.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
