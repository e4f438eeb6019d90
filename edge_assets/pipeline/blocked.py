"""Why no gate is asked of a variant: it failed, was refused, is not what its name says, or comes from what is not."""

from __future__ import annotations

from collections.abc import Mapping

from edge_assets.core.evidence import Facts, Measured, Verdict
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.sizes import readable_size
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import parity
from edge_assets.pipeline.identity import Identity

Blocked = tuple[Verdict, str]
LEAST_SHARE = 0.5  # of the weights' bytes, in the precision that a variant has in its name


def blocked(cell: Identity, builts: Mapping[str, Built], measured: Measured, built: Built) -> Blocked | None:
    """Why a variant does not come before the gates."""
    failed = built.failed or (measured.failed or {}).get(built.variant)
    if failed:
        return "failed", failed
    if built.build.refused and built.facts.unavailable:
        return "unavailable", built.build.refused
    if built.build.refused:
        return "refused", built.build.refused
    if built.unverified:
        return "unverified", built.unverified
    return _on_device(measured, built) or _unfit(cell, builts, built)


def _on_device(measured: Measured, built: Built) -> Blocked | None:
    """Why a variant was not measured on the target's device, where others were."""
    lacking = None
    for result in built.elsewhere or ():
        if result.refused is None or result.recipe.parameters.get("tier") != "device":
            continue
        if not result.said(Facts).unavailable:
            return "failed", result.refused
        lacking = result.refused
    was_asked = measured.device is not None and built.artifact is not None and built.variant != CHECKPOINT
    if not was_asked or built.variant in measured.rows:
        return None
    runtime = RUNTIMES[built.runtime]
    nobody = f"agents of devices do not have its runtime, {', '.join(runtime.distributions)}"
    return "unavailable", lacking or nobody


def _unfit(cell: Identity, builts: Mapping[str, Built], built: Built) -> Blocked | None:
    """Why a variant is not what it says, though it was built and verified."""
    name = misnamed(built)
    if name:
        return "refused", name
    source = _unfit_source(cell, builts, built.variant)
    if source:
        return "failed_parity", source
    return None


def _unfit_source(cell: Identity, builts: Mapping[str, Built], name: str) -> str | None:
    """Why a variant is no better than what it is made from, where that is not the model any more.

    A quantized graph may agree well enough for int8 with PyTorch although the fp32 graph does not for fp32: what it
    has then is the fault of the conversion, and the next checkpoint may show it.
    """
    variants = {variant.name: variant for variant in cell.family.variants}
    if name not in variants or variants[name].source not in builts:
        return None
    source = builts[variants[name].source]
    if source.parity:
        passed, sentence = parity.verdict(source.parity, source.precision)
        if not passed:
            return f"made from {source.variant}, which failed parity: {sentence}"
    return _unfit_source(cell, builts, source.variant)


def misnamed(built: Built) -> str | None:
    """Why a variant is not what its precision says: most of its weights are in another."""
    if built.precision == "fp32" or built.verified is None:
        return None
    share = built.verified.weight_share(built.precision)
    if share is None or share >= LEAST_SHARE:
        return None
    sizes = built.verified.weight_bytes or {}
    held = ", ".join(f"{name} {readable_size(sizes[name])}" for name in sorted(sizes))
    return (
        f"{100 * share:.0f} % of the bytes of its weights are {built.precision}, and at least "
        f"{100 * LEAST_SHARE:.0f} % have to be for that name: {held}"
    )
