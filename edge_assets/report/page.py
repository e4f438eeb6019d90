"""The scorecard page: one self-contained HTML file that works offline, its first tables without scripts too."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from edge_assets.core.evidence import Row
from edge_assets.core.sizes import readable_size
from edge_assets.report import charts, matrix, words
from edge_assets.report.comparison import Comparison, columns_of
from edge_assets.report.matrix import Line
from edge_assets.report.ranges import by_scheme
from edge_assets.report.tradeoff import refusals, tradeoffs, usual_name
from edge_assets.spec.model import ModelSpec
from edge_assets.spec.tiers import MEANINGS

HERE = Path(__file__).parent
TEMPLATES = ("page.html", "comparison.html", "page.css", "page.js")


@dataclass(frozen=True)
class Basis:
    """How the numbers of a target are known, as a footnote that several targets share."""

    number: int
    timed: str  # where latency was measured, or why it was not
    verified: str  # what computed parity and accuracy


def write(path: Path, spec: ModelSpec, checkpoint: str, rows: Sequence[Row]) -> None:
    """Write the page of one checkpoint: self-contained HTML."""
    table = matrix.lines(rows)
    page = _template("page.html").render(
        spec=spec,
        checkpoint=checkpoint,
        rows=rows,
        lines=table,
        schemes=matrix.schemes(table),
        headings=words.headings(rows),
        verdicts=_present(rows),
        bases=_bases(table),
        ranges=by_scheme(tradeoffs(rows)),
        refusals=refusals(rows),
        plots={line.target: charts.target_plot(line.rows) for line in table},
        library=charts.library(),
        meanings=MEANINGS,
    )
    path.write_text(page)


def write_comparison(path: Path, spec: ModelSpec, comparison: Comparison) -> None:
    """Write the page of two checkpoints side by side."""
    columns = columns_of(comparison.changes)
    text = _template("comparison.html").render(vars(comparison), spec=spec, columns=columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _template(name: str) -> jinja2.Template:
    loader = jinja2.DictLoader({file: (HERE / file).read_text() for file in TEMPLATES})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    environment.filters["size"] = readable_size
    environment.filters["json"] = script_json
    environment.filters["scheme"] = usual_name
    environment.filters["shown"] = matrix.shown_as
    environment.filters["score"] = words.score
    environment.filters["drop"] = words.drop
    environment.filters["drop_interval"] = words.drop_interval
    environment.filters["other_metrics"] = words.other_metrics
    environment.filters["known_by"] = words.known_by
    environment.filters["tiers"] = words.tiers
    return environment.get_template(name)


def script_json(value: object) -> str:
    """JSON that may stand in a `<script>`: nothing in it can end the element.

    Keys stay in order, because Bokeh defines things where it first names them.
    """
    return json.dumps(value).replace("<", "\\u003c")


def _present(rows: Sequence[Row]) -> list[str]:
    return sorted({row.verdict for row in rows}, key=matrix.place_of)


def _bases(table: Sequence[Line]) -> dict[str, Basis]:
    """The footnote of each target; targets whose numbers are known in the same way share one."""
    numbers: dict[tuple[str, str], Basis] = {}
    found = {}
    for line in table:
        known = (_timed(line), _verified(line))
        basis = numbers.setdefault(known, Basis(len(numbers) + 1, *known))
        found[line.target] = basis
    return found


def _timed(line: Line) -> str:
    for row in line.rows:
        if row.measured_on:
            measured = "latency and load time" if row.peak_memory_bytes is None else "latency, memory and load time"
            return f"{measured} on {row.measured_on}, mode {row.mode}"
    reasons = sorted({row.not_measured for row in line.rows if row.not_measured})
    said = []
    for reason in reasons:
        longer = any(other.startswith(f"{reason};") for other in reasons)
        if not longer:  # else another one says it too, and more
            said.append(reason)
    return f"latency {'; '.join(said)}"


def _verified(line: Line) -> str:
    """What computed the numbers of the winner; of all variants where none ships."""
    asked = [line.winner] if line.winner else line.rows
    metric, _drop = words.headings(asked)
    kinds: dict[str, list[str]] = {}  # by what computed them
    for row in asked:
        for kind in ("accuracy", "parity"):
            origin = (row.provenance or {}).get(kind)
            if origin is not None:
                computed = kinds.setdefault(f"{origin.by} ({origin.tier})", [])
                called = metric if kind == "accuracy" else kind
                computed += [] if called in computed else [called]
    parts = [f"{' and '.join(computed)} with {by}" for by, computed in kinds.items()]
    for row in asked:
        own = (row.provenance or {}).get("accuracy")
        for one in row.observations or ():
            if one.device is not None and (own is None or own.by != one.by):
                value = words.valued(row, one.accuracy)
                parts.append(f"{metric} {value} of {one.samples} samples with {one.by} ({one.tier})")
    parts = list(dict.fromkeys(parts))
    return "; ".join(parts) or "nothing verified"
