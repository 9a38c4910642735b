"""Heat maps of indirect effects: averages by token role and layer, and one traced prompt by token and layer.

Covers drawing charts.py's panels, both perspectives on one colour scale with one bar, and what `kloc trace` found.
figures.py turns them into files.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from artifact.reporting.charts import Chart
from artifact.reporting.look import (
    COLUMN_INCHES,
    SIDE_BY_SIDE_INCHES,
    SMALL,
    drawable,
    layer_axis,
    lines_of,
    new_figure,
    set_title,
    title_text,
    wrapped,
)
from artifact.sizes import count_of
from artifact.tracing.kinds import trace_kind

_MOST_LABELS = 256
"""Of tokens: of a longer prompt every n-th is named."""
_MOST_CHARACTERS = 24
"""Of a token's label: a longer one leaves no room for what it names."""
_COLOURS = "viridis"
_LABELS_INCHES = 1.45
"""What the longest role with its number of facts takes."""
_LINE = 0.155
"""Inches of a line of text."""


def heat_map(chart: Chart, width: float = COLUMN_INCHES) -> Figure:
    """The chart's panels, `width` inches wide: side by side where there is room, else one below the other."""
    panels = chart.panels
    columns = 2 if width >= SIDE_BY_SIDE_INCHES and len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    roles = [max(len(panel.effects) for panel in panels[i : i + columns]) for i in range(0, len(panels), columns)]
    title = title_text([f"Average indirect effect, restoring the {chart.printed_kind}"], width)
    figure = new_figure(width, 0.75 + _LINE * (lines_of(title) + 2.2 * rows) + 0.2 * sum(roles))
    set_title(figure, title)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=roles).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    scale, image = _scale(chart), None
    inches = width / columns - _LABELS_INCHES
    perspectives = [panel.perspective for panel in panels]
    for axis, panel in zip(axes, panels, strict=False):
        image = _heat(axis, panel.aie_RL, scale)
        axis.set_yticks(range(len(panel.effects)), [f"{drawable(e.role)} ({e.facts})" for e in panel.effects])
        named = f", {drawable(panel.unit)}" if perspectives.count(panel.perspective) > 1 else ""
        axis.set_title(wrapped(f"{panel.title}: {count_of(panel.facts, 'fact')}{named}", inches), loc="left")
        layer_axis(axis, panel.aie_RL.shape[1], inches, chart.layer_words)
        if columns == 1:
            axis.label_outer()
    assert image is not None
    _colour_bar(figure, image, list(axes), "probability of the answer", columns)
    return figure


def prompt_map(trace: Mapping[str, Any], width: float = COLUMN_INCHES) -> Figure:
    """One traced prompt's indirect effects, token by layer, with what was asked, restored and corrupted in words."""
    effects_TL = np.asarray(trace["scores"]) - trace["clean" if _into_clean(trace) else "corrupted"]
    named = range(0, len(effects_TL), -(-len(effects_TL) // _MOST_LABELS))
    title = title_text(_prompt_words(trace), width)
    figure = new_figure(width, 0.95 + _LINE * lines_of(title) + 0.17 * len(named))
    set_title(figure, title)
    axis = figure.subplots()
    image = _heat(axis, effects_TL, None)
    labels = [f"{drawable(trace['tokens'][t], _MOST_CHARACTERS)}{'*' if t in trace['span'] else ''}" for t in named]
    axis.set_yticks(named, labels)
    longest = max(map(len, labels), default=0) * SMALL * 0.6 / 72
    windowed = _kind_words(trace)[1]
    layer_axis(axis, effects_TL.shape[1], width - longest - 0.2, windowed)
    _colour_bar(figure, image, [axis], f"indirect effect on {_read(trace)}", 1)
    return figure


def _into_clean(trace: Mapping[str, Any]) -> bool:
    """Whether corrupted states were put into the clean run."""
    return trace.get("direction") == "corrupt"


def _read(trace: Mapping[str, Any]) -> str:
    """What was read of the answer, by its metric: the probability, its logarithm, or the logit."""
    metric = {"logp": "log p", "ld": "logit of "}.get(str(trace.get("metric", "p")), "p")
    return f"{metric}({drawable(str(trace['answer']).strip(), _MOST_CHARACTERS)})"


def _prompt_words(trace: Mapping[str, Any]) -> list[str]:
    """The lines above a traced prompt's map: the prompt, what was restored, the two probabilities, and the star."""
    prompt = " ".join("".join(map(str, trace["tokens"])).split())
    words = [f'Prompt: "{prompt}"']
    if put := _kind_words(trace)[0]:
        words.append(f"Corrupted in the clean run: {put}" if _into_clean(trace) else f"Restored: {put}")
    before = f"clean {trace['clean']:.3f}, " if "clean" in trace else ""
    words.append(f"{_read(trace)}: {before}corrupted {trace['corrupted']:.3f}")
    return [*words, "* corrupted token"]


def _kind_words(trace: Mapping[str, Any]) -> tuple[str, str]:
    """What was restored, where the trace says so, and what the axis of layers counts."""
    if "kind" not in trace:
        return "", "layer"
    kind = trace_kind(str(trace["kind"]), trace.get("sever"))
    window = trace.get("window")
    return (kind.words(window) if window else kind.printed), kind.layer_words


def _heat(axis: Axes, effects: np.ndarray, scale: Normalize | None) -> AxesImage:
    return axis.imshow(effects, aspect="auto", cmap=_COLOURS, norm=scale, interpolation="nearest")


def _colour_bar(figure: Figure, image: AxesImage, axes: list[Axes], words: str, columns: int) -> None:
    """One bar for all panels: below them in a narrow figure, beside them in a wide one."""
    if columns == 1:
        bar = figure.colorbar(image, ax=axes, location="bottom", pad=0.02, fraction=0.05, aspect=30)
    else:
        bar = figure.colorbar(image, ax=axes, location="right", pad=0.02, fraction=0.05, aspect=22)
    bar.set_label(words)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]


def _scale(chart: Chart) -> Normalize:
    """One scale for all panels; it holds zero, so that an effect below none is seen as such."""
    low = min(0.0, *(float(panel.aie_RL.min()) for panel in chart.panels))
    high = max(0.0, *(float(panel.aie_RL.max()) for panel in chart.panels))
    return Normalize(low, high if high > low else low + 1e-6)
