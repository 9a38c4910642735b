"""Heat maps of the average indirect effect by token role and layer, drawn from the stored traces alone.

Covers one figure a kind of trace: entity and relation view side by side on one colour scale, as PDF and PNG of the
same bytes each time, single panels for narrow pages, and the numbers as CSV. It traces nothing and needs no GPU.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from artifact.errors import RunError, SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.plan import Unit
from artifact.runs.store import Store, write_atomically
from artifact.tracing.averages import RoleEffects, role_effects

COLUMN_INCHES = 3.5
"""Width of one panel: a column of the paper, or a phone's screen."""
_PIXELS_PER_INCH = 220
_COLOURS = "viridis"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,
    "axes.unicode_minus": False,  # one character beyond Latin-1 embeds the font a second time
}
KIND_NAMES = {
    "hidden": "hidden state",
    "mlp": "MLP window",
    "attn": "attention window",
    "severed-mlp": "hidden state, MLP severed",
    "severed-attn": "hidden state, attention severed",
}


@dataclass(frozen=True)
class Panel:
    """One trace unit averaged over its facts. `clean` and `corrupted` are mean probabilities of the answer.

    `shared_last` counts facts whose last corrupted token is the prompt's last token, which counts in both roles.
    """

    unit: str
    kind: str
    window: int
    corrupt: Perspective
    effects: tuple[RoleEffects, ...]
    facts: int
    failed: int
    excluded: int
    clean: float
    corrupted: float
    shared_last: int

    @property
    def title(self) -> str:
        return f"{'subject' if self.corrupt == 'entity' else 'relation'} corrupted ({self.corrupt} view)"

    @property
    def aie_RL(self) -> np.ndarray:
        """AIE by role and layer, in probability."""
        return np.array([effect.mean() for effect in self.effects])

    @property
    def peak(self) -> tuple[int, int]:
        """Row (of `effects`) and layer of the largest AIE away from the prompt's last token.

        At the last token the last layers recover the clean answer by construction, which says nothing about a site.
        """
        late = {"last token"} | ({"last corrupted token"} if self.shared_last else set())
        away = np.array([effect.role not in late for effect in self.effects])
        aie_RL = np.where(away[:, None], self.aie_RL, -np.inf) if away.any() else self.aie_RL
        role, layer = np.unravel_index(int(aie_RL.argmax()), aie_RL.shape)
        return int(role), int(layer)


@dataclass(frozen=True)
class Chart:
    """All panels of one kind of trace, entity view first, which share a colour scale."""

    kind: str
    panels: tuple[Panel, ...]

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"aie-{self.kind}"

    @property
    def printed_kind(self) -> str:
        name = KIND_NAMES.get(self.kind, self.kind)
        return f"{name} of {self.panels[0].window} layers" if self.kind in ("mlp", "attn") else name

    @property
    def summary(self) -> str:
        """What the chart shows, in words: each panel's largest effect away from the last token, and where it lies."""
        parts = []
        for panel in self.panels:
            role, layer = panel.peak
            parts.append(
                f"{panel.corrupt} view, {panel.facts} facts: away from the last token the AIE is largest "
                f"at the {panel.effects[role].role}, layer {layer}: {panel.aie_RL[role, layer]:.3f}"
            )
        return "; ".join(parts)


def charts(store: Store) -> list[Chart]:
    """A chart for each kind of trace that has finished facts, in the plan's order."""
    kinds: dict[str, list[Panel]] = {}
    for unit in store.info().plan.units:
        if unit.does == "trace" and (panel := _panel(store, unit)) is not None:
            kinds.setdefault(unit.trace_kind, []).append(panel)
    return [
        Chart(kind, tuple(sorted(panels, key=lambda panel: PERSPECTIVES.index(panel.corrupt))))
        for kind, panels in kinds.items()
    ]


def chart_files(chart: Chart) -> dict[str, bytes]:
    """Content by file name: the chart as PDF and PNG, a PNG a panel, and the numbers as CSV."""
    pdf, png = figure_bytes(lambda: _figure(chart, chart.panels), "pdf", "png")
    files = {f"{chart.name}.pdf": pdf, f"{chart.name}.png": png, f"{chart.name}.csv": chart_csv(chart)}
    for panel in chart.panels:
        (files[panel_file(panel)],) = figure_bytes(partial(_figure, chart, [panel]), "png")
    return files


def panel_file(panel: Panel) -> str:
    """File name of a single panel's PNG."""
    return f"aie-{panel.unit}.png"


