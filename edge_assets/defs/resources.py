"""The resources of this installation, from the environment alone.

None of them takes configuration from a run: where artifacts are read from and written to, and which server hears of
them, must not be for a run to say, which anybody may launch who can reach the web server. Dagster's page shows by name
which variable of the environment decides what; a run's configuration may name that very variable and nothing else.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TypeVar

import dagster as dg

from edge_assets.defs.running import executing
from edge_assets.settings import home
from resources.artifacts import ArtifactStoreResource, PointerIOManager
from resources.tracking import MLflowTracking

T = TypeVar("T")
# Settings by name: the variable that decides, and what holds without it.
Settings = Mapping[str, tuple[str, str]]
STORE: Settings = {
    "root": ("EDGE_ASSETS_STORE", "A folder or s3://bucket/prefix; default: the folder store of the state folder"),
    "state_folder": ("EDGE_ASSETS_HOME", "Where caches, releases and databases are; default: .edge-assets"),
    "trusted_keys": ("EDGE_ASSETS_TRUSTED_KEYS", "Take only what these keys signed; default: take all"),
}
S3: Settings = {
    "endpoint_url": ("AWS_ENDPOINT_URL_S3", "Default: AWS_ENDPOINT_URL, else Amazon's own"),
    "region_name": ("AWS_REGION", "Default: AWS_DEFAULT_REGION, else as boto's configuration says"),
}
TRACKING: Settings = {
    "uri": ("MLFLOW_TRACKING_URI", "Default: the SQLite file of the state folder, which `edge-assets serve` shows"),
    "mlflow_url": ("EDGE_ASSETS_MLFLOW_URL", "Where links in Dagster lead; default: the server's own address"),
    "dagster_url": ("EDGE_ASSETS_DAGSTER_URL", "Where links in MLflow lead; default: http://127.0.0.1:3000"),
}


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
    return MLflowTracking(
        uri=settings.tracking_uri,
        artifacts=str(settings.mlflow / "artifacts"),
        store=store,
    )


def resources() -> dict[str, dg.ResourceDefinition]:
    """Dagster resources by key. A run's configuration that gives one of them a value is refused."""
    store = store_resource()
    pointers = PointerIOManager(store=store)
    tracking = tracking_resource(store)
    in_store = dict(STORE)
    if store.root.startswith("s3://"):
        in_store |= S3
    io_manager = dg.IOManagerDefinition(
        _given(pointers),
        config_schema={},
        description="Pointers to the store.",
    )
    return {
        "store": dg.ResourceDefinition(
            _marking(store),
            config_schema=environment(in_store),
            description="The artifact store.",
        ),
        "tracking": dg.ResourceDefinition(
            _given(tracking),
            config_schema=environment(TRACKING),
            description="Logging to MLflow.",
        ),
        "pointers": io_manager,
        "io_manager": io_manager,  # Dagster's own default would pickle into a folder that a run may name
    }


def environment(settings: Settings) -> dict[str, dg.Field]:
    """The configuration of a resource whose settings are variables of the environment, set or not.

    Each setting's type has one value: the reference to its variable. What that variable says is read by `settings`,
    with its default, and not by Dagster, which would fail where it is not set and show its value where it is.
    """
    fields = {}
    for name, (variable, description) in settings.items():
        itself = dg.Shape({"env": dg.Enum(f"{variable}_alone", [dg.EnumValue(variable)])})
        itself.key = f"{variable} of the environment"  # the page shows it as the type; Dagster's own is a hash
        fields[name] = dg.Field(itself, default_value=dg.EnvVar(variable), description=description)
    return fields


def _given(resource: T) -> Callable[[dg.InitResourceContext], T]:
    def give(_context: dg.InitResourceContext) -> T:
        return resource

    _call_after(give, resource)
    return give


def _marking(store: ArtifactStoreResource) -> Callable[[dg.InitResourceContext], Iterator[ArtifactStoreResource]]:
    """The store, which every run uses: the process that opens it for a run is the one that executes the run."""

    def give(context: dg.InitResourceContext) -> Iterator[ArtifactStoreResource]:
        if context.run is None or context.instance is None:  # a sensor or a schedule
            yield store
            return
        with executing(context.instance, context.run):
            yield store

    _call_after(give, store)
    return give


def _call_after(give: Callable[..., object], resource: object) -> None:
    """Give a function the name of what it gives, which Dagster's page shows as the resource's type."""
    assert isinstance(give, FunctionType)
    give.__module__, give.__name__ = type(resource).__module__, type(resource).__name__
