"""The figures: heat maps of the average indirect effect by token role and layer, and severed effects by layer.

Covers drawing charts.py's and severed.py's data, as PDF and PNG of the same bytes each time: entity and relation
perspective side by side on one colour scale, single panels for narrow pages, and one traced prompt. It traces nothing
and needs no GPU. Which figures need drawing at all is drawings.py's.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from artifact.errors import RunError, SettingError
from artifact.io import write_atomically
from artifact.reporting.charts import Chart, Panel, panel_file
from artifact.reporting.severed import SeveredChart
from artifact.terminal import shown
from artifact.tracing.kinds import TRACE_KINDS

COLUMN_INCHES = 3.5
"""Width of one panel: a column of the paper, or a phone's screen."""
_PIXELS_PER_INCH = 220
_MOST_LABELS = 256
"""Of tokens: of a longer prompt every n-th is named."""
_MOST_CHARACTERS = 24
"""Of a token's label: a longer one leaves no room for what it names."""
_COLOURS = "viridis"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name may hold dollar signs, which are no formula
    "axes.unicode_minus": False,  # one character beyond Latin-1 embeds the font a second time
}


def chart_files(chart: Chart) -> dict[str, bytes]:
    """Content by file name: the chart as PDF and PNG, and a PNG a panel."""
    pdf, png = figure_bytes(lambda: _figure(chart, chart.panels), "pdf", "png")
    files = {f"{chart.name}.pdf": pdf, f"{chart.name}.png": png}
    for panel in chart.panels:
        (files[panel_file(panel)],) = figure_bytes(partial(_figure, chart, [panel]), "png")
    return files


def severed_files(chart: SeveredChart) -> dict[str, bytes]:
    """Content by file name: the chart as PDF and PNG."""
    pdf, png = figure_bytes(lambda: _severed_figure(chart), "pdf", "png")
    return {f"{chart.name}.pdf": pdf, f"{chart.name}.png": png}


def figure_form(path: Path) -> str:
    """The form that a figure's file name asks for: pdf or png; SettingError for another."""
    form = path.suffix.lower().removeprefix(".")
    if form not in ("pdf", "png"):
        raise SettingError(f"figure {path}: expected a name that ends in .pdf or .png; give such a name")
    return form


