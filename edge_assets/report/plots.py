"""Plots as PNG bytes: accuracy against size and latency, and latency distributions."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Latency, Row
from edge_assets.report.panels import Point, panels
from edge_assets.report.words import axis_label, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"released": "#1a7f37", "baseline": "#57606a", "dominated": "#bf8700", "not_selected": "#0969da"}
OTHER = "#cf222e"
OFFSETS = (7, -14, 14, -28)  # of names from their points, in turn


def accuracy(rows: Sequence[Row]) -> bytes:
    """Accuracy against size and, where it was measured, against median latency; one point per variant."""
    shown = panels(rows)
    figure, axes = _figure(len(shown))
    for axis, (label, points) in zip(axes, shown.items(), strict=True):
        for number, point in enumerate(points):
            _draw(axis, point, number)
        axis.set_xlabel(label)
        axis.margins(x=0.25, y=0.25)
        axis.set_xlim(left=0)
    axes[0].set_ylabel(f"{axis_label(rows)}, 95 % interval of the drop")
    return _png(figure)


def _draw(axis: "Axes", point: Point, number: int) -> None:
    """A point with its interval and its name, which stands above or below it in turn: near ones would overlap."""
    row = point.row
    assert row.accuracy is not None and row.accuracy_drop_points is not None and row.accuracy_drop_interval_points
    score, drop = scaled(row, 100 * row.accuracy), scaled(row, row.accuracy_drop_points)
    low, high = (scaled(row, bound) for bound in row.accuracy_drop_interval_points)
    color = COLORS.get(row.verdict, OTHER)
    axis.errorbar(point.x, score, yerr=[[high - drop], [drop - low]], fmt="o", color=color, capsize=3)
    offset = (6, OFFSETS[number % len(OFFSETS)])
    axis.annotate(
        row.artifact,
        (point.x, score),
        textcoords="offset points",
        xytext=offset,
        fontsize=8,
        color=color,
    )


def latency_distribution(timed: Mapping[str, Latency]) -> bytes:
    """Latency histograms at batch 1, one line per variant."""
    figure, (axis,) = _figure(1)
    for name, latency in timed.items():
        histogram = latency.histogram
        if histogram is None:
            continue
        total = sum(histogram.counts)
        shares = [count / total for count in histogram.counts]
        axis.stairs(shares, histogram.edges, label=name)
    axis.set_xlabel("latency at batch 1 (ms)")
    axis.set_xscale("log")
    axis.set_ylabel("share of queries")
    axis.legend(fontsize=8)
    return _png(figure)


def _figure(panels: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, panels, i + 1) for i in range(panels)]


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
