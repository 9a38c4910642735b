"""Figures: the same bytes each time, sharp, nothing cut at any width, one scale and bar; the numbers beside them."""

import csv
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from artifact.cli.bounds import NARROWEST
from artifact.facts.fact import PERSPECTIVES
from artifact.reporting import look
from artifact.reporting.charts import Chart, Panel
from artifact.reporting.curves import edit_marks
from artifact.reporting.edit_charts import EditChart, EditPanel, Mark
from artifact.reporting.expected import load_expected
from artifact.reporting.figures import drawn, figure_files
from artifact.reporting.gallery import Shown, gallery
from artifact.reporting.heatmaps import heat_map, prompt_map
from artifact.reporting.intervals import Estimate
from artifact.reporting.sequences import WAYS, Written, sequence_charts
from artifact.reporting.severed import severed_charts
from artifact.reporting.verdict import measured_run, reach_verdict
from artifact.runs.store import Store
from artifact.tracing.averages import RoleEffects, roles

LAYERS = 48
LINES = ("entity reliability", "relation reliability", "entity specificity")
WIDTHS = (NARROWEST, 7.0)


def panel(kind: str, perspective: Any, least: float = 0.0) -> Panel:
    """A panel of a deep model and many facts, whose effects rise with the role and the layer."""
    effects_FL = least + np.outer(np.ones(3), np.linspace(0, 0.5, LAYERS))
    effects = tuple(RoleEffects(role, effects_FL + 0.01 * i) for i, role in enumerate(roles(perspective)))
    return Panel(f"trace-{kind}-{perspective}", kind, 10, perspective, effects, 1207, 0, 0, 0.9, 0.1, 3)


HEAT = Chart("mlp", (panel("mlp", "entity", -0.2), panel("mlp", "relation")))
(SEVERED, _) = severed_charts(
    [Chart(kind, (panel(kind, "entity"), panel(kind, "relation"))) for kind in ("hidden", "severed-mlp")]
)
MARKS = tuple(
    Mark(method, edited, Estimate(0.5, 0.4, 0.62, 48), 23.9)
    for method in ("FT", "KN, undone, 12 without a neuron")
    for edited in ("relation", "entity")
)
EDITS = EditChart(
    "entity",
    "gpt2-xl",
    ("FT", "KN, undone, 12 without a neuron"),
    tuple(EditPanel(group, Estimate(0.22, 0.2, 0.24, 48), MARKS) for group in ("reliability", "generality")),
)
WRITTEN = [
    Written(
        method,
        edited,
        {
            ((facts, way), name): Estimate(0.5, 0.4, 0.62, facts)
            for facts in (1, 10, 100)
            for way in WAYS
            for name in LINES
        },
        {},
        {(facts, way): facts for facts in (1, 10, 100) for way in WAYS},
        {},
    )
    for method in ("MEMIT-Merge", "AlphaEdit")
    for edited in PERSPECTIVES
]
(SEQUENCE,) = sequence_charts("gpt2-xl", WRITTEN)
TRACE = {
    "tokens": ["The", " Space", " Need", "le", " is", " in", " the", " city", " of"],
    "span": [1, 2, 3],
    "answer": " Seattle",
    "clean": 0.9,
    "corrupted": 0.1,
    "scores": [[0.2] * LAYERS] * 9,
    "kind": "attn",
    "window": 10,
    "sever": None,
}


def laid_out(draw: Callable[[], Figure]) -> Figure:
    """The figure under the house's style, as it is before it is written."""
    kept: list[Figure] = []

    def keep() -> Figure:
        kept.append(draw())
        return kept[0]

    look.figure_bytes(keep)
    return kept[0]


def written(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("one", [HEAT, SEVERED, EDITS, SEQUENCE], ids=lambda one: one.name)
def test_nothing_is_cut_and_no_title_meets_another(one: Shown, width: float) -> None:
    figure = laid_out(lambda: drawn(one, width))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    taken = figure.get_tightbbox(canvas.get_renderer())
    high = figure.get_size_inches()[1]
    assert min(taken.x0, taken.y0) >= -0.01 and taken.x1 <= width + 0.01 and taken.y1 <= high + 0.01
    titles = [text.get_window_extent() for axis in figure.axes for text in (axis._left_title,) if text.get_text()]
    titles += [figure._suptitle.get_window_extent()]  # type: ignore[attr-defined]
    assert len(titles) > 2
    for n, box in enumerate(titles):
        assert not any(box.overlaps(other) for other in titles[n + 1 :])


def test_both_perspectives_share_a_scale_and_a_bar_and_the_axis_says_what_it_is() -> None:
    for width in (look.COLUMN_INCHES, 7.0):
        figure = laid_out(lambda width=width: heat_map(HEAT, width))
        images = [image for axis in figure.axes for image in axis.images]
        assert len(images) == 2 and len(figure.axes) == 3
        assert images[0].norm is images[1].norm and images[0].norm.vmin == pytest.approx(-0.2)
        words = written(figure)
        assert "centre layer of the window" in words and "MLP window" in words and "probability of the answer" in words
        named = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes[:2]]
        assert named[0][0] == "first subject token (3)" and named[1][0] == "subject tokens (3)"


