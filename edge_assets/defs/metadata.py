"""What the assets show in Dagster: the same numbers under the same names as in MLflow (`defs/entries`)."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg

from edge_assets.core import failures
from edge_assets.core.evidence import Gate, Verified, known
from edge_assets.core.select import gates
from edge_assets.core.shapes import record, written
from edge_assets.core.sizes import KIB, divided
from edge_assets.core.types import Built, Result
from edge_assets.defs import tables
from edge_assets.pipeline.blocked import misnamed
from edge_assets.pipeline.candidates import known_of, verified_candidate
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.spec.metrics import DEFAULT
from edge_assets.spec.model import ModelSpec
from resources.outbox import PARENT
from resources.tracking import VARIANTS

Shown = dg.MetadataValue | str | float | bool | None
Metadata = dict[str, Shown]
URLs = Mapping[str, str]
OWN_NAMES = ("recipe", "session", "size_bytes")  # facts that are not shown as the build says them


# --- variants ------------------------------------------------------------------------------------------


def variant(cell: Cell, built: Built, urls: URLs) -> Metadata:
    """Metadata of the checkpoint's and the variants' materializations."""
    shown: Metadata = {"target": cell.target.name, "recipe": built.recipe, "reused": built.reused}
    if built.failed:
        shown |= {"failed": built.failed, "log": _failure_log(cell, built)}
    elif built.build.refused:
        shown["unavailable" if built.facts.unavailable else "refused"] = built.build.refused
    elif built.unverified:
        shown["unverified"] = built.unverified
    elif misnamed(built):  # what is judged so is told so from the start
        shown["refused"] = misnamed(built)
    if built.artifact is not None:
        shown |= _of_artifact(cell, built)
    return shown | {
        "build_seconds": built.build.seconds,
        "mlflow_run": link(urls[built.variant]),
        "mlflow_variants": link(urls[VARIANTS]),
        "recipe_sha256": built.build.recipe.sha256,
    }


def _of_artifact(cell: Cell, built: Built) -> Metadata:
    """Size and evidence first, then what the build says."""
    shown: Metadata = {"size_kib": divided(built.size_bytes, KIB)}
    if built.verified:
        shown |= _verified(built.verified, cell.spec) | _origin(cell, built)
    shown |= _pictures(cell, built.build)
    for name, fact in built.build.facts.items():
        if name not in OWN_NAMES:
            shown.setdefault(*_fact(name, fact))
    return _rounded(shown) | {"sha256": built.build.sha256}


def _verified(verified: Verified, spec: ModelSpec) -> Metadata:
    """Accuracy and parity."""
    accuracy, parity, deciding = verified.accuracy, verified.parity, spec.evaluation.deciding
    low, high = accuracy.drop_interval_points
    shown: Metadata = {
        "accuracy": accuracy.value,
        "drop_points": accuracy.drop_points,
        "drop_low_points": low,
        "drop_high_points": high,
        "samples": accuracy.samples,
        "snr_db": parity.snr_db,
        "cosine": parity.cosine,
        "max_abs": parity.max_abs,
        "max_rel": parity.max_rel,
        "cosine_mean": verified.cosine_mean(spec.outputs[0].name),  # the one that a gate may be for
        "parity": tables.parity_by_output(parity),
    }
    if deciding.name != DEFAULT:
        shown["metric"] = deciding.label  # which the accuracy is of
    if not deciding.is_share:
        shown["unit"] = deciding.label
    if verified.agreement:
        shown["agreement"] = tables.agreement_by_output(verified.agreement)
    for label, found in (verified.metrics or {}).items():
        shown[label] = found.value
        shown[f"{label}: drop"] = found.drop
    return {name: value for name, value in shown.items() if value is not None}


def _origin(cell: Cell, built: Built) -> Metadata:
    """Of accuracy and parity: the tier, and who computed them; what others than this machine say, the report shows."""
    known_so_far = known_of(cell, replace(built, elsewhere=None))
    if known_so_far is None:
        return {}
    return {"tier": known_so_far.provenance.tier, "computed_by": known_so_far.provenance.by}


def variant_checks(cell: Cell, built: Built, names: Sequence[str]) -> list[dg.AssetCheckResult]:
    """The checks `names` of one variant: parity, accuracy and size, or, of what is no model, that it was built.

    A failed variant fails them. A refused, unavailable or unverified one warns: there is nothing to check.
    """
    if built.failed:
        return [_failure(name, built.failed) for name in names]
    if built.build.refused:
        return [_warning(name, f"not built: {built.build.refused}") for name in names]
    if built.unverified:
        return [_warning(name, f"not verified: {built.unverified}") for name in names]
    if "built" in names:
        return [dg.AssetCheckResult(check_name="built", passed=True)]
    candidate = verified_candidate(cell, built)
    outcomes = gates(candidate, cell.limits)
    return [_check(gate) for gate in outcomes if gate.name in names]


# --- the report ----------------------------------------------------------------------------------------


def report(judgement: Judgement, built: Result, urls: URLs) -> Metadata:
    """Metadata of benchmark_report: the table, the plots and how it was measured."""
    conditions = judgement.candidates.conditions
    shown: Metadata = {
        "reused": judgement.measurement.reused,
        "variants": tables.variants(judgement.rows),
        "failed_variants": sum(row.verdict == "failed" for row in judgement.rows),
        "measured_on": measured_on(judgement),
        "memory_measured_on": judgement.candidates.measured_on,
        "mode": judgement.candidates.mode or "memory only",
        "threads": judgement.candidates.threads,
        "machine": tables.properties(record(conditions.machine)),
        "versions": tables.properties(conditions.versions),
        "measured_at": conditions.measured_at,
        "mlflow_run": link(urls[PARENT]),
        "mlflow_variants": link(urls[VARIANTS]),
        "computed_by": tables.computed_by_variant(judgement.rows),
    }
    return shown | _pictures(judgement.cell, built)


def measured_on(judgement: Judgement) -> str:
    """Where times were measured, or why nowhere."""
    return judgement.candidates.timed_on or judgement.cell.not_measured


def memory_check(judgement: Judgement) -> dg.AssetCheckResult:
    """One check over all variants: those over budget are named."""
    outcomes: dict[str, Gate] = {}
    over: list[str] = []
    for entry in judgement.verdicts:
        for gate in entry.gates:
            if gate.name != "memory":
                continue
            outcomes[entry.candidate.name] = gate
            if not gate.passed:
                over.append(f"{entry.candidate.name}: {gate.sentence}")
    for name, reason in (judgement.candidates.conditions.failed or {}).items():
        over.append(f"{name}: {reason}")
    within = f"every variant is within budget, on {judgement.candidates.measured_on}"
    return dg.AssetCheckResult(
        check_name="memory",
        passed=not over,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(over) or within,
        metadata={"variants": tables.memory(outcomes)},
    )


# --- the release ---------------------------------------------------------------------------------------


def release(judgement: Judgement, built: Result, folder: Path, urls: URLs) -> Metadata:
    """Metadata of the release: who won, why, and where the folder is."""
    row = judgement.winning_row()
    shown: Metadata = {"winner": row.artifact, "reason": row.reason, "reused": built.reused}
    shown |= _rounded(known(tables.numbers(row)))
    return shown | {
        "computed_by": tables.computed_by(row),
        "verdicts": tables.verdicts(judgement.rows),
        "gates": tables.gates(row.evidence),
        "model_card": dg.MetadataValue.md((folder / "MODEL_CARD.md").read_text()),
        "folder": dg.MetadataValue.path(folder),
        "mlflow_run": link(urls[row.artifact]),
        "mlflow_variants": link(urls[VARIANTS]),
        "sha256": row.sha256,
    }


# --- small parts ---------------------------------------------------------------------------------------


def _check(gate: Gate) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=gate.name,
        passed=bool(gate.passed),
        severity=dg.AssetCheckSeverity.ERROR,
        description=gate.sentence,
        metadata={"tier": gate.tier} if gate.tier else {},
    )


def _failure(name: str, sentence: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=False, severity=dg.AssetCheckSeverity.ERROR, description=sentence
    )


def _failure_log(cell: Cell, built: Built) -> dg.MetadataValue:
    return dg.MetadataValue.path(cell.store.cache / failures.FOLDER / (built.failure_log or ""))


def _warning(name: str, sentence: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=False, severity=dg.AssetCheckSeverity.WARN, description=sentence)


def link(url: str) -> dg.MetadataValue:
    """An address to follow, or, where there is none yet, the sentence that says so."""
    return dg.MetadataValue.url(url) if url.startswith("http") else dg.MetadataValue.text(url)


def _fact(name: str, fact: object) -> tuple[str, Shown]:
    """What a build says, as metadata: records as a table, and sizes in KiB."""
    if name.endswith("_bytes") and isinstance(fact, int):
        return name.removesuffix("_bytes") + "_kib", fact / KIB
    if fact is None or isinstance(fact, str | int | float):
        return name, fact
    shown = written(fact)
    if isinstance(shown, list) and shown and all(isinstance(entry, dict) for entry in shown):
        return name, tables.plain([entry for entry in shown if isinstance(entry, dict)])
    if isinstance(shown, dict) and not any(isinstance(value, dict | list) for value in shown.values()):
        return name, tables.properties(shown)
    assert isinstance(shown, dict | list)
    return name, dg.MetadataValue.json(shown)


def _rounded(shown: Mapping[str, Shown]) -> Metadata:
    """Numbers as people read them, the rest as it is."""
    found: Metadata = {}
    for name, value in shown.items():
        found[name] = tables.rounded(value) if isinstance(value, float) else value
    return found


def _pictures(cell: Cell, built: Result) -> Metadata:
    """The pictures at the top of an artifact's folder."""
    if built.artifact is None or not any(file.path.endswith(".png") for file in built.artifact.files):
        return {}
    folder = cell.store.checkout(built.artifact)
    return {path.stem: dg.MetadataValue.md(_image(path)) for path in sorted(folder.glob("*.png"))}


def _image(path: Path) -> str:
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"
