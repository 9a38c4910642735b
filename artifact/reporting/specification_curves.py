"""Drawing a specification curve: estimates in order above, the choices of each as a matrix of marks below.

Covers multiverse.py's data. figures.py turns it into files.
"""

from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from artifact.reporting.look import COLUMN_INCHES, SMALL, lines_of, new_figure, set_title, title_text
from artifact.reporting.multiverse import Curve, Entry

_LINE, _ROW = 0.155, 0.115
"""Inches of a line of text, and of a level's row of marks."""
# Okabe and Ito's colours, told apart by colour-blind readers.
_AGREES, _CONTRADICTS, _OPEN = "#0072B2", "#D55E00", "#999999"
_WORDS = {_AGREES: "agrees", _CONTRADICTS: "contradicts", _OPEN: "interval holds zero"}


def specification_curve(curve: Curve, width: float = COLUMN_INCHES) -> Figure:
    """The curve, `width` inches wide, readable with hundreds of specifications."""
    rows = [(choice, level) for choice, levels in curve.levels.items() for level in levels]
    title = title_text([curve.title], width)
    matrix = _ROW * (len(rows) + len(curve.levels))
    figure = new_figure(width, 2.1 + _LINE * lines_of(title) + matrix)
    set_title(figure, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, matrix])
    places = range(len(curve.entries))
    size = max(0.6, min(3.0, 150 / len(places)))
    for colour, words in _WORDS.items():
        mine = [place for place in places if _colour(curve.entries[place]) == colour]
        if mine:
            found = [curve.entries[place].estimate for place in mine]
            above.vlines(
                mine, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.35, linewidth=0.6
            )
            above.plot(mine, [one.mean for one in found], "o", color=colour, markersize=size, label=words)
    own = [place for place in places if curve.entries[place].specification.own]
    if own:
        means = [curve.entries[place].estimate.mean for place in own]
        above.plot(
            own, means, "D", markersize=5, markerfacecolor="none", markeredgecolor="#000000", label="the paper's"
        )
        for axis, place in product((above, below), own):
            axis.axvline(place, color="#000000", linewidth=0.5, linestyle=":")
    above.axhline(0, color="#888888", linewidth=0.5)
    _clip(above, curve)
    above.set_ylabel("difference, sd")
    heights, labels, height = [], [], 0.0
    for choice, levels in curve.levels.items():
        labels.append(choice)
        heights.append(height)
        for level in levels:
            height += 1
            marked = [place for place in places if curve.entries[place].specification.choices.get(choice) == level]
            below.plot(marked, [height] * len(marked), "|", color="#333333", markersize=4, markeredgewidth=0.6)
            labels.append(level)
            heights.append(height)
        height += 1
    below.set_yticks(heights, labels, fontsize=SMALL - 1)
    for text, label in zip(below.get_yticklabels(), labels, strict=True):
        text.set_fontweight("bold" if label in curve.levels else "normal")
    below.set_ylim(height - 0.4, -0.6)
    below.tick_params(axis="y", length=0)
    below.set_xlabel("specification, by its estimate")
    figure.legend(
        *above.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, handlelength=1.2
    )
    return figure


def _clip(axis: Axes, curve: Curve) -> None:
    """Limit the axis to the entries inside the fences, and mark each side's others by an arrow with their farthest."""
    if not curve.outside:
        return
    away = {place for place, _ in curve.outside}
    shown = [one.estimate for place, one in enumerate(curve.entries) if place not in away]
    fences = curve.inside
    low = min(0.0, *(max(one.low, fences[0]) for one in shown))
    high = max(0.0, *(min(one.high, fences[1]) for one in shown))
    room = 0.12 * (high - low)
    axis.set_ylim(low - room, high + room)
    for mark, edge, side in (("v", low - room / 2, -1), ("^", high + room / 2, 1)):
        places = [(place, one) for place, one in curve.outside if side * (one.estimate.mean - (low + high) / 2) > 0]
        if not places:
            continue
        axis.plot([place for place, _ in places], [edge] * len(places), mark, color="#000000", markersize=3)
        place, farthest = max(places, key=lambda found: side * found[1].estimate.mean)
        words = f"{farthest.estimate.mean:.0f}" + (f", {len(places)} outside" if len(places) > 1 else "")
        left = place < len(curve.entries) / 2
        offset, align = (5, "left") if left else (-5, "right")
        axis.annotate(
            words, (place, edge), (offset, 0), textcoords="offset points", ha=align, va="center", fontsize=SMALL - 1
        )


def _colour(entry: Entry) -> str:
    return _AGREES if entry.agrees else _CONTRADICTS if entry.contradicts else _OPEN
