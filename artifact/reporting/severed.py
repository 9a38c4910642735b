"""Severed effects by layer for each token role: what is left of a hidden state's effect without MLP or attention.

Covers the data of one figure a perspective, and its CSV: a panel a role, a line for each kind of trace that Figure 3
shows (kinds.py). curves.py draws it.
"""

from dataclasses import dataclass

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.charts import CORRUPTED, Chart, fingerprint, layer_rows
from artifact.reporting.escapes import csv_bytes
from artifact.tracing.averages import RoleEffects, roles
from artifact.tracing.kinds import TRACE_KINDS

_LINES = {one.name: one for one in TRACE_KINDS.values() if "figure3" in one.figures}


@dataclass(frozen=True)
class SeveredChart:
    """One perspective: role -> trace kind -> effects by layer."""

    perspective: Perspective
    effects: dict[str, dict[str, RoleEffects]]

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"severed-{self.perspective}"

    @property
    def corrupted_words(self) -> str:
        """What was corrupted, in words."""
        return f"{CORRUPTED[self.perspective]} ({self.perspective} perspective)"

    @property
    def csv(self) -> bytes:
        """Mean effect (probability), 95% interval and facts, by role, line of the figure and layer."""
        rows = [
            [self.perspective, role, _LINES[kind].line, *numbers]
            for role, lines in self.effects.items()
            for kind, effect in lines.items()
            for numbers in layer_rows(effect)
        ]
        return csv_bytes(("perspective", "role", "severed", "layer", "facts", "aie", "low", "high"), rows)

    @property
    def fingerprint(self) -> bytes:
        """What the chart's figure is drawn from."""
        return self.perspective.encode() + b"".join(
            f"{role} {kind} ".encode() + fingerprint([effect])
            for role, lines in self.effects.items()
            for kind, effect in lines.items()
        )

    @property
    def summary(self) -> str:
        """For each role, the largest effect with nothing severed and what severing leaves of it at that layer."""
        parts = []
        for role, lines in self.effects.items():
            if intact := [effect for kind, effect in lines.items() if not _LINES[kind].severed]:
                layer = int(intact[0].mean().argmax())
                values = ", ".join(f"{_LINES[kind].line} {effect.mean()[layer]:.3f}" for kind, effect in lines.items())
                parts.append(f"{role}, layer {layer}: {values}")
        return f"{self.perspective} perspective: " + "; ".join(parts)


def severed_charts(charts: list[Chart]) -> list[SeveredChart]:
    """A chart for each perspective of which anything was traced severed."""
    found = []
    for perspective in PERSPECTIVES:
        by_kind = {
            chart.kind: {effect.role: effect for effect in panel.effects}
            for chart in charts
            for panel in chart.panels
            if chart.kind in _LINES and panel.perspective == perspective
        }
        if any(_LINES[kind].severed for kind in by_kind):
            lines = {
                role: {kind: by_kind[kind][role] for kind in _LINES if role in by_kind.get(kind, {})}
                for role in roles(perspective)
            }
            found.append(SeveredChart(perspective, {role: one for role, one in lines.items() if one}))
    return found
