"""The last steps of a cell: judge the variants, report on them, release the winner."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edge_assets.core import data
from edge_assets.core.arranged import ArrangedSession
from edge_assets.core.evidence import Row
from edge_assets.core.select import Judged, closest, judge
from edge_assets.core.session import Feeds, Loadable, layout_of
from edge_assets.core.shapes import written
from edge_assets.core.types import Built, Recipe, Result
from edge_assets.core.verify import parity
from edge_assets.errors import NothingReleasable
from edge_assets.hashing import digest
from edge_assets.pipeline.candidates import Candidates
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.projection import row_of


@dataclass(frozen=True)
class Judgement:
    """A cell's variants, their measurement, and the verdicts that follow from both."""

    cell: Cell
    builts: Mapping[str, Built]
    measurement: Result

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates(self.cell, self.builts, self.measurement)

    @cached_property
    def verdicts(self) -> list[Judged]:
        """A verdict for every variant, the baseline first."""
        return judge(self.candidates.all(), self.cell.limits, self._not_measured)

    @property
    def _not_measured(self) -> str:
        """Why nothing was timed, where nothing was."""
        reason = self.candidates.conditions.no_device
        return f"not measured: {reason}" if reason else self.cell.not_measured

    @cached_property
    def rows(self) -> list[Row]:
        """One row per variant: the scorecard's and the command line's."""
        return [row_of(entry, self.candidates) for entry in self.verdicts]

    def winner(self) -> Judged:
        """The one released variant. Raises NothingReleasable saying what came closest."""
        for entry in self.verdicts:
            if entry.verdict == "released":
                return entry
        raise NothingReleasable(
            f"no variant of {self.cell.spec.name} {self.cell.checkpoint.key} may be released for "
            f"{self.cell.target.name}: {closest(self.verdicts)}"
        )

    def winning_row(self) -> Row:
        """The winner's row. Raises NothingReleasable."""
        name = self.winner().candidate.name
        return next(row for row in self.rows if row.artifact == name)

    # --- artifacts ---------------------------------------------------------------------------------------

    def report(self) -> Result:
        """The benchmark report: a table, the measurement and plots."""
        inputs = {"measurement": self.measurement.sha256, "verdicts": self._verdicts_digest()}

        def build(folder: Path) -> Mapping[str, object]:
            from edge_assets.report import benchmark

            timed = {}
            for entry in self.verdicts:
                if entry.candidate.latency is not None:
                    timed[entry.candidate.name] = entry.candidate.latency
            return benchmark.write(folder, self.rows, self.candidates.measured, timed)

        return self.cell.store.remember(Recipe("benchmark_report", "2", inputs), build)

    def release(self) -> Result:
        """The released folder. Raises NothingReleasable."""
        spec = self.cell.spec
        winner = self.builts[self.winner().candidate.name]
        shipped = self._shipped(winner)
        inputs = {
            "artifact": winner.build.sha256,
            "shipped": shipped.build.sha256,
            "measurement": self.measurement.sha256,
            "verdicts": self._verdicts_digest(),
        }
        parameters = {
            "description": spec.description,
            "license": spec.license,
            "class_names": list(spec.class_names),
            "preprocessing": spec.preprocess.to_dict(),
            "metric": spec.evaluation.metric_name,
        }

        def build(folder: Path) -> Mapping[str, object]:
            self._write_release(folder, winner, shipped)
            return {"variant": winner.variant, "sha256": winner.build.sha256}

        return self.cell.store.remember(Recipe("release", "9", inputs, parameters), build)

    def _write_release(self, folder: Path, winner: Built, shipped: Built) -> None:
        """The folder, with one sample of the evaluation data and what the winner gives for it."""
        from edge_assets.pipeline import release
        from edge_assets.pipeline.release.app import ReleasedSample
        from edge_assets.pipeline.release.manifest import manifest_of

        assert shipped.artifact is not None
        cell = self.cell
        sample = data.first_sample(cell.data.first(cell.data.evaluation, 1), cell.spec.preprocess)
        loadable = cell.verification.loadable(winner.runtime, winner.build)
        variant = cell.family.variant(winner.variant)
        inputs = cell.spec.preprocess.apply(sample)
        outputs = variant.call(_run_once, loadable, inputs)
        values = ReleasedSample(raw=sample, inputs=inputs, outputs=outputs)
        if layout_of(cell.spec):
            placed, given = variant.call(_run_query, loadable, inputs)
            values = replace(values, query=ReleasedSample(raw=sample, inputs=placed, outputs=given))
        release.write(
            folder,
            artifact=cell.store.checkout(shipped.artifact),
            manifest=manifest_of(self, winner, shipped),
            facts=winner.build.facts,
            needed=cell.spec.preprocess.files,
            values=values,
        )

    def _shipped(self, winner: Built) -> Built:
        """What the released folder holds: the winner, or the family's package of it. Raises NothingReleasable."""
        package = self.cell.family.package
        if package is None:
            return winner
        built = self.builts[package]
        passed, sentence = False, "not verified"
        if built.parity:
            passed, sentence = parity.verdict(built.parity, built.precision)
        if not passed:
            reason = built.build.refused or built.unverified or sentence
            raise NothingReleasable(f"{winner.variant} won, but {package} cannot be released: {reason}")
        return built

    def _verdicts_digest(self) -> str:
        """Changes when a verdict does, or what it rests on."""
        cell = self.cell
        verdicts = []
        for entry in self.verdicts:
            verdicts.append([entry.candidate.name, entry.candidate.sha256, entry.verdict, entry.reason])
        evidence = [written(entry.gates) for entry in self.verdicts]
        found = [[cell.spec.name, cell.checkpoint.key, cell.target.name], verdicts, evidence]
        if self.candidates.in_browser is not None:  # which is no part of the measurement
            found.append(written(self.candidates.in_browser))
        return digest(found)


def _run_once(loadable: Loadable, feeds: Feeds) -> Feeds:
    with loadable.opened(1) as session:
        return session.run(feeds)


def _run_query(loadable: Loadable, feeds: Feeds) -> tuple[Feeds, Feeds]:
    """What the file itself takes of one sample, in its first step, and what it gives for it."""
    with loadable.opened(1) as session:
        assert isinstance(session, ArrangedSession)
        return session.query(feeds)
