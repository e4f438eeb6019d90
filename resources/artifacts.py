"""The artifact store as a Dagster resource, and the IO manager that hands results from asset to asset."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from edge_assets.core import failures
from resources import trust
from resources.pointers import Pointed, pointed_result, pointer_key, vouched
from resources.store import ArtifactStore, open_store


class ArtifactStoreResource(dg.ConfigurableResource["ArtifactStoreResource"]):
    """The content-addressed store in a folder. `resources.s3` has the one on S3.

    Its fields are for Python: given to Dagster as it is, a run's configuration could name another store. So
    `edge_assets.defs.resources` hands it to Dagster without any configuration.
    """

    root: str
    cache: str

    def storage_options(self) -> dict[str, object]:
        """What fsspec needs to reach `root`."""
        return {}

    def open(self) -> ArtifactStore:
        """The store itself."""
        return open_store(self.root, Path(self.cache), trust.verifier(), **self.storage_options())


@contextmanager
def as_failures(cache: Path, name: str) -> Iterator[None]:
    """Every error of the block as a Failure of one message; where there is more to tell, a log in `cache` has it."""
    try:
        yield
    except Exception as error:
        message = failures.report(error, cache / failures.FOLDER, name)
        raise dg.Failure(message, allow_retries=False) from None


class PointerIOManager(dg.ConfigurableIOManager):
    """Stores what an asset returns as a small JSON pointer per partition; the bytes are in the store already."""

    store: dg.ResourceDependency[ArtifactStoreResource]

    def handle_output(self, context: dg.OutputContext, obj: Pointed) -> None:
        key = pointer_key(context.asset_key.path, context.asset_partition_key)
        with as_failures(Path(self.store.cache), f"{context.asset_key.to_user_string()} {context.asset_partition_key}"):
            self.store.open().pointers.set(key, {"type": type(obj).__name__, "value": obj.to_dict()})

    def load_input(self, context: dg.InputContext) -> Pointed:
        """Raises Failure where there is nothing, or what an earlier version handed on in another form."""
        key = pointer_key(context.asset_key.path, context.asset_partition_key)
        with as_failures(Path(self.store.cache), f"{context.asset_key.to_user_string()} {context.asset_partition_key}"):
            store = self.store.open()
            pointed = pointed_result(store, key)
            result = vouched(store, pointed) if pointed else None
        if result is None or not isinstance(result, _expected(context)):
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} has no result for partition {context.asset_partition_key}: "
                f"materialize it first, or the whole group together",
                allow_retries=False,
            )
        return result


def _expected(context: dg.InputContext) -> type[object]:
    """The class that the asset's function takes, where it says so."""
    wanted: object = context.dagster_type.typing_type
    if wanted is Any or not isinstance(wanted, type):
        return object
    return wanted
