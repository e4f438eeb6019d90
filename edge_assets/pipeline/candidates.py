"""What is known of a cell's variants, built and measured: the candidates for a release."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from edge_assets.core.evidence import (
    Conditions,
    Latency,
    Measured,
    MeasuredVariant,
    Memory,
    Network,
    Observed,
    Provenance,
    TimedThere,
)
from edge_assets.core.known import Known
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.select import Candidate
from edge_assets.core.shapes import read
from edge_assets.core.types import Built, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.pipeline.blocked import blocked
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.identity import Identity
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
    observed = [result.said(Observed) for result in built.elsewhere or () if result.refused is None]
    return Known(built.verified, Provenance(tier, runtime.verified_with), observed)


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


@dataclass(frozen=True)
class InBrowser:
    """What one browser timed of a cell's variants, together."""

    by: str
    mode: str
    threads: int
    timed: Mapping[str, TimedThere]  # by variant


def in_browser(builts: Mapping[str, Built]) -> InBrowser | None:
    """Of the browsers that timed the most variants the last one: times of two are not comparable."""
    records: dict[tuple[str, str], dict[str, Observed]] = {}
    for name, built in builts.items():
        for result in built.elsewhere or ():
            observed = result.said(Observed) if result.refused is None else None
            if observed is not None and observed.timed is not None:
                records.setdefault((observed.timed.measured_at, observed.by), {})[name] = observed
    if not records:
        return None
    latest = max(records, key=lambda key: (len(records[key]), key))
    timed = {name: observed.timed for name, observed in records[latest].items() if observed.timed}
    some = next(iter(timed.values()))
    return InBrowser(latest[1], some.mode, some.threads, timed)


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
        """Whether this machine or a device of the project timed them."""
        return self.conditions.mode is not None

    @cached_property
    def in_browser(self) -> "InBrowser | None":
        """Their latency in a browser that opened a link, where nobody else timed them."""
        return None if self.is_timed else in_browser(self.builts)

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

    @property
    def timed_on(self) -> str | None:
        """Who timed them, in words; None: nobody."""
        if self.is_timed:
            return self.measured_on
        if self.in_browser is None:
            return None
        return f"{self.cell.target.name} ({self.in_browser.by}, {self.in_browser.threads} thread(s))"

    @property
    def mode(self) -> str | None:
        """How long they were timed; None: they were not."""
        return self.in_browser.mode if self.in_browser else self.conditions.mode

    @property
    def threads(self) -> int:
        """With how many threads they were timed, or their memory was measured."""
        return self.in_browser.threads if self.in_browser else self.conditions.threads

    def latencies(self, name: str) -> Mapping[str, Latency] | None:
        """By batch size, of one that was timed."""
        if self.in_browser is not None:
            timed = self.in_browser.timed.get(name)
            return timed.latency_ms if timed else None
        measured = self.measured_variant(name)
        return measured.latency_ms if self.is_timed and measured else None

    def not_measured(self, name: str) -> str:
        """Why a variant has no latency."""
        if self.conditions.no_device:
            return f"not measured: {self.conditions.no_device}"
        reason = self.builts[name].facts.not_measured or self.cell.not_measured
        from edge_assets.pipeline.observers import not_emulated

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

    def _candidate(self, built: Built) -> Candidate:
        candidate = verified_candidate(self.cell, built)
        measured = self.measured_variant(built.variant)
        latencies = self.latencies(built.variant)
        memory_tier: Tier = "graph"  # an estimate is made from the program
        if measured:
            memory_tier = "device" if self.is_timed else "host"
        return replace(
            candidate,
            blocked=blocked(self.cell, self.builts, self.measured, built),
            memory=self._memory(built, measured),
            latency=latencies["1"] if latencies else None,
            tiers={**candidate.tiers, "memory": memory_tier},
        )

    def _memory(self, built: Built, measured: MeasuredVariant | None) -> Memory | None:
        """For the memory gate: measured here, else estimated from the program."""
        if measured:
            return Memory(measured.peak_bytes, f"measured on {self.measured_on}")
        estimate = built.facts.memory_estimate
        if estimate is None:
            return None
        return replace(estimate, how=f"estimated: {estimate.how}")
