"""Latency and memory: all variants together, one measurement at a time on a machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_assets.core import failures
from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES, Mode
from edge_assets.core.benchmark.turns import turn
from edge_assets.core.evidence import Conditions, MeasuredVariant
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.session import Loadable
from edge_assets.core.tools import installed
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.errors import (
    DeviceError,
    MeasurementError,
    shortened,
)
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import Identity, machine_digest
from edge_assets.pipeline.measured import now, queried, written_down
from edge_assets.pipeline.verification import Verification
from edge_assets.targets import this_machine

if TYPE_CHECKING:
    from edge_assets.pipeline.elsewhere import Elsewhere
    from edge_assets.pipeline.on_device import OnDevice


@dataclass(frozen=True)
class Measurement:
    """Timing of a cell's variants where this machine is the target, memory elsewhere."""

    cell: Identity
    data: Datasets
    verification: Verification
    elsewhere: Elsewhere

    def of(self, builts: Mapping[str, Built], mode: str) -> Result:
        """Peak memory of every built variant and, if this machine or a device is the target, its latency.

        A measurement in a longer mode than asked for is reused. All variants are measured together, so a new
        variant measures all of them again: timings of different sessions are not comparable. One whose process dies,
        hangs or raises is named in the fact `failed`, with its reason, and the others are measured without it.
        """
        try:
            return self._of(builts, mode, self._device())
        except DeviceError as error:
            self.cell.log(f"{error}: its measurement waits for it")
            result = self._of(builts, mode, None)
            return replace(result, facts={**result.facts, "no_device": shortened(str(error))})

    def _device(self) -> OnDevice | None:
        """The device to be timed, where this machine is not the target. Raises DeviceError where none can be."""
        if self.cell.is_local:
            return None
        found = self.elsewhere.observers
        if found.timed is None and found.absent:
            raise DeviceError("; ".join(found.absent.values()))
        if found.timed is None:
            return None
        from edge_assets.pipeline.on_device import OnDevice

        return OnDevice(self.cell, self.elsewhere, found.timed)

    def _of(self, builts: Mapping[str, Built], mode: str, device: OnDevice | None) -> Result:
        measured = dict(builts)
        failed: dict[str, str] = {}
        while True:
            try:
                result = self._measured(measured, mode, device)
            except MeasurementError as error:
                log = self.cell.store.cache / failures.FOLDER
                failures.keep(error, log, f"{self.cell.path} {error.variant} measurement")
                self.cell.log(f"{error.variant} failed: {error.message}")
                failed[error.variant] = shortened(error.message)
                measured.pop(error.variant)
            else:
                break
        if not failed:
            return result
        return replace(result, facts={**result.facts, "failed": failed})

    def _measured(self, builts: Mapping[str, Built], mode: str, device: OnDevice | None) -> Result:
        if not self.cell.is_local and device is None:
            return self._remembered(builts, None)
        modes = list(MODES)
        for longer in reversed(modes[modes.index(mode) :]):
            recipe = device.recipe(builts, longer) if device else self._recipe(builts, longer)
            result = self.cell.store.recall(recipe)
            if result is not None:
                return result
        if device is None:
            return self._remembered(builts, mode)
        return device.measured(builts, mode)

    def _remembered(self, builts: Mapping[str, Built], mode: str | None) -> Result:
        def build(folder: Path) -> Mapping[str, object]:
            return self._measure(builts, mode, folder)

        return self.cell.store.remember(self._recipe(builts, mode), build)

    def _recipe(self, builts: Mapping[str, Built], mode: str | None) -> Recipe:
        contestants = self._contestants(builts)
        inputs = {name: built.build.sha256 for name, built in contestants.items()}
        inputs["evaluation"] = self.data.evaluation.sha256
        runtimes = {}
        for name, built in contestants.items():
            runtimes[name] = [built.runtime, self.verification.session(built.runtime)]
        parameters = {
            "mode": mode,
            "batch_sizes": list(self.cell.target.batch_sizes) if mode else [1],
            "threads": self.threads(),
            "runtimes": runtimes,
            "machine": machine_digest(),
        }
        return Recipe("measurement", "2", inputs, parameters, _versions(contestants))

    def _measure(self, builts: Mapping[str, Built], mode: str | None, folder: Path) -> Mapping[str, object]:
        built = self._contestants(builts)
        contestants = []
        for name, one in built.items():
            contestants.append(Contestant(name, one.build.sha256, self._timed(name, one)))
        rows = self.interleaved(contestants, MODES[mode] if mode else None, self.cell.target.batch_sizes)
        conditions = Conditions(
            mode=mode,
            threads=self.threads(),
            machine=this_machine(),
            versions=_versions(built) | {"python": platform.python_version()},
            measured_at=now(),
        )
        return written_down(conditions, rows, folder)

    def interleaved(
        self, contestants: Sequence[Contestant], mode: Mode | None, batch_sizes: Sequence[int]
    ) -> dict[str, MeasuredVariant]:
        """What is measured of contestants on evaluation samples; one such measurement at a time on a machine."""
        feeds = queried(self.data, batch_sizes)
        with turn(waiting=lambda: self.cell.log("waiting for another measurement on this machine")):
            return measure(contestants, feeds, mode, batch_sizes, self.threads(), self.cell.log)

    def _contestants(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        """Those whose runtime here is the one on the target: a measurement of any other would say nothing."""
        return {name: built for name, built in builts.items() if self._is_contestant(name, built)}

    def _is_contestant(self, name: str, built: Built) -> bool:
        if built.artifact is None or built.unverified:  # what cannot be opened cannot be measured
            return False
        if name in self.cell.family.intermediates or not RUNTIMES[built.runtime].is_the_targets:
            return False
        return name != CHECKPOINT or self._has_baseline()

    def _has_baseline(self) -> bool:
        """Whether PyTorch eager can run on the target's own device here; off the target its memory is the host's."""
        if not self.cell.is_local or self.cell.family.baseline_device == "cpu":
            return True
        import torch

        return torch.cuda.is_available()

    def _timed(self, name: str, built: Built) -> Loadable:
        """How a contestant is opened for measurement: the baseline on the target's own device."""
        loadable = self.verification.loadable(built.runtime, built.build)
        if name != CHECKPOINT or not self.cell.is_local:
            return loadable
        return replace(loadable, options={**loadable.options, "device": self.cell.family.baseline_device})

    def threads(self) -> int:
        return min(self.cell.target.threads, this_machine().cores)


def _versions(builts: Mapping[str, Built]) -> dict[str, str]:
    names = {"numpy"}
    for built in builts.values():
        names.update(RUNTIMES[built.runtime].distributions)
    return installed(tuple(sorted(names)), None)
