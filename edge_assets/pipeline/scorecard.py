"""The scorecard of a checkpoint: every variant on every target, as rows."""

from typing import Any

from edge_assets.families.families import family_targets
from edge_assets.spec.model import ModelSpec
from resources.store import ArtifactStore


def write(store: ArtifactStore, path: str, judged: list[dict[str, Any]]) -> None:
    """Keep the rows of one cell, `path` being model/family/checkpoint/target."""
    store.pointers.set(f"scorecards/{path}", {"rows": judged})


def read(store: ArtifactStore, path: str) -> list[dict[str, Any]]:
    """The rows of one cell, as `write` kept them; none where it was never judged, or not by a version as this one."""
    rows = (store.pointers.get(f"scorecards/{path}") or {}).get("rows", [])
    known = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    return rows if known else []


def mark_reused(store: ArtifactStore, path: str) -> None:
    """Say of every row of a cell that the last build reused it."""
    judged = read(store, path)
    if not all(row.get("reused") for row in judged):
        store.pointers.hint(f"scorecards/{path}", {"rows": [{**row, "reused": True} for row in judged]})


def rows(store: ArtifactStore, spec: ModelSpec, checkpoint: str) -> list[dict[str, Any]]:
    """Rows of all targets that were judged for this checkpoint, in the order of families and targets."""
    found: list[dict[str, Any]] = []
    for family, targets in family_targets(spec):
        for target in targets:
            found += read(store, f"{spec.name}/{family.name}/{checkpoint}/{target.name}")
    return found
