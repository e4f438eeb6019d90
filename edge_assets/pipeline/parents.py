"""What a quantized variant is compared with besides PyTorch: the fp32 variant that it was quantized from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_assets.core.types import Built
from edge_assets.core.verify import first_outputs
from edge_assets.pipeline.identity import Identity


def parent_of(cell: Identity, builts: Mapping[str, Built], name: str) -> Built | None:
    """The fp32 variant that one was quantized from; None for those of PyTorch itself, and for fp32."""
    if builts[name].precision == "fp32":
        return None
    variants = {variant.name: variant for variant in cell.family.variants}
    while name in variants:
        name = variants[name].source
        if name in variants and name in builts and builts[name].precision == "fp32":
            return builts[name]
    return None


def snr_db(cell: Identity, parent: Built, built: Built) -> float | None:
    """How far a variant's outputs for the first samples are from its parent's, as far as those of both are kept."""
    theirs, own = _first_outputs(cell, parent), _first_outputs(cell, built)
    if theirs is None or own is None:
        return None
    return first_outputs.snr_db(theirs, own)


def _first_outputs(cell: Identity, built: Built) -> Path | None:
    """The file of them, where the verification kept one: those of earlier versions did not."""
    if built.evidence is None or built.evidence.artifact is None:
        return None
    artifact = built.evidence.artifact
    if [file.path for file in artifact.files] != [first_outputs.FILE]:
        return None
    return cell.store.checkout(artifact)
