"""The resources of this installation, from the environment."""

import os
from typing import Any

from edge_assets.settings import home
from resources.artifacts import ArtifactStoreResource, PointerIOManager
from resources.tracking import MLflowTracking


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


def resources() -> dict[str, Any]:
    """Dagster resources by key."""
    store = store_resource()
    return {"store": store, "pointers": PointerIOManager(store=store), "tracking": tracking_resource(store)}
