"""Lines by layer of attention knockouts: both kinds of prompt on one scale, with bands of 95% intervals.

Covers drawing flow_charts.py's data. figures.py turns it into files.
"""

from matplotlib.figure import Figure

from artifact.reporting.flow_charts import FlowChart
from artifact.reporting.look import (
    COLUMN_INCHES,
    SIDE_BY_SIDE_INCHES,
    layer_axis,
    lines_of,
    new_figure,
    set_title,
    title_text,
)
from artifact.sizes import count_of

_LINE = 0.155
"""Inches of a line of text."""


def flow_lines(chart: FlowChart, width: float = COLUMN_INCHES) -> Figure:
    """A panel a kind of prompt, side by side, `width` inches wide."""
    columns = len(chart.panels)
    title = title_text([chart.title], width)
    labels = list(dict.fromkeys(line.label for panel in chart.panels for line in panel.lines))
    entries = 3 if width >= SIDE_BY_SIDE_INCHES else 2
    height = 1.6 + _LINE * (lines_of(title) + 1 + -(-len(labels) // entries))
    figure = new_figure(width, height + (0.6 if width >= SIDE_BY_SIDE_INCHES else 0))
    set_title(figure, title)
    axes = figure.subplots(1, columns, squeeze=False, sharey=True).ravel()
    handles = {}
    for axis, panel in zip(axes, chart.panels, strict=True):
        for line in panel.lines:
            layers = range(len(line.by_layer))
            means = [one.mean for one in line.by_layer]
            (handles[line.label],) = axis.plot(
                layers, means, linestyle=line.style, color=line.colour, linewidth=1.2, label=line.label
            )
            low, high = ([getattr(one, end) for one in line.by_layer] for end in ("low", "high"))
            axis.fill_between(layers, low, high, color=line.colour, alpha=0.15, linewidth=0)
        axis.set_title(f"{panel.perspective} prompt ({count_of(panel.facts, 'fact')})", loc="left", fontsize=7.5)
        axis.axhline(0, color="#888888", linewidth=0.5)
        layer_axis(axis, max(len(line.by_layer) for line in panel.lines), width / columns - 0.4)
    axes[0].set_ylabel(chart.unit)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=entries,
        frameon=False,
        handlelength=2.0,
        columnspacing=1.0,
    )
    return figure