def trace_figure(trace: Mapping[str, Any], path: Path) -> None:
    """Heat map of one traced prompt's indirect effects, token by layer, written to `path` (.pdf or .png).

    `trace` holds what `kloc trace --json` writes. Corrupted tokens carry a star. Raises SettingError for another
    suffix, RunError when the file cannot be written.
    """
    form = figure_form(path)
    untouched = trace["clean"] if trace.get("direction") == "corrupt" else trace["corrupted"]
    effects_TL = np.asarray(trace["scores"]) - untouched
    read = {"logp": "log p", "ld": "the logit of "}.get(trace.get("metric", "p"), "p")

    def draw() -> Figure:
        named = range(0, len(effects_TL), -(-len(effects_TL) // _MOST_LABELS))
        size = (COLUMN_INCHES, 0.8 + 0.17 * len(named))
        figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(effects_TL, aspect="auto", cmap=_COLOURS, interpolation="nearest")
        words = [f"{_drawable(trace['tokens'][t], _MOST_CHARACTERS)}{'*' if t in trace['span'] else ''}" for t in named]
        axis.set_yticks(named, words)
        axis.set_xticks(range(0, effects_TL.shape[1], max(1, -(-effects_TL.shape[1] // 8))))
        axis.set_xlabel("layer")
        axis.tick_params(length=2, width=0.5)
        figure.colorbar(image, ax=axis).set_label(
            f"indirect effect on {read}({_drawable(trace['answer'].strip(), _MOST_CHARACTERS)})"
        )
        return figure

    (content,) = figure_bytes(draw, form)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name a file in a folder you own") from None


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_STYLE["font.family"])).get_charmap())


def _drawable(text: str, most: int = 60) -> str:
    """A text in one line of at most `most` characters that the font can draw: others are written as escapes."""
    line = shown(text)[: most + 1]
    drawn = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in line)
    return drawn if len(drawn) <= most else f"{drawn[: most - 3]}..."


def _scale(chart: Chart) -> Normalize:
    """One scale for all panels; it holds zero, so that an effect below none is seen as such."""
    low = min(0.0, *(float(panel.aie_RL.min()) for panel in chart.panels))
    high = max(0.0, *(float(panel.aie_RL.max()) for panel in chart.panels))
    return Normalize(low, high if high > low else low + 1e-6)


def figure_bytes(draw: Callable[[], Figure], *forms: str) -> list[bytes]:
    """The figure that `draw` makes, in each of the forms pdf and png: the same bytes under any matplotlibrc."""
    found = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = draw()
        FigureCanvasAgg(figure)
        # Laid out once: the layout costs more than either form.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for form in forms:
            content = io.BytesIO()
            if form == "pdf":
                FigureCanvasPdf(figure).print_pdf(
                    content, metadata={"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
                )
            else:
                FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
            found.append(content.getvalue())
    return found


def _figure(chart: Chart, panels: Sequence[Panel]) -> Figure:
    roles = max(len(panel.effects) for panel in panels)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = (COLUMN_INCHES * columns, (0.85 + 0.24 * roles) * rows)
    figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    perspectives = [panel.perspective for panel in chart.panels]
    scale = _scale(chart)
    image = None
    for axis, panel in zip(axes, panels, strict=False):
        aie_RL = panel.aie_RL
        image = axis.imshow(aie_RL, aspect="auto", cmap=_COLOURS, norm=scale, interpolation="nearest")
        axis.set_yticks(range(len(panel.effects)), [f"{_drawable(e.role)} ({e.facts})" for e in panel.effects])
        layers = aie_RL.shape[1]
        axis.set_xticks(range(0, layers, max(1, -(-layers // 8))))
        axis.set_xlabel("layer")
        named = f"{_drawable(panel.unit)}, " if perspectives.count(panel.perspective) > 1 else ""
        axis.set_title(f"{panel.title}\n{named}{panel.facts} facts", loc="right")
        axis.tick_params(length=2, width=0.5)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), pad=0.02, fraction=0.05, aspect=18 * rows)
    bar.set_label(f"AIE, {_drawable(chart.printed_kind)}")
    bar.ax.tick_params(length=2, width=0.5)
    bar.outline.set_linewidth(0.5)
    return figure


def _severed_figure(chart: SeveredChart) -> Figure:
    columns = 3
    rows = -(-len(chart.effects) // columns)
    figure = Figure(figsize=(2 * COLUMN_INCHES, 0.6 + 1.35 * rows), dpi=_PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, (role, lines) in zip(axes, chart.effects.items(), strict=False):
        for kind, effect in lines.items():
            mean_L, half_L = effect.mean(), np.nan_to_num(effect.half_width())
            layers_L = np.arange(len(mean_L))
            traced = TRACE_KINDS[kind]
            colour, style = traced.look
            axis.plot(layers_L, mean_L, style, color=colour, linewidth=1.2, label=traced.line)
            axis.fill_between(layers_L, mean_L - half_L, mean_L + half_L, color=colour, alpha=0.15, linewidth=0)
        facts = next(iter(lines.values())).facts
        axis.set_title(f"{role} ({facts})")
        axis.axhline(0, color="#888888", linewidth=0.5)
        axis.tick_params(length=2, width=0.5)
    for axis in axes[len(chart.effects) :]:
        axis.set_axis_off()
    for axis in axes[(rows - 1) * columns :]:
        axis.set_xlabel("layer")
    for axis in axes[::columns]:
        axis.set_ylabel("AIE")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure
