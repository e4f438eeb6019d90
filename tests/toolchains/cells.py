"""Cells of small networks that tests make themselves."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from edge_assets import ModelSpec
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore


def cell_of(store: ArtifactStore, spec: ModelSpec, network: nn.Module, folder: Path, on: str) -> Cell:
    """The cell of a network's weights, which are written into the folder, on the target of that name."""
    path = folder / f"{spec.name}.safetensors"
    save_file(network.state_dict(), path)
    checkpoint = checkpoints.register(store, spec.name, str(path))
    family = FAMILIES[target(on).family]
    return Cell(spec, family.of(spec), target(on), checkpoint, store, lambda _line: None)
