"""The last steps of a cell: judge the variants, report on them, release the winner."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge_assets.core import data
from edge_assets.core.runtimes import RUNTIMES, build_session
from edge_assets.core.select import Candidate, Judged, Verdict, closest, judge
from edge_assets.core.session import Feeds, Loadable
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import parity
from edge_assets.errors import NothingReleasable
from edge_assets.hashing import digest
from edge_assets.pipeline.cell import Cell

SIZE_BASE = "fp32 weights"  # the checkpoint's parameters and buffers: what size ratios are relative to


@dataclass(frozen=True)
class Judgement:
    """A cell's variants, their measurement, and the verdicts that follow from both."""

    cell: Cell
    builts: Mapping[str, Built]
    measurement: Result

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The rows of the measurement by variant: load_ms, peak_bytes, latency_ms by batch size."""
        import json

        assert self.measurement.artifact is not None
        return json.loads(self.cell.store.checkout(self.measurement.artifact).read_text())["rows"]

    @property
    def is_timed(self) -> bool:
        return self.measurement.facts["mode"] is not None

    @cached_property
    def verdicts(self) -> list[Judged]:
        """A verdict for every variant, the baseline first."""
        intermediates = self.cell.family.intermediates
        candidates = [self._candidate(built) for name, built in self.builts.items() if name not in intermediates]
        return judge(candidates, self.cell.limits, self.cell.not_measured)

    @property
    def measured_on(self) -> str:
        """The machine in words; for a target that is not at hand, that it is another one."""
        machine = self.measurement.facts["machine"]
        name = f"{machine['cpu']}, {machine['cores']} cores, {self.measurement.facts['threads']} thread(s)"
        if self.cell.family.baseline_device == "cuda":
            name = ", ".join([*machine.get("gpus", ()), name])
        return f"{self.cell.target.name} ({name})" if self.is_timed else f"this machine, not the target ({name})"

    def winner(self) -> Judged:
        """The one released variant. Raises NothingReleasable saying what came closest."""
        for entry in self.verdicts:
            if entry.verdict == "released":
                return entry
        raise NothingReleasable(
            f"no variant of {self.cell.spec.name} {self.cell.checkpoint.key} may be released for "
            f"{self.cell.target.name}: {closest(self.verdicts)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One JSON row per variant: the scorecard's and the command line's."""
        return [self._row(entry) for entry in self.verdicts]

    def _effort(self, name: str) -> float:
        """Seconds of an artifact's build and of what precedes it that is no model: training, a ranking, a search."""
        variants = {variant.name: variant for variant in self.cell.family.variants}
        own = self.builts[name].build.seconds
        if name not in variants:
            return own
        parents = (variants.get(parent) for parent in (variants[name].source, *variants[name].others))
        return own + sum(self._effort(parent.name) for parent in parents if parent and not parent.is_model)

    def _candidate(self, built: Built) -> Candidate:
        name = built.variant
        measured = self.measured.get(name, {})
        memory, how = self._memory(built)
        return Candidate(
            name=name,
            format=built.format,
            precision=built.precision,
            recipe=built.build.facts.get("recipe", built.precision),
            sha256=built.build.sha256 if built.artifact else None,
            size_bytes=built.size_bytes,
            blocked=self._blocked(built),
            parity=built.parity,
            accuracy=built.accuracy,
            cosine_mean=built.cosine_mean(self.cell.spec.outputs[0].name),
            peak_memory_bytes=memory,
            memory_how=how,
            latency_ms=measured["latency_ms"]["1"] if self.is_timed and measured else None,
            is_baseline=name == CHECKPOINT,
        )

    def _blocked(self, built: Built) -> tuple[Verdict, str] | None:
        """Why a variant does not come before the gates."""
        failed = built.failed or self.measurement.facts.get("failed", {}).get(built.variant)
        if failed:
            return "failed", failed
        if built.build.refused:
            return ("unavailable" if built.unavailable else "refused"), built.build.refused
        return ("unverified", built.unverified) if built.unverified else None

    def _memory(self, built: Built) -> tuple[int | None, str]:
        """Bytes for the memory gate and how they are known: measured here, else estimated from the program."""
        if peak := self.measured.get(built.variant, {}).get("peak_bytes"):
            return peak, f"measured on {self.measured_on}"
        estimate = built.build.facts.get("memory_estimate")
        return (estimate["bytes"], f"estimated: {estimate['how']}") if estimate else (None, "")

    def _row(self, entry: Judged) -> dict[str, Any]:
        cell, candidate = self.cell, entry.candidate
        built, measured = self.builts[candidate.name], self.measured.get(candidate.name, {})
        base = self.builts[CHECKPOINT].build.facts["weights_bytes"]
        peak = measured.get("peak_bytes")
        accuracy, differences, latency = candidate.accuracy or {}, candidate.parity or {}, candidate.latency_ms
        statistics = ("queries", "mean", "std", "p50", "p90", "p95", "p99")
        return {
            "model": cell.spec.name,
            "checkpoint": cell.checkpoint.key,
            "family": cell.family.name,
            "target": cell.target.name,
            "artifact": candidate.name,
            "format": candidate.format,
            "precision": candidate.precision,
            "recipe": candidate.recipe,
            "verdict": entry.verdict,
            "reason": entry.reason,
            "sha256": candidate.sha256,
            "size_bytes": candidate.size_bytes,
            "size_ratio": candidate.size_bytes / base if candidate.size_bytes else None,
            "size_base": SIZE_BASE,
            "accuracy": accuracy.get("value"),
            "accuracy_drop_points": accuracy.get("drop_points"),
            "accuracy_drop_interval_points": accuracy.get("drop_interval_points"),
            "parity_max_abs": differences.get("max_abs"),
            "parity_max_rel": differences.get("max_rel"),
            "parity_cosine": differences.get("cosine"),
            "parity_snr_db": differences.get("snr_db"),
            "cosine_mean": candidate.cosine_mean,
            "agreement": built.agreement,
            "build_seconds": built.build.seconds if built.artifact else None,
            "effort_seconds": self._effort(candidate.name) if built.artifact else None,
            "latency_ms": {name: latency[name] for name in statistics} if latency else None,
            "latency_ms_by_batch": _sweep(measured) if self.is_timed else None,
            "throughput_per_s": latency["throughput_per_s"] if latency else None,
            "load_ms": measured.get("load_ms") if self.is_timed else None,
            "peak_memory_bytes": peak if self.is_timed else None,
            "host_peak_memory_bytes": peak,
            "memory_estimate": built.build.facts.get("memory_estimate"),
            "graph": built.build.facts.get("graph"),
            "delegation": built.build.facts.get("delegation"),
            "host_baseline_memory_bytes": measured.get("baseline_bytes"),
            "measured_on": self.measured_on if self.is_timed and measured else None,
            "not_measured": None if latency else built.build.facts.get("not_measured", cell.not_measured),
            "verified_with": RUNTIMES[built.runtime].verified_with if built.parity else None,
            "threads": self.measurement.facts["threads"],
            "mode": self.measurement.facts["mode"],
            "evidence": entry.evidence(),
            "parameters": self.builts[CHECKPOINT].build.facts["parameters"],
            "flops": self.builts[CHECKPOINT].build.facts["flops"],
            "reused": built.reused and self.measurement.reused,
        }

    # --- artifacts ---------------------------------------------------------------------------------------

    def report(self) -> Result:
        """The benchmark report: a table, the measurement and plots."""
        inputs = {"measurement": self.measurement.sha256, "verdicts": self._verdicts_digest()}

        def build(folder: Path) -> Mapping[str, Any]:
            from edge_assets.report import benchmark

            return benchmark.write(folder, self.rows(), self.measured, self.measurement.facts)

        return self.cell.store.remember(Recipe("benchmark_report", "1", inputs), build)

    def release(self) -> Result:
        """The released folder. Raises NothingReleasable."""
        winner = self.winner()
        built = self.builts[winner.candidate.name]
        shipped = self._shipped(winner)
        inputs = {
            "artifact": built.build.sha256,
            "shipped": shipped.build.sha256,
            "measurement": self.measurement.sha256,
            "verdicts": self._verdicts_digest(),
        }
        spec = self.cell.spec
        about = {"description": spec.description, "license": spec.license, "class_names": list(spec.class_names)}
        parameters = about | {"preprocessing": spec.preprocess.to_dict(), "metric": spec.evaluation.metric}

        def build(folder: Path) -> Mapping[str, Any]:
            from edge_assets.pipeline import release
            from edge_assets.pipeline.release.app import ReleasedSample

            assert built.artifact is not None and shipped.artifact is not None
            raw = {name: array[:1] for name, array in self.cell.data.arrays(self.cell.data.evaluation).items()}
            fields = data.preprocess_fields(raw, spec.preprocess)
            sample = {name: raw[name] for name in fields}
            inputs = spec.preprocess.apply(sample)
            loadable = self.cell.verification.loadable(built.runtime, built.build)
            variant = next(entry for entry in self.cell.family.variants if entry.name == built.variant)
            outputs = variant.call(_run_once, loadable, inputs)
            artifact = self.cell.store.checkout(shipped.artifact)
            manifest = self._manifest(winner, built, shipped) | about
            values = ReleasedSample(raw=sample, inputs=inputs, outputs=outputs)
            release.write(folder, artifact, manifest, built.build.facts, spec.preprocess.files, values)
            return {"variant": winner.candidate.name, "sha256": built.build.sha256}

        return self.cell.store.remember(Recipe("release", "3", inputs, parameters), build)

    def _shipped(self, winner: Judged) -> Built:
        """What the released folder holds: the winner, or the family's package of it. Raises NothingReleasable."""
        package = self.cell.family.package
        if package is None:
            return self.builts[winner.candidate.name]
        built = self.builts[package]
        passed, sentence = parity.verdict(built.parity, built.precision) if built.parity else (False, "not verified")
        if not passed:
            reason = built.build.refused or built.unverified or sentence
            raise NothingReleasable(f"{winner.candidate.name} won, but {package} cannot be released: {reason}")
        return built

    def _manifest(self, winner: Judged, built: Built, shipped: Built) -> dict[str, Any]:
        cell, candidate = self.cell, winner.candidate
        assert built.artifact is not None and shipped.artifact is not None
        facts = self.measurement.facts
        return {
            "model": cell.spec.name,
            "checkpoint": cell.checkpoint.key,
            "checkpoint_sha256": cell.checkpoint.file.sha256,
            "family": cell.family.name,
            "target": cell.target.name,
            "artifact": candidate.name,
            "format": candidate.format,
            "precision": candidate.precision,
            "file": shipped.artifact.files[0].path if len(shipped.artifact.files) == 1 else shipped.variant,
            "package": dict(shipped.build.facts) if shipped is not built else None,
            "rebuildable": [f"{shipped.variant}/{name}" for name in built.build.facts.get("rebuildable", ())],
            "sha256": candidate.sha256,
            "size_bytes": candidate.size_bytes,
            "runtime": next(v.runtime for v in cell.family.variants if v.name == candidate.name),
            "session": cell.verification.session(built.runtime) | build_session(built.runtime, built.build),
            "inputs": [tensor.name for tensor in cell.spec.inputs],
            "outputs": [tensor.name for tensor in cell.spec.outputs],
            "preprocessing": cell.spec.preprocess.to_dict(),
            "recipe": built.build.to_dict()["recipe"],
            "metric": cell.spec.evaluation.metric,
            "accuracy": candidate.accuracy,
            "parity": candidate.parity,
            "latency_ms": candidate.latency_ms and {k: v for k, v in candidate.latency_ms.items() if k != "histogram"},
            "mode": facts["mode"],
            "threads": facts["threads"],
            "machine": facts["machine"],
            "versions": facts["versions"],
            "measured_at": facts["measured_at"],
            "evidence": winner.evidence(),
            "not_measured": cell.not_measured,
            "reason": winner.reason,
            "verdicts": {entry.candidate.name: entry.verdict for entry in self.verdicts},
        }

    def _verdicts_digest(self) -> str:
        cell = self.cell
        return digest(
            [
                [cell.spec.name, cell.checkpoint.key, cell.target.name],
                [
                    [entry.candidate.name, entry.candidate.sha256, entry.verdict, entry.reason]
                    for entry in self.verdicts
                ],
                [entry.evidence() for entry in self.verdicts],
            ]
        )


def _run_once(loadable: Loadable, feeds: Feeds) -> dict[str, np.ndarray]:
    with loadable.opened(1) as session:
        return session.run(feeds)


def _sweep(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    latencies = measured.get("latency_ms")
    if latencies is None:
        return None
    return {size: {k: v for k, v in row.items() if k != "histogram"} for size, row in latencies.items()}
