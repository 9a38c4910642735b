"""Lines and points: severed effects by layer for each token role, and success after each edit, method by method.

Covers drawing severed.py's, edit_charts.py's, mark_charts.py's and line_charts.py's data with 95% intervals, on one
scale a figure. figures.py turns them into files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from artifact.facts.fact import Perspective
from artifact.reporting.edit_charts import AFTER, EditChart, EditPanel, Mark
from artifact.reporting.intervals import Estimate
from artifact.reporting.line_charts import LineChart
from artifact.reporting.look import (
    COLUMN_INCHES,
    SIDE_BY_SIDE_INCHES,
    SOFT,
    drawable,
    layer_axis,
    lines_of,
    new_figure,
    set_title,
    title_text,
    wrapped,
)
from artifact.reporting.mark_charts import MarkChart, MarkPanel
from artifact.reporting.severed import SeveredChart
from artifact.tracing.kinds import TRACE_KINDS

# Okabe and Ito's colours, told apart by colour-blind readers; the markers and their places differ, too.
_EDITS: dict[Perspective, tuple[str, str, float]] = {
    "relation": ("#D55E00", "o", -0.17),
    "entity": ("#0072B2", "s", 0.17),
}
"""Of edits by perspective: colour, marker, and how far below a method's line."""
_ROLE = 7.5
"""Size of a role's name in points."""
_LINE = 0.155
"""Inches of a line of text."""


