"""What each asset partition has now: a small JSON pointer per partition, read by the IO manager, plans and gc."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.types import Built, Report, Result
from edge_assets.errors import Malformed
from resources.store import ArtifactStore

log = logging.getLogger(__name__)
Pointed = Built | Report | Result  # what an asset hands to the next
TYPES: dict[str, type[Built] | type[Report] | type[Result]] = {"Built": Built, "Report": Report, "Result": Result}


def pointer_key(asset: Sequence[str], partition_key: str) -> str:
    """Where an asset partition's pointer is: assets/model/family/artifact/checkpoint/target."""
    return "/".join(["assets", *asset, *partition_key.split("|")])


def pointed_result(store: ArtifactStore, key: str) -> Pointed | None:
    """What an asset partition's pointer holds, or None, said once, where it is not of a shape that is known here."""
    data = store.pointers.get(key)
    if data is None:
        return None
    try:
        name = str(data.get("type"))
        if name not in TYPES:
            raise Malformed(f"{name[:100]} is no type of result")
        result = TYPES[name].from_dict(data.get("value") or {})
        for built in builts_of(result):
            if built.runtime not in RUNTIMES:
                raise Malformed(f"{built.runtime[:100]} is no runtime")
            build_session(built.runtime, built.build)
    except Malformed as error:
        log.warning("pointer %s is taken as absent, and written anew: %s", key, error)
        return None
    return result


def builts_of(result: Pointed) -> tuple[Built, ...]:
    """The variants that a pointer holds."""
    if isinstance(result, Report):
        return result.builts
    if isinstance(result, Built):
        return (result,)
    return ()


def results_of(result: Pointed) -> Iterator[Result]:
    """The results of steps that a pointer holds."""
    for built in builts_of(result):
        yield built.build
        if built.evidence:
            yield built.evidence
        yield from built.elsewhere or ()
    if isinstance(result, Report):
        yield result.measurement
    if isinstance(result, Result):
        yield result


def vouched(store: ArtifactStore, result: Pointed) -> Pointed | None:
    """What of a pointer may be used: all, or, where only signed memos count, what those say. None if they do not."""
    if isinstance(result, Result):
        return store.memos.vouched(result)
    if isinstance(result, Built):
        return _vouched_built(store, result)
    measurement = store.memos.vouched(result.measurement)
    builts = []
    for built in result.builts:
        trusted = _vouched_built(store, built)
        if trusted is None:
            return None
        builts.append(trusted)
    return Report(tuple(builts), measurement) if measurement else None


def _vouched_built(store: ArtifactStore, built: Built) -> Built | None:
    build = store.memos.vouched(built.build)
    evidence = store.memos.vouched(built.evidence) if built.evidence else None
    if build is None or (built.evidence and evidence is None):
        return None
    return replace(built, build=build, evidence=evidence)
