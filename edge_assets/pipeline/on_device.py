"""Timing on a device of the project: all variants that it takes together, leased to that measurement alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES
from edge_assets.core.evidence import Conditions
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.devices.lease import leased
from edge_assets.devices.session import DeviceWorker
from edge_assets.errors import DeviceError
from edge_assets.pipeline.elsewhere import Elsewhere
from edge_assets.pipeline.identity import Identity
from edge_assets.pipeline.measured import now, queried, written_down
from edge_assets.pipeline.observers import Observer

VERSION = "1"  # of what is measured on devices


@dataclass(frozen=True)
class OnDevice:
    """One device, and what is measured on it for a cell."""

    cell: Identity
    elsewhere: Elsewhere
    device: Observer

    def recipe(self, builts: Mapping[str, Built], mode: str) -> Recipe:
        """Of the measurement: a device counts by its name, because no two boards have the same clock."""
        inputs = {name: built.build.sha256 for name, built in self._taken(builts).items()}
        inputs["evaluation"] = self.elsewhere.data.evaluation.sha256
        parameters = {
            "mode": mode,
            "batch_sizes": list(self.cell.target.batch_sizes),
            "threads": self._threads,
            "device": self.device.device.name,
        }
        return Recipe("measurement", VERSION, inputs, parameters | self.device.parameters())

    def measured(self, builts: Mapping[str, Built], mode: str) -> Result:
        """The measurement. Raises DeviceError where the device is away, hot, busy or full."""
        if not self.device.is_here:
            raise DeviceError("; ".join(self.elsewhere.observers.absent.values()))
        if not self._taken(builts):
            self._demand_runtimes(builts)

        def build(folder: Path) -> Mapping[str, object]:
            return self._measure(builts, mode, folder, self.cell.log)

        return self.cell.store.remember(self.recipe(builts, mode), build)

    def _demand_runtimes(self, builts: Mapping[str, Built]) -> None:
        """Raises DeviceError with what the device lacks to open the first variant that it should run."""
        for name, built in builts.items():
            if not self.elsewhere.is_agents(name, built):
                continue
            lack = self.elsewhere.lack(self.device, name, built)
            if lack is not None:
                raise DeviceError(lack)

    def _measure(
        self, builts: Mapping[str, Built], mode: str, folder: Path, log: Callable[[str], None]
    ) -> Mapping[str, object]:
        contestants = []
        for name, built in self._taken(builts).items():
            loadable = self.elsewhere.loadable(self.device, name, built)
            contestants.append(Contestant(name, built.build.sha256, loadable))
        batch_sizes = self.cell.target.batch_sizes
        feeds = queried(self.elsewhere.data, batch_sizes)
        with leased(self.device.device, self.cell.path, log) as readiness:
            rows = measure(
                contestants,
                feeds,
                MODES[mode],
                batch_sizes,
                self._threads,
                log,
                start=DeviceWorker,
                ready=readiness.awaited,
            )
        conditions = Conditions(
            mode=mode,
            threads=self._threads,
            machine=self.device.machine,
            versions=self.device.versions,
            measured_at=now(),
            device=self.device.device.name,
        )
        return written_down(conditions, rows, folder)

    def _taken(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        return {name: built for name, built in builts.items() if self.elsewhere.takes(self.device, name, built)}

    @property
    def _threads(self) -> int:
        return min(self.cell.target.threads, self.device.machine.cores)
