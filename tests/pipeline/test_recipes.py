"""Recipes decide what users rebuild: those of a plan, on one target of every family, are what they were.

The recipes are walked as a build would, on a store that makes nothing: each result is named by its recipe alone, so
that neither the machine nor the bytes of a conversion enter. Versions of tools and the machine's fingerprint are left
out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge_assets.core.types import Artifact, File, Recipe, Result
from edge_assets.families.families import FAMILIES
from edge_assets.hashing import digest
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.spec.model import Search
from edge_assets.targets.project import target
from resources.checkpoints import Checkpoint
from resources.memos import Check
from resources.store import ArtifactStore, Build, open_store
from tests.tiny.spec import TINY_QAT

SNAPSHOT = Path(__file__).with_name("recipes.json")
TARGETS = ("graviton3", "l4", "iphone-15-pro", "pixel-8", "cortex-m4", "browser-wasm")
WHOLE = replace(TINY_QAT, schemes="all", search=Search(), targets=TARGETS)  # what there is, a model can have
LEFT_OUT = ("machine", "builder_version", "system", "threads")
FACTS: Mapping[str, Any] = {  # of every result: enough for each to be judged, and for the smallest to be released
    "samples": 600,
    "parity": {"by_output": {}, "max_abs": 0.0, "max_rel": 0.0, "cosine": 1.0, "snr_db": 200.0, "nan": 0, "inf": 0},
    "accuracy": {
        **{"value": 1.0, "reference": 1.0, "samples": 600, "drop_points": 0.0, "drop_interval_points": [0.0, 0.0]},
        **{"confidence": 0.95, "lost": 0, "gained": 0},
    },
    "weights_bytes": 1,
    "parameters": 1,
    "flops": 1,
    "memory_estimate": {"bytes": 1, "how": "said"},
    "mode": None,
    "threads": 1,
    "machine": {
        **{"cpu": "any", "architecture": "any", "cores": 1, "instruction_sets": [], "memory_bytes": 1},
        **{"system": "any", "board": None, "governor": None},
    },
    "versions": {},
    "measured_at": "",
}


@dataclass(frozen=True)
class Recording(ArtifactStore):
    """A store that is asked for everything and makes nothing."""

    asked: dict[str, str] = field(default_factory=dict)  # what was asked for, by step -> digest of its recipe

    def remember(self, recipe: Recipe, _build: Build, _check: Check | None = None) -> Result:
        kept = {name: value for name, value in recipe.parameters.items() if name not in LEFT_OUT}
        known = replace(recipe, parameters=kept, tools=dict.fromkeys(recipe.tools, ""))
        of = f" of {recipe.inputs['artifact'][:8]}" if "artifact" in recipe.inputs else ""
        self.asked[recipe.step + of] = known.sha256
        return Result(recipe, Artifact((File("file", digest(known.sha256), 1),)), FACTS)

    def recall(self, _recipe: Recipe, _check: Check | None = None) -> None:
        return None

    def checkout(self, _artifact: Artifact) -> Path:
        path = self.cache / "measurement.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": {}}))
        return path


def recipes(name: str, folder: Path) -> dict[str, str]:
    """Digest of every recipe of a target's plan, by step."""
    root = open_store(str(folder / "store"), folder / "cache")
    parts = {part.name: getattr(root, part.name) for part in fields(root)}
    store = Recording(**parts)
    checkpoint = Checkpoint("tiny", "tiny-00000000", File("tiny.safetensors", "0" * 64, 1), "tiny.safetensors", 0.0)
    chosen = target(name)
    cell = Cell(WHOLE, FAMILIES[chosen.family].of(WHOLE), chosen, checkpoint, store, lambda _line: None)
    builts = cell.build_all()
    judgement = Judgement(cell, builts, cell.measure(builts, "rapid"))
    judgement.report()
    judgement.release()
    return dict(sorted(store.asked.items()))


@pytest.mark.parametrize("name", TARGETS)
def test_no_recipe_changed(name: str, tmp_path: Path) -> None:
    """Whoever changes one on purpose updates the snapshot: `python -m tests.pipeline.test_recipes`."""
    assert recipes(name, tmp_path) == json.loads(SNAPSHOT.read_text())[name]


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as scratch:
        found = {name: recipes(name, Path(scratch)) for name in TARGETS}
    SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
