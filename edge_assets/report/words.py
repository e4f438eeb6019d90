"""A metric's numbers as people read them: shares in percent and points, anything else in its own unit."""

from collections.abc import Iterable, Iterator

from edge_assets.core.evidence import Footprint, Observation, Row
from edge_assets.core.sizes import readable_ms, readable_size
from edge_assets.spec.tiers import TIERS, Tier


def scaled(row: Row, points: float) -> float:
    """Hundredths of the metric's unit as they are shown: points of a share, the unit itself of anything else."""
    if row.own_unit is None:
        return points
    return points / 100


def metric(row: Row) -> str:
    """What the deciding metric is called."""
    return row.own_unit or row.metric or "accuracy"


def headings(rows: Iterable[Row]) -> tuple[str, str]:
    """Of the columns with the deciding metric and with its drop; of a share the latter is in points."""
    for row in rows:
        if row.accuracy is not None:
            return metric(row), "drop" if row.own_unit else "drop points"
    return "accuracy", "drop points"


def score(row: Row) -> str:
    """The deciding metric's value, such as 97.12 % or 0.214 rmse."""
    if row.accuracy is None:
        return "-"
    return valued(row, row.accuracy)


def valued(row: Row, found: float) -> str:
    """A value of the deciding metric, in percent or with its unit."""
    if row.own_unit is None:
        return f"{100 * found:.2f} %"
    return f"{found:.4g} {row.own_unit}"


def drop(row: Row) -> str:
    """Its drop against fp32, in points or in its own unit."""
    if row.accuracy_drop_points is None:
        return "-"
    return f"{scaled(row, row.accuracy_drop_points):{_form(row)}}"


def drop_interval(row: Row) -> str:
    """The drop's 95 % interval."""
    if row.accuracy_drop_interval_points is None:
        return "-"
    low, high = row.accuracy_drop_interval_points
    return f"{scaled(row, low):{_form(row)}} to {scaled(row, high):{_form(row)}}"


def _form(row: Row) -> str:
    return ".2f" if row.own_unit is None else ".4g"


def other_metrics(row: Row) -> Iterator[str]:
    """One sentence for each metric beside the deciding one."""
    for label, found in (row.metrics or {}).items():
        low, high = found.drop_interval
        yield f"{label} {found.value:.4g}, worse by {found.drop:.4g} ({low:.4g} to {high:.4g})"


def tier(row: Row) -> str:
    """How the deciding metric's value is known, and what a better tier says of a part of the evaluation set.

    Such as `host; emulated 95.31 % of 64`. Of a row without evidence: unknown.
    """
    known = row.provenance or {}
    if "accuracy" not in known:
        return "unknown"
    own: Tier = known["accuracy"].tier
    parts: list[str] = [own]
    for one in _parts(row, own):
        parts.append(f"{one.tier} {valued(row, one.accuracy)} of {one.samples}")
    is_said = len(parts) > 1 or "parity" not in known
    if not is_said and known["parity"].tier != own:
        parts.append(f"parity {known['parity'].tier}")
    return "; ".join(parts)


def _parts(row: Row, own: Tier) -> Iterable[Observation]:
    """What tiers better than `own` say of a part of the set; of several of a tier the one that drops most."""
    worst: dict[Tier, Observation] = {}
    for one in row.observations or ():
        if TIERS.index(one.tier) >= TIERS.index(own):
            continue
        if one.tier not in worst or one.accuracy_drop_points > worst[one.tier].accuracy_drop_points:
            worst[one.tier] = one
    return worst.values()


def known_by(row: Row) -> str:
    """How the deciding metric is known, and whether the row was timed."""
    if row.latency_ms is None:
        return f"{tier(row)}, not timed"
    return f"{tier(row)}, timed {row.mode}{', disturbed' if row.disturbed else ''}"


def tiers(row: Row) -> Iterator[str]:
    """One sentence for each tier's own numbers, for what contradicts, and for what disturbed the timing."""
    yield from observed(row)
    for kind, origin in (row.provenance or {}).items():
        yield f"{kind}: {origin.tier}, {origin.by}"
    for finding in row.findings or ():
        yield f"contradiction: {finding}"
    if row.joules is not None:
        yield f"energy: {row.joules:.3g} J a sample, of the whole device"
    if row.disturbed:
        yield row.disturbed


def observed(row: Row) -> Iterator[str]:
    """One sentence for what each tier says, where there are several."""
    for one in row.observations or ():
        low, high = one.accuracy_drop_interval_points
        snr = "not finite" if one.parity_snr_db is None else f"{one.parity_snr_db:.1f} dB"
        timed = "" if one.latency_p50_ms is None else f", P50 {readable_ms(one.latency_p50_ms)}"
        yield (
            f"{one.tier}, {one.by}: {valued(row, one.accuracy)} on {one.samples} samples, drop "
            f"{scaled(row, one.accuracy_drop_points):{_form(row)}} ({scaled(row, low):{_form(row)}} to "
            f"{scaled(row, high):{_form(row)}}), SNR {snr}{timed}"
        )
        if one.footprint:
            yield footprint(one.footprint)


def footprint(found: Footprint) -> str:
    """What a network as C takes of a microcontroller, and who counted it."""
    sizes = f"flash {readable_size(found.flash_bytes)}, arena {readable_size(found.arena_bytes)}"
    return f"as C: {sizes}, stack {found.stack_bytes} B, {found.instructions:,} instructions a sample; {found.how}"


def axis_label(rows: Iterable[Row]) -> str:
    """What a plot's axis of the deciding metric is called."""
    for row in rows:
        if row.own_unit:
            return row.own_unit
        if row.metric:
            return f"{row.metric} (%)"
    return "accuracy (%)"
