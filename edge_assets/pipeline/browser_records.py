"""What browsers that opened a link said of a cell's artifacts: kept in the state folder, newest first."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Observed, TimedThere
from edge_assets.core.shapes import read, record
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.errors import Malformed
from edge_assets.pipeline.identity import Identity
from edge_assets.settings import home

if TYPE_CHECKING:
    from edge_assets.devices.browser import BrowserEvidence, BrowserVariant

VERSION = "2"
log = logging.getLogger(__name__)


def observations(cell: Identity, built: Built) -> Iterator[Result]:
    """What each browser that is this target said last of exactly this artifact."""
    if built.artifact is None:
        return
    seen = set()
    for evidence in _records(cell):
        variant = evidence.variants.get(built.variant)
        if variant is None or variant.verified is None or variant.sha256 != built.artifact.sha256:
            continue
        if evidence.browser not in seen:
            seen.add(evidence.browser)
            yield _observation(evidence, variant)


def _records(cell: Identity) -> Iterator[BrowserEvidence]:
    """Of this cell, the newest first; one that cannot be read is named and left out."""
    folder = home().root / "devices" / "browser"
    names = sorted(folder.glob(f"{cell.spec.name}-{cell.checkpoint.key}-{cell.target.name}-*.json"), reverse=True)
    if not names:
        return
    from edge_assets.devices.browser import BrowserEvidence

    for path in names:
        try:
            evidence = read(BrowserEvidence, json.loads(path.read_text()))
        except (OSError, ValueError, Malformed) as error:
            log.warning("%s is left out: %s", path, error)
            continue
        is_same = (evidence.model, evidence.target) == (cell.spec.name, cell.target.name)
        if is_same and evidence.checkpoint == cell.checkpoint.key and evidence.matches_target:
            yield evidence


def _observation(evidence: BrowserEvidence, variant: BrowserVariant) -> Result:
    """As any other device's: nothing of it is computed here, so nothing is kept twice."""
    verified = variant.verified
    assert verified is not None
    observed = Observed(
        parity=verified.parity,
        accuracy=verified.accuracy,
        agreement=verified.agreement,
        metrics=verified.metrics,
        tier="device",
        device=evidence.browser,
        by=f"{evidence.browser}, {evidence.execution_provider}",
        versions={},
        timed=_timed(evidence, variant),
    )
    parameters = {"tier": "device", "browser": evidence.browser, "measured_at": evidence.measured_at}
    recipe = Recipe("observation", VERSION, {"artifact": variant.sha256}, parameters)
    return Result(recipe, None, record(observed))


def _timed(evidence: BrowserEvidence, variant: BrowserVariant) -> TimedThere | None:
    """Its latency there, if it was timed."""
    if not variant.latency_ms or variant.loaded is None:
        return None
    return TimedThere(
        mode=evidence.mode,
        threads=variant.loaded.threads,
        measured_at=evidence.measured_at,
        load_ms=variant.loaded.session_ms,
        latency_ms=variant.latency_ms,
    )
