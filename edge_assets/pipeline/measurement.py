"""Latency and memory: all variants together, one measurement at a time on a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_assets.core import failures
from edge_assets.core.benchmark.harness import Contestant, measure
from edge_assets.core.benchmark.statistics import MODES, Mode
from edge_assets.core.benchmark.turns import turn
from edge_assets.core.runtimes import RUNTIMES
from edge_assets.core.session import Loadable
from edge_assets.core.tools import installed
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.variant import CHECKPOINT
from edge_assets.errors import (
    MeasurementError,
    shortened,
)
from edge_assets.pipeline.datasets import Datasets
from edge_assets.pipeline.identity import MEASUREMENT_SAMPLES, Identity, machine_digest
from edge_assets.pipeline.verification import Verification
from edge_assets.targets import this_machine


@dataclass(frozen=True)
class Measurement:
    """Timing of a cell's variants where this machine is the target, memory elsewhere."""

    cell: Identity
    data: Datasets
    verification: Verification

    def of(self, builts: Mapping[str, Built], mode: str) -> Result:
        """Peak memory of every built variant and, if this machine is the target, its latency.

        A measurement in a longer mode than asked for is reused. All variants are measured together, so a new
        variant measures all of them again: timings of different sessions are not comparable. One whose process dies,
        hangs or raises is named in the fact `failed`, with its reason, and the others are measured without it.
        """
        measured, failed = dict(builts), {}
        while True:
            try:
                result = self._measured(measured, mode)
            except MeasurementError as error:
                failures.keep(
                    error, self.cell.store.cache / failures.FOLDER, f"{self.cell.path} {error.variant} measurement"
                )
                self.cell.log(f"{error.variant} failed: {error.message}")
                failed[error.variant] = shortened(error.message)
                measured.pop(error.variant)
            else:
                return replace(result, facts={**result.facts, "failed": failed}) if failed else result

    def _measured(self, builts: Mapping[str, Built], mode: str) -> Result:
        longer = list(MODES)[list(MODES).index(mode) :]
        recipes = [self._recipe(builts, name) for name in longer] if self.cell.is_local else []
        for recipe in recipes[1:]:
            if (result := self.cell.store.recall(recipe)) is not None:
                return result
        recipe = recipes[0] if recipes else self._recipe(builts, None)
        return self.cell.store.remember(
            recipe, lambda folder: self._measure(builts, mode if self.cell.is_local else None, folder)
        )

    def _recipe(self, builts: Mapping[str, Built], mode: str | None) -> Recipe:
        contestants = self._contestants(builts)
        inputs = {name: built.build.sha256 for name, built in contestants.items()}
        parameters = {
            "mode": mode,
            "batch_sizes": list(self.cell.target.batch_sizes) if mode else [1],
            "threads": self.threads(),
            "runtimes": {
                name: [built.runtime, self.verification.session(built.runtime)] for name, built in contestants.items()
            },
            "machine": machine_digest(),
        }
        return Recipe(
            "measurement", "1", inputs | {"evaluation": self.data.evaluation.sha256}, parameters, _versions(contestants)
        )

    def _measure(self, builts: Mapping[str, Built], mode: str | None, folder: Path) -> Mapping[str, Any]:
        import json
        import platform
        import time

        contestants = [
            Contestant(name, built.build.sha256, self._timed(name, built))
            for name, built in self._contestants(builts).items()
        ]
        rows = self.interleaved(contestants, MODES[mode] if mode else None, self.cell.target.batch_sizes)
        facts = {
            "mode": mode,
            "threads": self.threads(),
            "machine": this_machine().to_dict(),
            "versions": _versions(self._contestants(builts)) | {"python": platform.python_version()},
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        (folder / "measurement.json").write_text(json.dumps(facts | {"rows": rows}, indent=1))
        return facts

    def interleaved(
        self, contestants: Sequence[Contestant], mode: Mode | None, batch_sizes: Sequence[int]
    ) -> dict[str, Any]:
        """The harness's rows of contestants on evaluation samples; one such measurement at a time on a machine."""
        samples = max(MEASUREMENT_SAMPLES, *batch_sizes)
        feeds = {
            n: array.take(range(samples), axis=0, mode="wrap")
            for n, array in self.data.feeds(self.data.evaluation).items()
        }
        with turn(waiting=lambda: self.cell.log("waiting for another measurement on this machine")):
            return measure(contestants, feeds, mode, batch_sizes, self.threads(), self.cell.log)

    def _contestants(self, builts: Mapping[str, Built]) -> dict[str, Built]:
        """Those whose runtime here is the one on the target: a measurement of any other would say nothing."""
        return {
            name: built
            for name, built in builts.items()
            if built.artifact
            and not built.unverified  # what cannot be opened cannot be measured
            and name not in self.cell.family.intermediates
            and RUNTIMES[built.runtime].is_the_targets
            and (name != CHECKPOINT or self._has_baseline())
        }

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
    runtimes = (RUNTIMES[built.runtime] for built in builts.values())
    names = {"numpy", *(name for runtime in runtimes for name in runtime.distributions)}
    return installed(tuple(sorted(names)), None)
