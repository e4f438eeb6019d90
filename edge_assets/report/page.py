"""The scorecard page: one self-contained HTML file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from edge_assets.core.evidence import Row
from edge_assets.report import plots
from edge_assets.report.tradeoff import refusals, tradeoffs
from edge_assets.spec.model import ModelSpec

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class FamilySection:
    """One family's part of the page."""

    name: str
    targets: list[str]
    plot: str  # PNG in base64


@dataclass(frozen=True)
class Provenance:
    """Of one target, in words: what was measured on it, what was computed on another machine, what not at all."""

    target: str
    on_target: str = "-"
    here: str = "-"
    not_at_all: str = "-"


def write(path: Path, spec: ModelSpec, checkpoint: str, rows: Sequence[Row]) -> None:
    """Write the page of one checkpoint: self-contained HTML."""
    by_target: dict[str, list[Row]] = {}
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
        by_family.setdefault(row.family, []).append(row)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        spec=spec,
        checkpoint=checkpoint,
        families=[_section(name, mine) for name, mine in by_family.items()],
        by_target=by_target,
        tradeoffs=tradeoffs(rows),
        refusals=refusals(rows),
        provenance=[_provenance(target, mine) for target, mine in by_target.items()],
    )
    path.write_text(page)


def _section(name: str, rows: Sequence[Row]) -> FamilySection:
    targets = dict.fromkeys(row.target for row in rows)
    return FamilySection(name, list(targets), _plot(rows))


def _plot(rows: Sequence[Row]) -> str:
    """Accuracy against size and latency of the distinct artifacts of one family, as base64 PNG."""
    distinct = {(row.sha256, row.latency_ms is not None): row for row in rows}
    return base64.b64encode(plots.accuracy(list(distinct.values()))).decode()


def _provenance(target: str, rows: Sequence[Row]) -> Provenance:
    verified_with: list[str] = []
    missing: list[str] = []
    on_target = ""
    for row in rows:
        if row.verified_with and row.verified_with not in verified_with:
            verified_with.append(row.verified_with)
        if row.not_measured and f"latency: {row.not_measured}" not in missing:
            missing.append(f"latency: {row.not_measured}")
        if row.measured_on:
            on_target = f"latency, memory and load time on {row.measured_on}, mode {row.mode}"
    provenance = Provenance(target)
    if verified_with:
        provenance = replace(provenance, here=f"accuracy and parity with {'; '.join(verified_with)}")
    if on_target:
        return replace(provenance, on_target=on_target)
    return replace(provenance, not_at_all="; ".join(missing) or "-")
