"""Interactive plots of one target: accuracy against size and, where it was timed, against latency."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Row
from edge_assets.hashing import Json
from edge_assets.report.matrix import shown_as

if TYPE_CHECKING:
    import pandas as pd
    from bokeh.models import Plot

# contrast of at least 4.5 to 1 with white
COLORS = {"won": "#116329", "passed": "#0550ae", "gate": "#a40e26", "unknown": "#7d4e00", "absent": "#57606a"}
MARKERS = {"won": "star", "passed": "circle", "gate": "x", "unknown": "triangle", "absent": "square"}
TOOLTIPS = [
    ("variant", "@variant"),
    ("verdict", "@verdict"),
    ("size", "@size{0,0.0} KiB"),
    ("accuracy", "@accuracy{0.00} %"),
    ("drop", "@drop{0.00} points (@low{0.00} to @high{0.00})"),
    ("P50", "@latency"),
]


def library() -> str:
    """The plotting library's JavaScript, to be put into the page: it works offline."""
    from bokeh.resources import Resources

    scripts: list[str] = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    return "\n".join(scripts)


def target_plot(rows: Sequence[Row]) -> Json:
    """What `Bokeh.embed.embed_item` shows: one or two panels, one point per verified variant, with hover."""
    from bokeh.embed import json_item
    from bokeh.layouts import row as side_by_side

    shown = [row for row in rows if row.size_bytes and row.accuracy is not None]
    panels = [_panel(shown, "artifact size (KiB)", _kibibytes)]
    timed = [row for row in shown if row.latency_ms]
    if timed:
        panels.append(_panel(timed, "P50 latency at batch 1 (ms)", median_ms))
    item: Json = json_item(side_by_side(*panels))  # type: ignore[assignment]  # a TypedDict
    return item


def median_ms(row: Row) -> float:
    """The median latency at batch 1 in ms; the mean where too few queries support a median."""
    assert row.latency_ms is not None
    return row.latency_ms.typical


def _kibibytes(row: Row) -> float:
    assert row.size_bytes is not None
    return row.size_bytes / 1024


def _panel(rows: Sequence[Row], label: str, value: Callable[[Row], float]) -> "Plot":
    from bokeh.models import ColumnDataSource, DataRange1d, HoverTool
    from bokeh.models.renderers import DataRenderer
    from bokeh.plotting import figure

    plot = figure(
        x_range=DataRange1d(start=0),
        width=560,
        height=320,
        x_axis_label=label,
        y_axis_label="accuracy (%)",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        toolbar_location="right",
    )
    plot.toolbar.logo = None
    points: list[DataRenderer] = []
    for kind, color in COLORS.items():
        mine = [row for row in rows if shown_as(row.verdict)[2] == kind]
        if not mine:
            continue
        source = ColumnDataSource(_table(mine, value))
        plot.segment(
            x0="x",
            x1="x",
            y0="least",
            y1="most",
            source=source,
            color=color,
            alpha=0.5,
        )
        shown = plot.scatter(
            x="x",
            y="accuracy",
            source=source,
            marker=MARKERS[kind],
            size=11,
            color=color,
        )
        points.append(shown)
    plot.add_tools(HoverTool(tooltips=TOOLTIPS, renderers=points))
    return plot


def _table(rows: Sequence[Row], value: Callable[[Row], float]) -> "pd.DataFrame":
    """One point per row, with what hovering shows."""
    import pandas as pd

    points = [_point(row, value(row)) for row in rows]
    return pd.DataFrame(points)


def _point(row: Row, x: float) -> dict[str, str | float]:
    """The interval is that of the drop, put around the accuracy."""
    assert row.accuracy is not None
    assert row.accuracy_drop_points is not None
    percent, drop = 100 * row.accuracy, row.accuracy_drop_points
    low, high = row.accuracy_drop_interval_points or (drop, drop)
    latency = "not measured"
    if row.latency_ms:
        latency = f"{row.latency_ms.typical:.3f} ms"
    return {
        "x": x,
        "variant": row.artifact,
        "verdict": shown_as(row.verdict)[1],
        "size": _kibibytes(row),
        "latency": latency,
        "accuracy": percent,
        "drop": drop,
        "low": low,
        "high": high,
        "least": percent - (high - drop),
        "most": percent + (drop - low),
    }