def severed_curves(chart: SeveredChart, width: float = COLUMN_INCHES) -> Figure:
    """A panel a role, a line for each thing that was severed, `width` inches wide."""
    columns = min(len(chart.effects), 3 if width >= SIDE_BY_SIDE_INCHES else 2)
    rows = -(-len(chart.effects) // columns)
    title = title_text([f"Average indirect effect of the hidden state, {chart.corrupted_words}"], width)
    figure = new_figure(width, 0.7 + _LINE * lines_of(title) + 1.2 * rows)
    set_title(figure, title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    inches = (width - 0.5) / columns - 0.1
    for axis, (role, lines) in zip(axes, chart.effects.items(), strict=False):
        for kind, effect in lines.items():
            mean_L, half_L = effect.mean(), np.nan_to_num(effect.half_width())
            layers_L, traced = np.arange(len(mean_L)), TRACE_KINDS[kind]
            colour, style = traced.look
            axis.plot(layers_L, mean_L, style, color=colour, linewidth=1.2, label=traced.line)
            axis.fill_between(layers_L, mean_L - half_L, mean_L + half_L, color=colour, alpha=0.15, linewidth=0)
        facts = next(iter(lines.values())).facts
        axis.set_title(wrapped(f"{role} ({facts})", inches, _ROLE), loc="left", fontsize=_ROLE)
        axis.axhline(0, color="#888888", linewidth=0.5)
        layer_axis(axis, len(next(iter(lines.values())).mean()), inches)
        axis.label_outer()
    for axis in axes[len(chart.effects) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(chart.effects) - columns) : len(chart.effects)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("layer")
    figure.supylabel("probability of the answer", fontsize=_ROLE)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3 if width >= 3.25 else 2,
        frameon=False,
        handlelength=1.5,
        columnspacing=1.0,
    )
    return figure


def edit_marks(chart: EditChart, width: float = COLUMN_INCHES) -> Figure:
    """Success after each edit, a line a method, a panel a group of prompts, `width` inches wide."""

    def under(axis: Axes, panel: EditPanel) -> None:
        if panel.unedited is not None:
            _unedited(axis, panel.unedited.scaled(100))

    figure, axes = _panels(chart, chart.methods, AFTER, width, "success, percent", under)
    axes[0].set_xlim(-3, 103)
    _named(figure, axes, chart.methods, [*(AFTER[one] for one in _EDITS), _UNEDITED, _PUBLISHED])
    return figure


def change_marks(chart: MarkChart, width: float = COLUMN_INCHES) -> Figure:
    """Differences, a line a name, a panel a group of prompts, `width` inches wide."""

    def under(axis: Axes, panel: MarkPanel) -> None:
        axis.axvline(0, color=SOFT, linewidth=0.8)
        if chart.margin:
            axis.axvspan(-100 * chart.margin, 100 * chart.margin, color=SOFT, alpha=0.18, linewidth=0, label=_NONE)

    figure, axes = _panels(chart, chart.lines, chart.of, width, f"{chart.measured}, points", under)
    _named(figure, axes, chart.lines, [*(chart.of[one] for one in _EDITS), _NONE])
    return figure


def _panels(
    chart: EditChart | MarkChart,
    lines: Sequence[str],
    words: Mapping[Perspective, str],
    width: float,
    scale: str,
    under: Callable[[Axes, Any], object],
) -> tuple[Figure, list[Axes]]:
    """A panel a group of prompts with the marks of every line; `under` draws what lies below them."""
    panels: Sequence[EditPanel | MarkPanel] = chart.panels
    columns = len(panels) if width >= SIDE_BY_SIDE_INCHES else 1
    rows = -(-len(panels) // columns)
    title = title_text([chart.title], width)
    figure = new_figure(width, 0.85 + _LINE * (lines_of(title) + 1.2 * rows) + 0.29 * len(lines) * rows)
    set_title(figure, title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, panel in zip(axes, panels, strict=True):
        under(axis, panel)
        for mark in panel.marks:
            _mark(axis, lines.index(mark.method), mark, words[mark.edited])
        axis.set_title(panel.group, loc="left")
        axis.set_xlabel(scale)
        axis.label_outer()
    return figure, list(axes)


def _named(figure: Figure, axes: Sequence[Axes], lines: Sequence[str], order: Sequence[str]) -> None:
    """The lines' names, a grid, and a legend of what the panels show, in this order."""
    axes[0].set_yticks(range(len(lines)), [wrapped(drawable(name, 60), 0.95) for name in lines])
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for axis in axes:
        axis.grid(axis="x", color="#dddddd", linewidth=0.4)
        axis.set_axisbelow(True)
    # One entry a look, whichever panel has it.
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [name for name in order if name in entries]
    figure.legend(
        [entries[name] for name in shown],
        shown,
        loc="outside lower center",
        ncols=4 if figure.get_figwidth() >= SIDE_BY_SIDE_INCHES else 2,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
    )


_UNEDITED, _PUBLISHED, _NONE = "unedited model", "published", "counts as none"


def layer_lines(chart: LineChart, width: float = COLUMN_INCHES) -> Figure:
    """A panel of lines by layer each, with 95% bands, `width` inches wide."""
    columns = chart.side_by_side or min(len(chart.panels), 3 if width >= SIDE_BY_SIDE_INCHES else 2)
    rows = -(-len(chart.panels) // columns)
    title = title_text([chart.title], width)
    figure = new_figure(width, 0.8 + _LINE * lines_of(title) + 1.35 * rows)
    set_title(figure, title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    inches = (width - 0.5) / columns - 0.1
    names = list(dict.fromkeys(line.name for panel in chart.panels for line in panel.lines))
    for axis, panel in zip(axes, chart.panels, strict=False):
        for line in panel.lines:
            number = names.index(line.name)
            there = [(at, one) for at, one in zip(line.layers, line.estimates, strict=True) if one is not None]
            if chart.places:
                beside = 0.08 * (number - (len(names) - 1) / 2)
                at_X = [chart.places.index(at) + beside for at, _ in there]
            else:
                at_X = [at for at, _ in there]
            _line(axis, at_X, [one for _, one in there], number, line.name, bars=bool(chart.places))
        axis.set_title(wrapped(panel.title, inches, _ROLE), loc="left", fontsize=_ROLE)
        axis.axhline(0, color="#888888", linewidth=0.5)
        if chart.places:
            axis.set_xticks(range(len(chart.places)), [str(at) for at in chart.places])
            axis.set_xlabel(chart.across)
        else:
            layer_axis(axis, chart.of_layers, inches)
        axis.label_outer()
    for axis in axes[len(chart.panels) :]:
        axis.set_axis_off()
    figure.supylabel(chart.axis, fontsize=_ROLE)
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=4 if width >= SIDE_BY_SIDE_INCHES else 2,
        frameon=False,
        handlelength=1.6,
    )
    return figure


def _line(axis: Axes, at_X: Sequence[float], every: Sequence[Estimate], number: int, name: str, bars: bool) -> None:
    """A line with the band of its intervals; with `bars`, where few numbers stand side by side, a bar for each."""
    colour, style = _LINES[number % len(_LINES)]
    low_X, high_X = [one.low for one in every], [one.high for one in every]
    points: dict[str, Any] = {"marker": "o", "markersize": 2.2} if bars else {}
    if bars:
        axis.vlines(at_X, low_X, high_X, color=colour, linewidth=0.7, alpha=0.6)
    else:
        axis.fill_between(at_X, low_X, high_X, color=colour, alpha=0.12, linewidth=0)
    axis.plot(at_X, [one.mean for one in every], style, color=colour, linewidth=1.2, label=name, **points)


_LINES = (("#0072B2", "-"), ("#009E73", "--"), ("#CC79A7", ":"), ("#D55E00", "-."), ("#000000", "-"))
"""Okabe and Ito's colours; the strokes differ, too."""


def _unedited(axis: Axes, estimate: Estimate) -> None:
    axis.axvspan(estimate.low, estimate.high, color=SOFT, alpha=0.18, linewidth=0)
    axis.axvline(estimate.mean, color=SOFT, linestyle="--", linewidth=1, label=_UNEDITED)


def _mark(axis: Axes, line: int, mark: Mark, words: str) -> None:
    """One number with its interval, and the published one; `words` are the legend's."""
    colour, marker, below = _EDITS[mark.edited]
    place = line + below
    if mark.measured is not None:
        one = mark.measured.scaled(100)
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.1)
        axis.plot([one.mean], [place], marker, color=colour, markersize=3.6, label=words)
    if mark.published is not None:
        axis.plot(
            [mark.published],
            [place],
            "D",
            markersize=5.6,
            markerfacecolor="none",
            markeredgecolor="#000000",
            markeredgewidth=0.8,
            label=_PUBLISHED,
        )
