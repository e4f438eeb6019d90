"""What each asset partition has now: a small JSON pointer per partition, read by the IO manager, plans and gc."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.types import Built, Result
from edge_assets.errors import Malformed
from resources.store import ArtifactStore

log = logging.getLogger(__name__)
TYPES: dict[str, type[Built] | type[Result]] = {"Built": Built, "Result": Result}


def pointer_key(asset: Sequence[str], partition_key: str) -> str:
    """Where an asset partition's pointer is: assets/model/family/artifact/checkpoint/target."""
    return "/".join(["assets", *asset, *partition_key.split("|")])


def pointed_result(store: ArtifactStore, key: str) -> Built | Result | None:
    """What an asset partition's pointer holds, or None, said once, where it is not of a shape that is known here."""
    data = store.pointers.get(key)
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
        return store.memos.vouched(result)
    build = store.memos.vouched(result.build)
    evidence = store.memos.vouched(result.evidence) if result.evidence else None
    if build is None or (result.evidence and evidence is None):
        return None
    return replace(result, build=build, evidence=evidence)
