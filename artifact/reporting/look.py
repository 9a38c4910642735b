"""What all figures share: fonts and sizes, texts that fit, the axis of layers, and files of the same bytes each time.

Covers PDF, PNG (300 dpi) and SVG under any matplotlibrc. Sizes are in inches and points: fonts keep their size at every
width, and a figure too narrow for panels side by side puts one below the other. What is drawn: heatmaps.py, curves.py.
"""

import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import matplotlib
from fontTools import subset
from matplotlib.axes import Axes
from matplotlib.backends import _backend_pdf_ps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from artifact.terminal import shown

Form = Literal["pdf", "svg", "png"]
FORMS: tuple[Form, ...] = ("pdf", "svg", "png")
COLUMN_INCHES = 3.5
"""Width of a report's figures: a column of a paper, or a phone's screen."""
SIDE_BY_SIDE_INCHES = 5.5
"""From this width on, panels stand side by side."""
PIXELS_PER_INCH = 300
_PNG_LEVEL = 3
"""Of zlib: quicker than its default, for a few more bytes."""
TITLE, TEXT, SMALL = 8.5, 8.0, 7.0
"""Sizes of fonts in points."""
_LETTER = 0.53
"""Mean width of a letter, as a share of the font's size."""
SOFT = "#666666"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": TITLE,
    "axes.titley": 1.0,  # no ticks stand above a panel, and looking for them takes a tenth of the time
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.h_pad": 0.03,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",  # letters as shapes: the same everywhere, whatever fonts a machine has
    "svg.hashsalt": "kloc",
    "text.parse_math": False,  # a name may hold dollar signs, which are no formula
    "axes.unicode_minus": False,  # one character beyond Latin-1 embeds the font a second time
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that lays out its own panels."""
    return Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, layout="constrained")


def figure_bytes(draw: Callable[[], Figure], *forms: str) -> list[bytes]:
    """The figure that `draw` makes, in each of these forms: the same bytes under any matplotlibrc."""
    found = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = draw()
        FigureCanvasAgg(figure)
        # Laid out once: the layout costs more than any form.
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")
        for form in forms:
            content = io.BytesIO()
            figure.dpi = PIXELS_PER_INCH  # PDF and SVG leave their own behind
            if form == "pdf":
                with _fonts_cut_once():
                    FigureCanvasPdf(figure).print_pdf(
                        content, metadata={"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
                    )
            elif form == "svg":
                FigureCanvasSVG(figure).print_svg(
                    content, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
                )
            else:
                FigureCanvasAgg(figure).print_png(
                    content, metadata={"Software": None}, pil_kwargs={"compress_level": _PNG_LEVEL}
                )
            found.append(content.getvalue())
    return found


@contextmanager
def _fonts_cut_once() -> Iterator[None]:
    """Fonts are embedded with ASCII's letters whatever a figure says, so that one cut of a font serves all figures, and
    without the tables that choose and place glyphs: a PDF does both itself.

    Cutting takes long, and matplotlib has no option for either.
    """
    load: Any = subset.load_font
    cut: Any = _backend_pdf_ps.get_glyphs_subset

    def load_font(*given: Any, **options: Any) -> Any:
        font = load(*given, **options)
        for tag in {"GDEF", "GPOS", "GSUB", "kern"} & set(font.keys()):
            del font[tag]
        return font

    def cut_once(file: Any, glyphs: Iterable[int]) -> Any:
        wanted = frozenset({*glyphs, *_ascii(file)})
        if (file, wanted) not in _CUT:
            _CUT[file, wanted] = cut(file, set(wanted)).__enter__()
        return nullcontext(_CUT[file, wanted])

    embedding: Any = _backend_pdf_ps
    subset.load_font, embedding.get_glyphs_subset = load_font, cut_once
    try:
        yield
    finally:
        subset.load_font, embedding.get_glyphs_subset = load, cut


_CUT: dict[tuple[str, frozenset[int]], Any] = {}
"""Fonts cut down, open, by file and glyphs."""


@cache
def _ascii(file: Any) -> frozenset[int]:
    """The glyphs of ASCII's printable characters in a font."""
    charmap = get_font(file).get_charmap()
    return frozenset(charmap[code] for code in range(32, 127) if code in charmap)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_STYLE["font.family"])).get_charmap())


def drawable(text: str, most: int = 60) -> str:
    """A text in one line of at most `most` characters that the font can draw: others are written as escapes."""
    line = shown(text)[: most + 1]
    drawn = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in line)
    return drawn if len(drawn) <= most else f"{drawn[: most - 3]}..."


def wrapped(text: str, inches: float, points: float = TEXT, lines: int = 4) -> str:
    """A text in at most so many lines that are no wider than `inches` in a font of that size; long words are cut."""
    letters = max(8, int(inches * 72 / (points * _LETTER)))
    found = textwrap.wrap(drawable(text, letters * lines), letters, break_on_hyphens=False)
    return "\n".join(found[:lines])


def lines_of(text: str) -> int:
    """How many lines a wrapped text has."""
    return text.count("\n") + 1


def layer_axis(axis: Axes, layers: int, inches: float, words: str = "layer") -> None:
    """Ticks at whole layers, as many as that width has room for, and what they count."""
    step = max(1, -(-layers // max(2, int(inches * 5))))
    for nice in (1, 2, 4, 5, 6, 8, 10, 12, 16, 20, 24):
        if nice >= step:
            step = nice
            break
    axis.set_xticks(range(0, layers, step))
    axis.set_xlabel(words)


def title_text(words: Sequence[str], inches: float) -> str:
    """A figure's title, a paragraph a text, no wider than that."""
    return "\n".join(wrapped(one, inches - 0.1, TITLE) for one in words)


def set_title(figure: Figure, text: str) -> None:
    """Write a title above all panels, from the figure's left edge on."""
    figure.suptitle(text, x=0.02, ha="left")
