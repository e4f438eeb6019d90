"""From a judged candidate to its row of the scorecard: the one place where evidence gets the names that people see.

What tables, pages, MLflow and Dagster show, they take from the row.
"""

from collections.abc import Mapping
from dataclasses import replace

from edge_assets.core.evidence import Latency, Provenance, Row
from edge_assets.core.known import Known
from edge_assets.core.select import Judged
from edge_assets.core.types import Built
from edge_assets.pipeline.candidates import Candidates, known_of
from edge_assets.pipeline.identity import own_name
from edge_assets.pipeline.parents import parent_of, snr_db
from edge_assets.spec.model import Metric

SIZE_BASE = "fp32 weights"  # the checkpoint's parameters and buffers: what size ratios are relative to


def row_of(entry: Judged, candidates: Candidates) -> Row:
    """One variant's row. What was measured on another machine than the target is not shown as the target's."""
    cell, candidate, network = candidates.cell, entry.candidate, candidates.network
    row = Row(
        model=cell.spec.name,
        checkpoint=cell.checkpoint.key,
        family=cell.family.name,
        target=cell.target.name,
        artifact=candidate.name,
        format=candidate.format,
        precision=candidate.precision,
        recipe=candidate.recipe,
        verdict=entry.verdict,
        reason=entry.reason,
        sha256=candidate.sha256,
        size_base=SIZE_BASE,
        cosine_mean=candidate.cosine_mean,
        threads=candidates.threads,
        mode=candidates.mode,
        evidence=entry.gates,
        parameters=network.parameters,
        flops=network.flops,
    )
    row = _with_build(row, candidates)
    row = _with_verification(row, known_of(cell, candidates.builts[row.artifact]), cell.spec.evaluation.deciding)
    row = _with_parent(row, candidates)
    return _with_measurement(row, entry, candidates)


def _with_build(row: Row, candidates: Candidates) -> Row:
    """What the build took and says."""
    built = candidates.builts[row.artifact]
    facts = built.facts
    row = replace(
        row,
        memory_estimate=facts.memory_estimate,
        graph=facts.graph,
        delegation=facts.delegation,
        notes=(*facts.notes, *_not_emulated(built)),
        reused=built.reused and candidates.measurement.reused,
    )
    if built.artifact is None or built.size_bytes is None:
        return row
    return replace(
        row,
        size_bytes=built.size_bytes,
        size_ratio=built.size_bytes / candidates.network.weights_bytes,
        build_seconds=built.build.seconds,
        effort_seconds=_effort_seconds(candidates, row.artifact),
    )


def _effort_seconds(candidates: Candidates, name: str) -> float:
    """Of an artifact's build and of what precedes it that is no model: training, a ranking, a search."""
    variants = {variant.name: variant for variant in candidates.cell.family.variants}
    seconds = candidates.builts[name].build.seconds
    if name not in variants:
        return seconds
    for parent in (variants[name].source, *variants[name].others):
        if parent in variants and not variants[parent].is_model:
            seconds += _effort_seconds(candidates, parent)
    return seconds


def _not_emulated(built: Built) -> list[str]:
    """Why an emulated instruction set, or another arithmetic, says nothing of an artifact."""
    reasons = []
    for result in built.elsewhere or ():
        if result.refused is not None and result.recipe.parameters.get("tier") != "device":
            reasons.append(result.refused)
    return reasons


def _with_verification(row: Row, known: Known | None, deciding: Metric) -> Row:
    """How far it is from the reference, and how that is known."""
    if known is None:
        return row
    parity_origin, parity = known.parity
    accuracy_origin, verified = known.whole
    accuracy = verified.accuracy
    return replace(
        row,
        agreement=verified.agreement,
        weight_share=known.verified.weight_share(row.precision),
        verified_with=accuracy_origin.by,
        provenance={"parity": parity_origin, "accuracy": accuracy_origin},
        observations=known.observations(),
        findings=known.findings(row.precision),
        own_unit=None if deciding.is_share else deciding.label,
        metric=own_name(deciding),
        metrics=verified.metrics,
        accuracy=accuracy.value,
        accuracy_drop_points=accuracy.drop_points,
        accuracy_drop_interval_points=accuracy.drop_interval_points,
        parity_max_abs=parity.max_abs,
        parity_max_rel=parity.max_rel,
        parity_cosine=parity.cosine,
        parity_snr_db=parity.snr_db,
    )


def _with_parent(row: Row, candidates: Candidates) -> Row:
    """How far it is from what it was quantized from."""
    cell, builts = candidates.cell, candidates.builts
    parent = parent_of(cell, builts, row.artifact)
    if parent is None:
        return row
    found = snr_db(cell, parent, builts[row.artifact])
    if found is None:
        return row
    return replace(row, parent=parent.variant, parent_snr_db=found)


def _with_measurement(row: Row, entry: Judged, candidates: Candidates) -> Row:
    """Memory, and, where the target was at hand, times; else why there are none."""
    measured = candidates.measured_variant(row.artifact)
    row = _with_memory_tier(row, entry)
    if measured is not None:
        row = replace(
            row,
            host_peak_memory_bytes=measured.peak_bytes,
            host_baseline_memory_bytes=measured.baseline_bytes,
        )
    if measured is not None and candidates.is_timed:
        row = replace(
            row,
            load_ms=measured.load_ms,
            peak_memory_bytes=measured.peak_bytes,
            measured_on=candidates.measured_on,
        )
    return _with_latency(row, entry, candidates)


def _with_latency(row: Row, entry: Judged, candidates: Candidates) -> Row:
    """Times, and who took them; else why there are none."""
    latency, by = entry.candidate.latency, candidates.timed_on
    latencies = candidates.latencies(row.artifact)
    if latencies is not None:
        row = replace(row, latency_ms_by_batch=_without_histograms(latencies))
    if latency is None or by is None:
        return replace(row, not_measured=candidates.not_measured(row.artifact))
    row = replace(
        row,
        measured_on=by,
        latency_ms=latency.statistics,
        throughput_per_s=latency.throughput_per_s,
        disturbed=latency.surroundings.said if latency.surroundings else None,
        joules=latency.joules,
    )
    if candidates.in_browser is not None:
        row = replace(row, load_ms=candidates.in_browser.timed[row.artifact].load_ms)
    origin = Provenance("device", by)
    row = _known_by(row, "latency", origin)
    if latency.joules is None:
        return row
    return _known_by(row, "energy", origin)


def _with_memory_tier(row: Row, entry: Judged) -> Row:
    """How the peak memory is known, of which the gate says the words."""
    memory, tier = entry.candidate.memory, entry.candidate.tiers.get("memory")
    if memory is None or tier is None:
        return row
    return _known_by(row, "memory", Provenance(tier, memory.how))


def _known_by(row: Row, kind: str, provenance: Provenance) -> Row:
    return replace(row, provenance={**(row.provenance or {}), kind: provenance})


def _without_histograms(latencies: Mapping[str, Latency]) -> dict[str, Latency]:
    """Latency by batch size, as far as tables show it."""
    return {batch: replace(latency, histogram=None) for batch, latency in latencies.items()}
