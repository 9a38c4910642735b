"""Severed effects by layer for each token role: what is left of a hidden state's effect without MLP or attention.

Covers one figure a view, drawn from the stored traces alone: a small panel a role, a line a kind of trace (nothing
severed, MLP severed, attention severed) with its 95% band. Heat maps are figures.py's, the numbers its CSV files'.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.figures import COLUMN_INCHES, Chart, figure_bytes
from artifact.tracing.averages import RoleEffects, roles

LINES = {"hidden": "nothing severed", "severed-mlp": "MLP severed", "severed-attn": "attention severed"}
# Okabe and Ito's colours, told apart by colour-blind readers; the line styles differ too.
_LOOKS = {"hidden": ("#000000", "-"), "severed-mlp": ("#0072B2", "--"), "severed-attn": ("#D55E00", ":")}


@dataclass(frozen=True)
class SeveredChart:
    """One view: role -> trace kind -> effects by layer."""

    corrupt: Perspective
    effects: dict[str, dict[str, RoleEffects]]

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"severed-{self.corrupt}"

    @property
    def summary(self) -> str:
        """For each role, the largest effect with nothing severed and what severing leaves of it at that layer."""
        parts = []
        for role, lines in self.effects.items():
            if "hidden" in lines:
                layer = int(lines["hidden"].mean().argmax())
                values = ", ".join(f"{LINES[kind]} {effect.mean()[layer]:.3f}" for kind, effect in lines.items())
                parts.append(f"{role}, layer {layer}: {values}")
        return f"{self.corrupt} view: " + "; ".join(parts)


def severed_charts(charts: list[Chart]) -> list[SeveredChart]:
    """A chart for each view of which anything was traced severed."""
    found = []
    for corrupt in PERSPECTIVES:
        by_kind = {
            chart.kind: {effect.role: effect for effect in panel.effects}
            for chart in charts
            for panel in chart.panels
            if chart.kind in LINES and panel.corrupt == corrupt
        }
        if len(by_kind.keys() - {"hidden"}) > 0:
            lines = {
                role: {kind: by_kind[kind][role] for kind in LINES if role in by_kind.get(kind, {})}
                for role in roles(corrupt)
            }
            found.append(SeveredChart(corrupt, {role: one for role, one in lines.items() if one}))
    return found


def severed_files(chart: SeveredChart) -> dict[str, bytes]:
    """Content by file name: the chart as PDF and PNG."""
    pdf, png = figure_bytes(lambda: _figure(chart), "pdf", "png")
    return {f"{chart.name}.pdf": pdf, f"{chart.name}.png": png}


def _figure(chart: SeveredChart) -> Figure:
    columns = 3
    rows = -(-len(chart.effects) // columns)
    figure = Figure(figsize=(2 * COLUMN_INCHES, 0.6 + 1.35 * rows), dpi=220, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, (role, lines) in zip(axes, chart.effects.items(), strict=False):
        for kind, effect in lines.items():
            mean_L, half_L = effect.mean(), np.nan_to_num(effect.half_width())
            layers_L = np.arange(len(mean_L))
            colour, style = _LOOKS[kind]
            axis.plot(layers_L, mean_L, style, color=colour, linewidth=1.2, label=LINES[kind])
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
