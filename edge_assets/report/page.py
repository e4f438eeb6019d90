"""The scorecard page: one self-contained HTML file."""

import base64
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from edge_assets.report import plots
from edge_assets.report.tradeoff import refusals, tradeoffs
from edge_assets.spec.model import ModelSpec

Rows = Sequence[Mapping[str, Any]]
TEMPLATE = Path(__file__).with_name("scorecard.html")


def write(path: Path, spec: ModelSpec, checkpoint: str, rows: Rows) -> None:
    """Write the page of one checkpoint: self-contained HTML."""
    by_target = {name: list(group) for name, group in groupby(rows, key=lambda row: row["target"])}
    families = [
        {"name": name, "targets": list(dict.fromkeys(row["target"] for row in mine)), "plot": _plot(mine)}
        for name, group in groupby(rows, key=lambda row: row["family"])
        if (mine := list(group))
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        spec=spec,
        checkpoint=checkpoint,
        families=families,
        by_target=by_target,
        tradeoffs=tradeoffs(rows),
        refusals=refusals(rows),
        provenance=[_provenance(target, mine) for target, mine in by_target.items()],
    )
    path.write_text(page)


def _plot(rows: Rows) -> str:
    """Accuracy against size and latency of the distinct artifacts of one family, as base64 PNG."""
    distinct = {(row["sha256"], bool(row["latency_ms"])): row for row in rows}
    return base64.b64encode(plots.accuracy(list(distinct.values()))).decode()


def _provenance(target: str, rows: Rows) -> dict[str, str]:
    """Of one target: what was measured on it, what was computed on another machine, what not at all."""
    timed = next((row for row in rows if row["measured_on"]), None)
    elsewhere = dict.fromkeys(row["verified_with"] for row in rows if row["verified_with"])
    missing = dict.fromkeys(row["not_measured"] for row in rows if row["not_measured"])
    return {
        "target": target,
        "on_target": f"latency, memory and load time on {timed['measured_on']}, mode {timed['mode']}" if timed else "-",
        "here": "accuracy and parity with " + "; ".join(elsewhere) if elsewhere else "-",
        "not_at_all": "; ".join(f"latency: {reason}" for reason in missing) if not timed else "-",
    }
