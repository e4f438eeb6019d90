"""What the assets show in Dagster and log to MLflow: the same numbers under the same names."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from edge_assets.core import failures
from edge_assets.core.select import Candidate, Gate, gates
from edge_assets.core.types import Built, Result
from edge_assets.core.variant import Variant
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.report import tables
from resources.outbox import PARENT, Entry
from resources.tracking import dagster_tags, variant_tags

Metadata = dict[str, Any]
URLs = Mapping[str, str]


# --- variants ------------------------------------------------------------------------------------------


def variant(cell: Cell, built: Built, urls: URLs) -> Metadata:
    """Metadata of the checkpoint's and the variants' materializations."""
    facts = built.build.facts
    shown: Metadata = {
        "reused": built.reused,
        "recipe_sha256": built.build.recipe.sha256,
        "recipe": facts.get("recipe", built.precision),
        "build_seconds": built.build.seconds,
        "mlflow_run": _link(urls[built.variant]),
    }
    if built.failed:
        shown |= {"failed": built.failed, "log": _failure_log(cell, built)}
    elif built.build.refused:
        shown["unavailable" if built.unavailable else "refused"] = built.build.refused
    if built.artifact is None:
        return shown
    return shown | {
        "sha256": built.build.sha256,
        "size_bytes": built.size_bytes,
        **_numbers(built),
        **({"parity_by_output": dg.MetadataValue.json(built.parity["by_output"])} if built.parity else {}),
        **_pictures(cell, built.build),
        **{name: _shown(value) for name, value in facts.items() if name not in ("recipe", "session")},
        "target": cell.target.name,
    }


def _numbers(built: Built) -> Metadata:
    """Parity and accuracy, by the names that MLflow and the command line use too."""
    parity, accuracy = built.parity or {}, built.accuracy or {}
    numbers = {f"parity_{name}": parity.get(name) for name in ("max_abs", "max_rel", "cosine", "snr_db", "nan", "inf")}
    for name, output in (built.agreement or {}).items():
        numbers |= {f"agreement_{name}_{measure}": value for measure, value in output.items()}
    if accuracy:
        low, high = accuracy["drop_interval_points"]
        numbers |= {
            "accuracy": accuracy["value"],
            "accuracy_drop_points": accuracy["drop_points"],
            "accuracy_drop_low_points": low,
            "accuracy_drop_high_points": high,
            "accuracy_samples": accuracy["samples"],
        }
    return {name: value for name, value in numbers.items() if value is not None}


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
    candidate = Candidate(
        name=built.variant,
        format=built.format,
        precision=built.precision,
        recipe=built.precision,
        sha256=built.build.sha256,
        size_bytes=built.size_bytes,
        blocked=None,
        parity=built.parity,
        accuracy=built.accuracy,
        cosine_mean=built.cosine_mean(cell.spec.outputs[0].name),
        peak_memory_bytes=None,
        latency_ms=None,
    )
    outcomes = gates(candidate, cell.limits)
    return [_check(gate) for gate in outcomes if gate.name != "memory"]


def variant_entry(cell: Cell, built: Built, made_by: Variant | None, run_id: str) -> Entry:
    """The MLflow run of one variant. `made_by` is None for the checkpoint."""
    facts = built.build.facts
    numbers = _numbers(built)
    if built.artifact:
        numbers["size_bytes"] = built.size_bytes
    model = None
    if built.artifact and made_by and made_by.mlflow_flavor:
        model = {
            "flavor": made_by.mlflow_flavor,
            "inputs": [asdict(tensor) for tensor in cell.spec.inputs],
            "outputs": [asdict(tensor) for tensor in cell.spec.outputs],
            "requirements": [f"{name}=={version}" for name, version in made_by.tool_versions().items()],
        }
    tags = variant_tags(
        cell.path,
        artifact=built.variant,
        format=built.format,
        precision=built.precision,
        sha256=built.build.sha256 if built.artifact else "",
        recipe_sha256=built.build.recipe.sha256,
        refused="" if built.failed else built.build.refused or "",
        failed=built.failed or "",
    )
    return Entry(
        cell=cell.path,
        run=built.variant,
        kind="variant",
        parameters={
            "recipe": facts.get("recipe", built.precision),
            **{name: value for name, value in built.build.recipe.parameters.items() if name != "recipe"},
            # MLflow takes no @ in names, which scoped npm packages begin with
            **{f"tool.{name.replace('@', '')}": value for name, value in built.build.recipe.tools.items()},
        },
        metrics=numbers,
        tags={name: value for name, value in tags.items() if value} | dagster_tags(run_id),
        artifact=asdict(built.artifact) if built.artifact else None,
        model=model,
    )


# --- the report ----------------------------------------------------------------------------------------


def report(judgement: Judgement, built: Result, urls: URLs) -> Metadata:
    """Metadata of benchmark_report: the table, the plots and how it was measured."""
    facts = judgement.measurement.facts
    return {
        "reused": judgement.measurement.reused,
        "measured_on": judgement.measured_on if judgement.is_timed else judgement.cell.not_measured,
        "memory_measured_on": judgement.measured_on,
        "table": dg.MetadataValue.md(tables.markdown(judgement.rows())),
        **_pictures(judgement.cell, built),
        "mode": facts["mode"] or "memory only",
        "threads": facts["threads"],
        "machine": dg.MetadataValue.json(facts["machine"]),
        "versions": dg.MetadataValue.json(facts["versions"]),
        "measured_at": facts["measured_at"],
        "mlflow_run": _link(urls[PARENT]),
    }


def report_entries(judgement: Judgement, built: Result, run_id: str) -> list[Entry]:
    """Measurements added to each variant's run, and plots and tables to the parent's."""
    cell = judgement.cell
    entries = [
        Entry(
            cell.path,
            row["artifact"],
            "report",
            metrics=_measured(row),
            tags={"verdict": row["verdict"], "reason": row["reason"]},
        )
        for row in judgement.rows()
    ]
    facts = judgement.measurement.facts
    machine = facts["machine"]
    parent = Entry(
        cell.path,
        PARENT,
        "report",
        # tags, because a later measurement changes them, and MLflow's parameters never change
        tags={
            "mode": facts["mode"] or "memory only",
            "threads": str(facts["threads"]),
            "cpu": machine["cpu"],
            "cores": str(machine["cores"]),
            "measured_on": judgement.measured_on if judgement.is_timed else judgement.cell.not_measured,
        }
        | dagster_tags(run_id),
        artifact=asdict(built.artifact) if built.artifact else None,
    )
    return [*entries, parent]


def _measured(row: Mapping[str, Any]) -> dict[str, float]:
    latency = row["latency_ms"] or {}
    numbers = {f"latency_{name}_ms": value for name, value in latency.items() if name != "queries"}
    numbers |= {name: row[name] for name in ("size_ratio", "throughput_per_s", "peak_memory_bytes", "load_ms")}
    numbers["host_peak_memory_bytes"] = row["host_peak_memory_bytes"]
    for batch, sweep in (row["latency_ms_by_batch"] or {}).items():
        numbers[f"throughput_batch_{batch}_per_s"] = sweep["throughput_per_s"]
    return {name: value for name, value in numbers.items() if value is not None}


def memory_check(judgement: Judgement) -> dg.AssetCheckResult:
    """One check over all variants: those over budget are named."""
    outcomes = {
        entry.candidate.name: gate for entry in judgement.verdicts for gate in entry.gates if gate.name == "memory"
    }
    over = [f"{name}: {gate.sentence}" for name, gate in outcomes.items() if not gate.passed]
    over += [f"{name}: {reason}" for name, reason in judgement.measurement.facts.get("failed", {}).items()]
    return dg.AssetCheckResult(
        check_name="memory",
        passed=not over,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(over) or f"every variant is within budget, on {judgement.measured_on}",
        metadata={name: gate.sentence for name, gate in outcomes.items()},
    )


# --- the release ---------------------------------------------------------------------------------------


def release(judgement: Judgement, built: Result, folder: Path, urls: URLs) -> Metadata:
    """Metadata of the release: who won, why, and where the folder is."""
    winner = judgement.winner()
    return {
        "reused": built.reused,
        "winner": winner.candidate.name,
        "reason": winner.reason,
        "sha256": winner.candidate.sha256,
        "folder": dg.MetadataValue.path(folder),
        "verdicts": dg.MetadataValue.md(_verdict_table(judgement)),
        "evidence": dg.MetadataValue.json(winner.evidence()),
        "model_card": dg.MetadataValue.md((folder / "MODEL_CARD.md").read_text()),
        "mlflow_run": _link(urls[winner.candidate.name]),
    }


def release_entries(judgement: Judgement, built: Result, run_id: str) -> list[Entry]:
    """The released folder on the winner's run, its registered version, and the winner's numbers on the parent."""
    winner, cell = judgement.winner(), judgement.cell
    row = next(row for row in judgement.rows() if row["verdict"] == "released")
    numbers = _numbers(judgement.builts[row["artifact"]]) | {"size_bytes": row["size_bytes"]} | _measured(row)
    version = {
        "release_sha256": built.sha256,
        "checkpoint": cell.checkpoint.key,
        "artifact": winner.candidate.name,
        "registered": cell.checkpoint.registered,
        "number": cell.checkpoint.number,
        "reason": winner.reason,
    }
    return [
        Entry(
            cell.path,
            winner.candidate.name,
            "release",
            tags={"verdict": "released", "release_sha256": built.sha256} | dagster_tags(run_id),
            artifact=asdict(built.artifact) if built.artifact else None,
            version=version,
        ),
        Entry(
            cell.path, PARENT, "release", metrics=numbers, tags={"released": row["artifact"], "reason": row["reason"]}
        ),
    ]


def _verdict_table(judgement: Judgement) -> str:
    lines = [f"| {e.candidate.name} | {e.verdict} | {e.reason} |" for e in judgement.verdicts]
    return "\n".join(["| variant | verdict | why |", "|---|---|---|", *lines])


# --- small parts ---------------------------------------------------------------------------------------


def _check(gate: Gate) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=gate.name, passed=bool(gate.passed), severity=dg.AssetCheckSeverity.ERROR, description=gate.sentence
    )


def _failure(name: str, sentence: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=False, severity=dg.AssetCheckSeverity.ERROR, description=sentence
    )


def _failure_log(cell: Cell, built: Built) -> dg.MetadataValue:
    return dg.MetadataValue.path(cell.store.cache / failures.FOLDER / (built.failure_log or ""))


def _warning(name: str, sentence: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=False, severity=dg.AssetCheckSeverity.WARN, description=sentence)


def _link(url: str) -> dg.MetadataValue:
    return dg.MetadataValue.url(url) if url.startswith("http") else dg.MetadataValue.text(url)


def _shown(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return dg.MetadataValue.md(tables.plain(value))
    return dg.MetadataValue.json(value) if isinstance(value, dict | list) else value


def _pictures(cell: Cell, built: Result) -> Metadata:
    """The pictures at the top of an artifact's folder."""
    if built.artifact is None or not any(file.path.endswith(".png") for file in built.artifact.files):
        return {}
    folder = cell.store.checkout(built.artifact)
    return {path.stem: dg.MetadataValue.md(_image(path)) for path in sorted(folder.glob("*.png"))}


def _image(path: Path) -> str:
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"
