"""The rows that are kept of every judged cell: what the scorecard page, the command line and plans read."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from edge_assets.core.evidence import Row, Rows
from edge_assets.core.shapes import read as read_as
from edge_assets.core.shapes import record
from edge_assets.errors import EdgeAssetsError, Malformed
from edge_assets.families.families import family_targets
from edge_assets.spec.model import ModelSpec
from resources import checkpoints
from resources.checkpoints import Checkpoint
from resources.store import ArtifactStore

log = logging.getLogger(__name__)


def write(store: ArtifactStore, path: str, rows: Sequence[Row]) -> None:
    """Keep the rows of one cell, `path` being model/family/checkpoint/target."""
    store.pointers.set(_key(path), record(Rows(rows=tuple(rows))))


def read(store: ArtifactStore, path: str) -> tuple[Row, ...]:
    """The rows of one cell, as `write` kept them; none where it was never judged, or where they have another shape.

    That is said once, and the cell's next build writes them anew.
    """
    kept = store.pointers.get(_key(path))
    if kept is None:
        return ()
    try:
        return read_as(Rows, kept).rows
    except Malformed as error:
        _warn_once(f"pointer {_key(path)} is taken as absent, and written anew: {error}")
        return ()


def mark_reused(store: ArtifactStore, path: str) -> None:
    """Say of every row of a cell that the last build reused it."""
    kept = read(store, path)
    if not all(row.reused for row in kept):
        reused = [replace(row, reused=True) for row in kept]
        store.pointers.hint(_key(path), record(Rows(rows=tuple(reused))))


def of_checkpoint(store: ArtifactStore, spec: ModelSpec, checkpoint: str) -> list[Row]:
    """Rows of all targets that were judged for this checkpoint, in the order of families and targets."""
    found: list[Row] = []
    for family, targets in family_targets(spec):
        for target in targets:
            found += read(store, f"{spec.name}/{family.name}/{checkpoint}/{target.name}")
    return found


def demanded(store: ArtifactStore, spec: ModelSpec, checkpoint: str) -> list[Row]:
    """Rows as `of_checkpoint`. Raises EdgeAssetsError, naming the command that helps, if there are none."""
    found = of_checkpoint(store, spec, checkpoint)
    if not found:
        command = f"edge-assets build --model {spec.name} --checkpoint {checkpoint}"
        raise EdgeAssetsError(f"{checkpoint} was not built yet: {command}")
    return found


def judged(
    store: ArtifactStore,
    spec: ModelSpec,
    before: str | None = None,
) -> Iterator[Checkpoint]:
    """Checkpoints that were judged on any target, the newest first; those registered earlier than `before`, if given.

    Who needs the newest alone reads no rows of older ones. Nothing is known to be earlier than what is not registered.
    """
    known = checkpoints.registered(store, spec.name)
    if before is not None:
        keys = [checkpoint.key for checkpoint in known]
        known = known[: keys.index(before) if before in keys else 0]
    for checkpoint in reversed(known):
        if of_checkpoint(store, spec, checkpoint.key):
            yield checkpoint


def _key(path: str) -> str:
    return f"scorecards/{path}"


@cache
def _warn_once(message: str) -> None:
    """Plans and runs meet the same pointer again and again."""
    log.warning("%s", message)
