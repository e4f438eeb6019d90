"""Plots as PNG bytes: accuracy against size and latency, and latency distributions."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
COLORS = {"released": "#1a7f37", "baseline": "#57606a", "dominated": "#bf8700", "not_selected": "#0969da"}
OTHER = "#cf222e"


def accuracy(rows: Rows) -> bytes:
    """Accuracy against size and, where it was measured, against median latency; one point per variant."""
    panels: list[tuple[str, Callable[[Mapping[str, Any]], float]]] = [
        ("artifact size (KiB)", lambda row: row["size_bytes"] / 1024)
    ]
    shown = [row for row in rows if row["size_bytes"] and row["accuracy"] is not None]
    if any(row["latency_ms"] for row in shown):
        panels.append(
            ("P50 latency at batch 1 (ms)", lambda row: row["latency_ms"]["p50"] or row["latency_ms"]["mean"])
        )
    figure, axes = _figure(len(panels))
    for axis, (label, value) in zip(axes, panels, strict=True):
        for i, row in enumerate(row for row in shown if axis is axes[0] or row["latency_ms"]):
            x, y = value(row), 100 * row["accuracy"]
            low, high = row["accuracy_drop_interval_points"]
            drop = row["accuracy_drop_points"]
            color = COLORS.get(row["verdict"], OTHER)
            axis.errorbar(x, y, yerr=[[high - drop], [drop - low]], fmt="o", color=color, capsize=3)
            # alternating, because variants of nearly one size would write over each other
            offset = (6, 7 * (1 if i % 2 else -2) * (1 + i // 2 % 2))
            axis.annotate(row["artifact"], (x, y), textcoords="offset points", xytext=offset, fontsize=8, color=color)
        axis.set_xlabel(label)
        axis.margins(x=0.25, y=0.25)
        axis.set_xlim(left=0)
    axes[0].set_ylabel("accuracy (%), 95 % interval of the drop")
    return _png(figure)


def latency_distribution(measured: Mapping[str, Any]) -> bytes:
    """Latency histograms at batch 1, one line per variant."""
    figure, (axis,) = _figure(1)
    for name, row in measured.items():
        histogram = row["latency_ms"]["1"]["histogram"]
        total = sum(histogram["counts"])
        axis.stairs([count / total for count in histogram["counts"]], histogram["edges"], label=name)
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
