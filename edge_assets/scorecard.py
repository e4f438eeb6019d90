"""The scorecard of a checkpoint: every variant on every target, as rows."""

from typing import Any

from edge_assets.assets.families import family_targets
from edge_assets.model import ModelSpec
from resources.store import ArtifactStore


def rows(store: ArtifactStore, spec: ModelSpec, checkpoint: str) -> list[dict[str, Any]]:
    """Rows of all targets that were judged for this checkpoint, in the order of families and targets."""
    found: list[dict[str, Any]] = []
    for family, targets in family_targets(spec):
        for target in targets:
            data = store.pointer(f"scorecards/{spec.name}/{family.name}/{checkpoint}/{target.name}")
            found += data["rows"] if data else []
    return found
