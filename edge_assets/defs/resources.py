"""The resources of this installation, from the environment alone.

None of them takes configuration: where artifacts are read from and written to, and which server hears of them, must not
be for a run to say, which anybody may launch who can reach the web server.
"""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import dagster as dg

from edge_assets.defs.running import executing
from edge_assets.settings import home
from resources.artifacts import ArtifactStoreResource, PointerIOManager
from resources.tracking import MLflowTracking

T = TypeVar("T")


def store_resource() -> ArtifactStoreResource:
    """The store at `EDGE_ASSETS_STORE`, or in the state folder."""
    settings = home()
    if not settings.store.startswith("s3://"):
        return ArtifactStoreResource(root=settings.store, cache=str(settings.cache))
    from dagster_aws.s3 import S3Resource  # a second of imports that only S3 users pay

    from resources.s3 import S3ArtifactStoreResource

    s3 = S3Resource(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    )
    return S3ArtifactStoreResource(root=settings.store, cache=str(settings.cache), s3=s3)


def tracking_resource(store: ArtifactStoreResource) -> MLflowTracking:
    """MLflow at `MLFLOW_TRACKING_URI`, or a SQLite file in the state folder."""
    settings = home()
    return MLflowTracking(uri=settings.tracking_uri, artifacts=str(settings.mlflow / "artifacts"), store=store)


def resources() -> dict[str, dg.ResourceDefinition]:
    """Dagster resources by key. A run's configuration that names one of them with a value is refused."""
    store = store_resource()
    pointers = PointerIOManager(store=store)
    tracking = tracking_resource(store)
    io_manager = dg.IOManagerDefinition(_given(pointers), config_schema={}, description="Pointers to the store.")
    return {
        "store": dg.ResourceDefinition(_marking(store), config_schema={}, description="The artifact store."),
        "tracking": dg.ResourceDefinition(_given(tracking), config_schema={}, description="Logging to MLflow."),
        "pointers": io_manager,
        "io_manager": io_manager,  # Dagster's own default would pickle into a folder that a run may name
    }


def _given(resource: T) -> Callable[[dg.InitResourceContext], T]:
    return lambda _context: resource


def _marking(store: ArtifactStoreResource) -> Callable[[dg.InitResourceContext], Iterator[ArtifactStoreResource]]:
    """The store, which every run uses: the process that opens it for a run is the one that executes the run."""

    def give(context: dg.InitResourceContext) -> Iterator[ArtifactStoreResource]:
        if context.run is None or context.instance is None:  # a sensor or a schedule
            yield store
            return
        with executing(context.instance, context.run):
            yield store

    return give
