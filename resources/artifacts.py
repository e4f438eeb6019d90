"""The artifact store as a Dagster resource, and the IO manager that hands results from asset to asset."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.types import Built, Result
from edge_assets.errors import Malformed
from resources import trust
from resources.store import ArtifactStore, open_store

log = logging.getLogger(__name__)
TYPES: dict[str, type[Built] | type[Result]] = {"Built": Built, "Result": Result}


class ArtifactStoreResource(dg.ConfigurableResource):
    """The content-addressed store in a folder. `resources.s3` has the one on S3.

    Its fields are for Python: given to Dagster as it is, a run's configuration could name another store. So
    `edge_assets.wiring` hands it to Dagster without any configuration.
    """

    root: str
    cache: str

    def storage_options(self) -> dict[str, Any]:
        """What fsspec needs to reach `root`."""
        return {}

    def open(self) -> ArtifactStore:
        """The store itself."""
        return open_store(self.root, Path(self.cache), trust.verifier(), **self.storage_options())


class PointerIOManager(dg.ConfigurableIOManager):
    """Stores what an asset returns as a small JSON pointer per partition; the bytes are in the store already."""

    store: dg.ResourceDependency[ArtifactStoreResource]

    def handle_output(self, context: dg.OutputContext, obj: Built | Result) -> None:
        key = pointer_key(context.asset_key, context.asset_partition_key)
        self.store.open().point(key, {"type": type(obj).__name__, "value": obj.to_dict()})

    def load_input(self, context: dg.InputContext) -> Built | Result:
        key = pointer_key(context.asset_key, context.asset_partition_key)
        store = self.store.open()
        pointed = pointed_result(store, key)
        result = vouched(store, pointed) if pointed else None
        if result is None:
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} has no result for partition {context.asset_partition_key}: "
                f"materialize it first, or the whole group together",
                allow_retries=False,
            )
        return result


def pointed_result(store: ArtifactStore, key: str) -> Built | Result | None:
    """What an asset partition's pointer holds, or None, said once, where it is not of a shape that is known here."""
    data = store.pointer(key)
    if data is None:
        return None
    try:
        name = str(data.get("type"))
        if name not in TYPES:
            raise Malformed(f"{name[:100]} is no type of result")
        result = TYPES[name].from_dict(data.get("value") or {})
        if isinstance(result, Built) and result.runtime not in RUNTIMES:
            raise Malformed(f"{result.runtime[:100]} is no runtime")
    except Malformed as error:
        log.warning("pointer %s is taken as absent, and written anew: %s", key, error)
        return None
    return result


def vouched(store: ArtifactStore, result: Built | Result) -> Built | Result | None:
    """What of a pointer may be used: all, or, where only signed memos count, what those say. None if they do not."""
    if isinstance(result, Result):
        return store.vouched(result)
    build = store.vouched(result.build)
    evidence = store.vouched(result.evidence) if result.evidence else None
    if build is None or (result.evidence and evidence is None):
        return None
    return replace(result, build=build, evidence=evidence)


def pointer_key(asset_key: dg.AssetKey, partition_key: str) -> str:
    """Where an asset partition's pointer is: model/family/artifact/checkpoint/target."""
    return "/".join(["assets", *asset_key.path, *partition_key.split("|")])
