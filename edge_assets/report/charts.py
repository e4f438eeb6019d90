"""Interactive plots of one target: accuracy against size and, where it was timed, against latency."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_assets.core.evidence import Row
from edge_assets.core.sizes import KIB, divided, readable_ms
from edge_assets.hashing import Json
from edge_assets.report import words
from edge_assets.report.matrix import shown_as
from edge_assets.report.panels import Point, panels

if TYPE_CHECKING:
    import pandas as pd
    from bokeh.models import Plot

# contrast of at least 4.5 to 1 with white
COLORS = {
    "won": "#116329",
    "passed": "#0550ae",
    "gate": "#a40e26",
    "unknown": "#7d4e00",
    "broken": "#a40e26",
    "absent": "#57606a",
}
MARKERS = {"won": "star", "passed": "circle", "gate": "x", "unknown": "triangle", "broken": "cross", "absent": "square"}
TOOLTIPS = (
    ("variant", "@variant"),
    ("verdict", "@verdict"),
    ("size", "@size{0,0.0} KiB"),
    ("drop", "@drop"),
    ("P50", "@latency"),
)


def library() -> str:
    """The plotting library's JavaScript, to be put into the page: it works offline."""
    from bokeh.resources import Resources

    scripts: list[str] = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    return "\n".join(scripts)


def target_plot(rows: Sequence[Row]) -> Json:
    """What `Bokeh.embed.embed_item` shows: one or two panels, one point per verified variant, with hover."""
    from bokeh.embed import json_item
    from bokeh.layouts import row as side_by_side

    drawn = [_panel(points, label) for label, points in panels(rows).items()]
    item: Json = json_item(side_by_side(*drawn))  # type: ignore[assignment]  # a TypedDict
    return item


def _panel(points: Sequence[Point], label: str) -> "Plot":
    from bokeh.models import ColumnDataSource, DataRange1d, HoverTool
    from bokeh.models.renderers import DataRenderer
    from bokeh.plotting import figure

    plot = figure(
        x_range=DataRange1d(start=0),
        width=560,
        height=320,
        x_axis_label=label,
        y_axis_label=words.axis_label([point.row for point in points]),
        tools="pan,wheel_zoom,box_zoom,reset,save",
        toolbar_location="right",
    )
    plot.toolbar.logo = None
    markers: list[DataRenderer] = []
    for kind, color in COLORS.items():
        mine = [point for point in points if shown_as(point.row.verdict)[2] == kind]
        if not mine:
            continue
        source = ColumnDataSource(_table(mine))
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
        markers.append(shown)
    tooltips = [*TOOLTIPS[:3], (words.metric(points[0].row), "@score"), *TOOLTIPS[3:]]
    plot.add_tools(HoverTool(tooltips=tooltips, renderers=markers))
    return plot


def _table(points: Sequence[Point]) -> "pd.DataFrame":
    """One line per point, with what hovering shows."""
    import pandas as pd

    return pd.DataFrame([_line(point) for point in points])


def _line(point: Point) -> dict[str, str | float | None]:
    """The interval is that of the drop, put around the accuracy."""
    row = point.row
    assert row.accuracy is not None
    assert row.accuracy_drop_points is not None
    value, drop = words.scaled(row, 100 * row.accuracy), words.scaled(row, row.accuracy_drop_points)
    interval = row.accuracy_drop_interval_points or (row.accuracy_drop_points, row.accuracy_drop_points)
    low, high = (words.scaled(row, bound) for bound in interval)
    unit = "" if row.own_unit else " points"
    latency = "not measured"
    if row.latency_ms:
        latency = readable_ms(row.latency_ms.typical)
    return {
        "x": point.x,
        "variant": row.artifact,
        "verdict": shown_as(row.verdict, words.metric(row))[1],
        "size": divided(row.size_bytes, KIB),
        "latency": latency,
        "accuracy": value,
        "score": words.score(row),
        "drop": f"{words.drop(row)}{unit} ({words.drop_interval(row)})",
        "least": value - (high - drop),
        "most": value + (drop - low),
    }