def test_the_map_of_a_prompt_says_what_was_asked_and_done() -> None:
    words = written(laid_out(lambda: prompt_map(TRACE)))
    for part in (
        '"The Space Needle is in the city of"',
        "attention window of 10 layers",
        "clean 0.900, corrupted 0.100",
    ):
        assert part in words.replace("\n", " ")
    assert "* corrupted token" in words and "Space*" in words and "centre layer of the window" in words
    other = written(laid_out(lambda: prompt_map({**TRACE, "direction": "corrupt", "metric": "logp"})))
    assert "Corrupted in the clean run: attention window" in other and "indirect effect on log p(Seattle)" in other
    less = {key: value for key, value in TRACE.items() if key not in ("kind", "window", "sever", "clean")}
    assert "p(Seattle): corrupted 0.100" in written(laid_out(lambda: prompt_map(less)))


def test_curves_over_facts_stand_side_by_side_with_their_intervals() -> None:
    figure = laid_out(lambda: drawn(SEQUENCE))
    words = written(figure)
    for part in ("MEMIT-Merge, entity edit", "AlphaEdit, relation edit", "facts written", "relation, one batch"):
        assert part in words
    axes = figure.axes[:4]
    assert [axis.get_position().y0 for axis in axes[:2]] == [axes[0].get_position().y0] * 2  # one row a method
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["1", "10", "100"]
    for axis in axes:
        curves = [line for line in axis.lines if line.get_label() in words and len(line.get_xdata()) == 3]
        assert len(curves) == 5
        starts = [line.get_xdata()[0] for line in curves]
        assert len(set(starts)) == 5 and max(map(abs, starts)) < 0.5  # beside one another
        bars = [segment for bars in axis.collections for segment in bars.get_segments()]
        assert len(bars) == 15 and {tuple(bar[:, 1]) for bar in bars} == {(0.4, 0.62)}


def png_size(content: bytes) -> tuple[int, int, float]:
    """Width and height in pixels, and pixels an inch, as a PNG file says them."""
    width, height = struct.unpack(">II", content[16:24])
    place = content.index(b"pHYs")
    return width, height, struct.unpack(">I", content[place + 4 : place + 8])[0] * 0.0254


def streams(pdf: bytes) -> list[bytes]:
    """A PDF's compressed parts, unpacked."""
    parts = re.findall(rb"FlateDecode.*?\nstream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return [zlib.decompress(part) for part in parts]


def test_every_form_has_the_same_bytes_each_time_and_a_picture_is_sharp() -> None:
    """A PNG has 300 pixels an inch whatever was written before it."""
    files = figure_files(EDITS, ("pdf", "svg", "png"), 3.3)
    assert figure_files(EDITS, ("png", "svg", "pdf"), 3.3) == files
    width, _, dots = png_size(files["edits-entity.png"])
    assert width == 990 and round(dots) == 300
    svg, pdf = files["edits-entity.svg"], files["edits-entity.pdf"]
    assert svg.startswith(b"<?xml") and b'width="237.6pt"' in svg and b"<dc:date>" not in svg
    assert b"/MediaBox [ 0 0 237.6" in pdf and b"CreationDate" not in pdf
    (font,) = [TTFont(io.BytesIO(part)) for part in streams(pdf) if part.startswith(b"\0\1\0\0")]
    assert "glyf" in font and not {"GDEF", "GPOS", "GSUB", "kern"} & set(font.keys())


def test_a_changed_number_changes_what_a_figure_is_drawn_from() -> None:
    """Else a figure of other numbers would be read back instead of drawn."""
    (first, *rest) = MARKS
    changed = replace(
        EDITS, panels=(replace(EDITS.panels[0], marks=(replace(first, published=24.0), *rest)), EDITS.panels[1])
    )
    assert changed.fingerprint != EDITS.fingerprint == replace(EDITS).fingerprint
    assert zlib.crc32(HEAT.fingerprint) != zlib.crc32(
        Chart("mlp", (panel("mlp", "entity"), HEAT.panels[1])).fingerprint
    )


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_published_values_stand_beside_a_run_that_is_evidence_alone(
    build: Callable[..., Store], full_size: dict[str, Any]
) -> None:
    for evidence in (True, False):
        run = measured_run(build(**{**full_size, "evidence": evidence}))
        entity, relation = gallery(run, reach_verdict(load_expected(), [run]).paper).edits
        assert [chart.perspective for chart in (entity, relation)] == ["entity", "relation"]
        assert entity.published == evidence
        table = {(row["group"], row["edited"]): row for row in rows(entity.csv)}
        assert len(table) == 6
        row = table["generality", "relation edit"]
        assert (row["asked"], row["method"], row["success"], row["n"]) == ("entity", "ROME", "28.0", "200")
        assert row["published"] == ("28.12" if evidence else "")
        assert table["reliability", "no edit"]["success"] == "22.0"
        words = written(laid_out(lambda entity=entity: edit_marks(entity)))
        assert ("published" in words) == evidence and "unedited model" in words and "after an entity edit" in words


def test_severed_curves_have_their_numbers() -> None:
    table = rows(SEVERED.csv)
    assert len(table) == len(roles("entity")) * 2 * LAYERS
    assert {row["severed"] for row in table} == {"nothing severed", "MLP severed"}
    last = table[-1]
    assert (last["perspective"], last["role"], last["layer"], last["facts"]) == ("entity", "last token", "47", "3")
    assert float(last["aie"]) == pytest.approx(0.55) and float(last["low"]) <= 0.55 <= float(last["high"])
