"""Figures as files: a run's heat maps, severed effects and success after each edit, and the map of one traced prompt.

Covers which figure draws which data, in PDF, PNG and SVG of the same bytes each time. It traces nothing and needs no
GPU. Which of a report's figures need drawing at all is drawings.py's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from artifact.errors import RunError, SettingError
from artifact.io import write_atomically
from artifact.reporting.charts import Chart
from artifact.reporting.curves import change_marks, edit_marks, layer_lines, severed_curves
from artifact.reporting.edit_charts import EditChart
from artifact.reporting.flow_charts import FlowChart
from artifact.reporting.flow_curves import flow_lines
from artifact.reporting.gallery import Shown
from artifact.reporting.heatmaps import heat_map, prompt_map
from artifact.reporting.line_charts import LineChart
from artifact.reporting.look import COLUMN_INCHES, FORMS, figure_bytes
from artifact.reporting.mark_charts import MarkChart
from artifact.reporting.multiverse import Curve
from artifact.reporting.specification_curves import specification_curve


def drawn(one: Shown, width: float = COLUMN_INCHES) -> Figure:
    """The figure of this data, `width` inches wide."""
    if isinstance(one, Chart):
        return heat_map(one, width)
    if isinstance(one, MarkChart):
        return change_marks(one, width)
    if isinstance(one, Curve):
        return specification_curve(one, width)
    if isinstance(one, LineChart):
        return layer_lines(one, width)
    if isinstance(one, FlowChart):
        return flow_lines(one, width)
    return edit_marks(one, width) if isinstance(one, EditChart) else severed_curves(one, width)


def figure_files(one: Shown, forms: Sequence[str] = ("pdf", "png"), width: float = COLUMN_INCHES) -> dict[str, bytes]:
    """Content by file name: the figure in each of the forms, `width` inches wide."""
    contents = figure_bytes(partial(drawn, one, width), *forms)
    return {f"{one.name}.{form}": content for form, content in zip(forms, contents, strict=True)}


def figure_form(path: Path) -> str:
    """The form that a figure's file name asks for: pdf, svg or png; SettingError for another."""
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMS:
        raise SettingError(f"figure {path}: expected a name that ends in .pdf, .svg or .png; give such a name")
    return form


def trace_figure(trace: Mapping[str, Any], path: Path) -> None:
    """Heat map of one traced prompt's indirect effects, token by layer, written to `path` (.pdf, .svg or .png).

    `trace` holds what `kloc trace --json` writes; from Python, `vars` of a Trace, and of its TraceSettings for the
    words on what was restored. Corrupted tokens have a star. Raises SettingError for another suffix, RunError when the
    file cannot be written.
    """
    form = figure_form(path)
    (content,) = figure_bytes(partial(prompt_map, trace), form)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name a file in a folder you own") from None
