"""What is known of a cell's variants, built and measured: the candidates for a release."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edge_assets.core.evidence import (
    Conditions,
    Measured,
    MeasuredVariant,
    Memory,
    Network,
    Provenance,
    Verdict,
)
from edge_assets.core.known import Known
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.select import Candidate
from edge_assets.core.shapes import read
from edge_assets.core.sizes import readable_size
from edge_assets.core.types import Built, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import first_outputs, parity
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.observers import not_emulated
from edge_assets.spec.tiers import Tier
from resources.records import parsed


def known_of(cell: Identity, built: Built) -> Known | None:
    """What all tiers say of a variant; None where nothing was verified."""
    if built.verified is None:
        return None
    runtime = RUNTIMES[built.runtime]
    tier = runtime.tier
    machine = built.verified.machine
    if tier == "host" and machine is not None and machine.matches(cell.target):
        tier = "device"
    return Known(built.verified, Provenance(tier, runtime.verified_with), built.observed)


def verified_candidate(cell: Identity, built: Built) -> Candidate:
    """What a variant is before it is measured."""
    candidate = Candidate(
        name=built.variant,
        format=built.format,
        precision=built.precision,
        recipe=built.recipe,
        sha256=None,
        size_bytes=built.size_bytes,
        blocked=None,
        parity=None,
        accuracy=None,
        is_baseline=built.variant == CHECKPOINT,
    )
    if built.artifact:
        candidate = replace(candidate, sha256=built.build.sha256)
    known = known_of(cell, built)
    if known is None:
        return candidate
    origin, parity_found = known.parity
    _, whole = known.whole
    return replace(
        candidate,
        parity=parity_found,
        accuracy=whole.accuracy,
        metrics=whole.metrics or {},
        cosine_mean=whole.cosine_mean(cell.spec.outputs[0].name),
        parts=known.parts,
        tiers={"parity": origin.tier, "accuracy": known.accuracy_tier},
    )


LEAST_SHARE = 0.5  # of the weights' bytes, in the precision that a variant has in its name


@dataclass(frozen=True)
class Candidates:
    """A cell's variants and their measurement."""

    cell: Cell
    builts: Mapping[str, Built]
    measurement: Result

    @cached_property
    def conditions(self) -> Conditions:
        """How they were measured."""
        return self.measurement.said(Conditions)

    @cached_property
    def measured(self) -> Measured:
        """The whole measurement. Raises Malformed."""
        assert self.measurement.artifact is not None
        path = self.cell.store.checkout(self.measurement.artifact)
        rows = parsed(path.read_bytes()).get("rows")
        return read(Measured, {**self.measurement.facts, "rows": rows})

    @property
    def is_timed(self) -> bool:
        return self.conditions.mode is not None

    @cached_property
    def network(self) -> Network:
        """What the checkpoint's step says of the model."""
        return self.builts[CHECKPOINT].build.said(Network)

    @property
    def measured_on(self) -> str:
        """The machine in words; for a target that is not at hand, that it is another one."""
        machine = self.conditions.machine
        parts = [machine.cpu, f"{machine.cores} cores", f"{self.conditions.threads} thread(s)"]
        if self.cell.family.baseline_device == "cuda":
            parts = [*machine.gpus, *parts]
        if self.conditions.device:
            parts = [f"device {self.conditions.device}", *parts]
        name = ", ".join(parts)
        if self.is_timed:
            return f"{self.cell.target.name} ({name})"
        return f"this machine, not the target ({name})"

    def not_measured(self, name: str) -> str:
        """Why a variant has no latency."""
        if self.conditions.no_device:
            return f"not measured: {self.conditions.no_device}"
        reason = self.builts[name].facts.not_measured or self.cell.not_measured
        emulation = not_emulated(self.cell)
        return f"{reason}; {emulation}" if emulation else reason

    def all(self) -> list[Candidate]:
        """Everything that is no intermediate, the baseline first."""
        found = []
        for name, built in self.builts.items():
            if name not in self.cell.family.intermediates:
                found.append(self._candidate(built))
        return found

    def measured_variant(self, name: str) -> MeasuredVariant | None:
        """What was measured of one, if it was."""
        return self.measured.rows.get(name)

    def parent(self, name: str) -> Built | None:
        """The fp32 variant that one was quantized from; None for those of PyTorch itself, and for fp32."""
        if self.builts[name].precision == "fp32":
            return None
        variants = {variant.name: variant for variant in self.cell.family.variants}
        while name in variants:
            name = variants[name].source
            if name in variants and name in self.builts and self.builts[name].precision == "fp32":
                return self.builts[name]
        return None

    def parent_snr_db(self, name: str) -> float | None:
        """How far a variant's outputs for the first samples are from its parent's, as far as those of both are kept."""
        parent = self.parent(name)
        if parent is None:
            return None
        files = [self._first_outputs(parent), self._first_outputs(self.builts[name])]
        if files[0] is None or files[1] is None:
            return None
        return first_outputs.snr_db(files[0], files[1])

    def _first_outputs(self, built: Built) -> Path | None:
        """The file of them, where the verification kept one: those of earlier versions did not."""
        if built.evidence is None or built.evidence.artifact is None:
            return None
        artifact = built.evidence.artifact
        if [file.path for file in artifact.files] != [first_outputs.FILE]:
            return None
        return self.cell.store.checkout(artifact)

    def effort_seconds(self, name: str) -> float:
        """Of an artifact's build and of what precedes it that is no model: training, a ranking, a search."""
        variants = {variant.name: variant for variant in self.cell.family.variants}
        seconds = self.builts[name].build.seconds
        if name not in variants:
            return seconds
        for parent in (variants[name].source, *variants[name].others):
            if parent in variants and not variants[parent].is_model:
                seconds += self.effort_seconds(parent)
        return seconds

    def _candidate(self, built: Built) -> Candidate:
        candidate = verified_candidate(self.cell, built)
        measured = self.measured_variant(built.variant)
        latency = None
        if self.is_timed and measured and measured.latency_ms:
            latency = measured.latency_ms["1"]
        return replace(
            candidate,
            blocked=self._blocked(built),
            memory=self._memory(built, measured),
            latency=latency,
            tiers={**candidate.tiers, "memory": self._memory_tier(measured)},
        )

    def _memory_tier(self, measured: MeasuredVariant | None) -> Tier:
        """How the peak memory is known: an estimate is made from the program."""
        if measured is None:
            return "graph"
        return "device" if self.is_timed else "host"

    def _blocked(self, built: Built) -> tuple[Verdict, str] | None:
        """Why a variant does not come before the gates."""
        failed = built.failed or (self.conditions.failed or {}).get(built.variant)
        if failed:
            return "failed", failed
        if built.build.refused and built.facts.unavailable:
            return "unavailable", built.build.refused
        if built.build.refused:
            return "refused", built.build.refused
        if built.unverified:
            return "unverified", built.unverified
        return self._cannot_run_there(built) or self._unfit(built)

    def _cannot_run_there(self, built: Built) -> tuple[Verdict, str] | None:
        """Why a variant was not measured on the target's device, where others were."""
        for result in built.elsewhere or ():
            if result.refused is not None and result.recipe.parameters.get("tier") == "device":
                return "failed", result.refused
        if self.conditions.device is None or built.artifact is None or built.variant in self.measured.rows:
            return None
        if built.variant == CHECKPOINT:
            return None
        runtime = RUNTIMES[built.runtime]
        return "unavailable", f"agents of devices do not have its runtime, {', '.join(runtime.distributions)}"

    def _unfit(self, built: Built) -> tuple[Verdict, str] | None:
        """Why a variant is not what it says, though it was built and verified."""
        name = misnamed(built)
        if name:
            return "refused", name
        source = self._unfit_source(built.variant)
        if source:
            return "failed_parity", source
        return None

    def _unfit_source(self, name: str) -> str | None:
        """Why a variant is no better than what it is made from, where that is not the model any more.

        A quantized graph may agree well enough for int8 with PyTorch although the fp32 graph does not for fp32: what it
        has then is the fault of the conversion, and the next checkpoint may show it.
        """
        variants = {variant.name: variant for variant in self.cell.family.variants}
        if name not in variants or variants[name].source not in self.builts:
            return None
        source = self.builts[variants[name].source]
        if source.parity:
            passed, sentence = parity.verdict(source.parity, source.precision)
            if not passed:
                return f"made from {source.variant}, which failed parity: {sentence}"
        return self._unfit_source(source.variant)

    def _memory(self, built: Built, measured: MeasuredVariant | None) -> Memory | None:
        """For the memory gate: measured here, else estimated from the program."""
        if measured:
            return Memory(measured.peak_bytes, f"measured on {self.measured_on}")
        estimate = built.facts.memory_estimate
        if estimate is None:
            return None
        return replace(estimate, how=f"estimated: {estimate.how}")


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