def chart_csv(chart: Chart) -> bytes:
    """Mean AIE (probability), 95% interval of the mean (normal approximation) and facts, by unit, role and layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["unit", "kind", "corrupted", "role", "layer", "facts", "aie", "low", "high"])
    for panel in chart.panels:
        for effect in panel.effects:
            for layer, (mean, half) in enumerate(zip(effect.mean(), effect.half_width(), strict=True)):
                bounds = ["", ""] if np.isnan(half) else [f"{mean - half:.6f}", f"{mean + half:.6f}"]
                writer.writerow(
                    [panel.unit, chart.kind, panel.corrupt, effect.role, layer, effect.facts, f"{mean:.6f}", *bounds]
                )
    return text.getvalue().encode()


def largest_half_width(panel: Panel) -> float | None:
    """Half of the widest 95% interval among the panel's cells, in probability; None below two facts."""
    widths = [effect.half_width().max() for effect in panel.effects if effect.facts > 1]
    return float(max(widths)) if widths else None


def trace_figure(trace: Mapping[str, Any], path: Path) -> None:
    """Heat map of one traced prompt's indirect effects, token by layer, written to `path` (.pdf or .png).

    `trace` holds what `kloc trace --json` writes. Corrupted tokens carry a star. Raises SettingError for another
    suffix, RunError when the file cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("pdf", "png"):
        raise SettingError(f"figure {path}: expected a name that ends in .pdf or .png; give such a name")
    effects_TL = np.asarray(trace["scores"]) - trace["corrupted"]

    def draw() -> Figure:
        figure = Figure(
            figsize=(COLUMN_INCHES, 0.8 + 0.17 * len(effects_TL)), dpi=_PIXELS_PER_INCH, layout="constrained"
        )
        axis = figure.subplots()
        image = axis.imshow(effects_TL, aspect="auto", cmap=_COLOURS, interpolation="nearest")
        words = [f"{token}{'*' if t in trace['span'] else ''}" for t, token in enumerate(trace["tokens"])]
        # A token may hold a dollar sign, which is no formula.
        axis.set_yticks(range(len(words)), [word.replace("$", r"\$") for word in words])
        axis.set_xticks(range(0, effects_TL.shape[1], max(1, -(-effects_TL.shape[1] // 8))))
        axis.set_xlabel("layer")
        axis.tick_params(length=2, width=0.5)
        figure.colorbar(image, ax=axis).set_label(
            f"indirect effect on p({trace['answer'].strip()})".replace("$", r"\$")
        )
        return figure

    try:
        (content,) = figure_bytes(draw, form)
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name a file in a folder you own") from None


def _panel(store: Store, unit: Unit) -> Panel | None:
    records = store.records(unit)
    traces: list[dict[str, Any]] = [record.payload for record in records if record.status == "done"]
    if not traces:
        return None
    return Panel(
        unit=unit.name,
        kind=unit.trace_kind,
        window=unit.window,
        corrupt=unit.corrupt,
        effects=tuple(role_effects(unit.corrupt, traces)),
        facts=len(traces),
        failed=sum(record.status == "failed" for record in records),
        excluded=sum(record.status == "excluded" for record in records),
        clean=float(np.mean([trace["clean"] for trace in traces])),
        corrupted=float(np.mean([trace["corrupted"] for trace in traces])),
        shared_last=sum(bool(trace["span"]) and trace["span"][-1] == len(trace["tokens"]) - 1 for trace in traces),
    )


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
    views = [panel.corrupt for panel in chart.panels]
    scale = _scale(chart)
    image = None
    for axis, panel in zip(axes, panels, strict=False):
        aie_RL = panel.aie_RL
        image = axis.imshow(aie_RL, aspect="auto", cmap=_COLOURS, norm=scale, interpolation="nearest")
        axis.set_yticks(range(len(panel.effects)), [f"{e.role} ({e.facts})" for e in panel.effects])
        layers = aie_RL.shape[1]
        axis.set_xticks(range(0, layers, max(1, -(-layers // 8))))
        axis.set_xlabel("layer")
        named = f"{panel.unit}, " if views.count(panel.corrupt) > 1 else ""
        axis.set_title(f"{panel.title}\n{named}{panel.facts} facts", loc="right")
        axis.tick_params(length=2, width=0.5)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), pad=0.02, fraction=0.05, aspect=18 * rows)
    bar.set_label(f"AIE, {chart.printed_kind}")
    bar.ax.tick_params(length=2, width=0.5)
    bar.outline.set_linewidth(0.5)
    return figure
