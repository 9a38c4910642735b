"""The charts of a run: stored traces averaged by token role and layer, as data that tables, page and figures share.

Covers the panels of Figures 2 and 3, their words and their CSV. Nothing here is drawn (figures.py) or traced.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.plans.unit import Unit
from artifact.reporting.escapes import Number, csv_bytes, file_name
from artifact.runs.store import Store
from artifact.tracing.averages import RoleEffects, Traces, peak, traces_of
from artifact.tracing.kinds import TRACE_KINDS

TraceKey = tuple[str, Perspective]
"""Trace kind and perspective."""
CORRUPTED: Mapping[Perspective, str] = {"entity": "subject corrupted", "relation": "relation corrupted"}
"""What each perspective's traces corrupt, in words."""


@dataclass(frozen=True)
class Panel:
    """One trace unit averaged over its facts. `clean` and `corrupted` are mean probabilities of the answer.

    `shared_last` counts facts whose last corrupted token is the prompt's last token, which counts in both roles.
    """

    unit: str
    kind: str
    window: int
    perspective: Perspective
    effects: tuple[RoleEffects, ...]
    facts: int
    failed: int
    excluded: int
    clean: float
    corrupted: float
    shared_last: int

    @property
    def title(self) -> str:
        return f"{self.perspective} perspective, {CORRUPTED[self.perspective]}"

    @property
    def aie_RL(self) -> np.ndarray:
        """AIE by role and layer, in probability."""
        return np.array([effect.mean() for effect in self.effects])

    @property
    def peak(self) -> tuple[int, int]:
        """Row (of `effects`) and layer of the largest AIE away from the prompt's last token."""
        return peak(self.effects, bool(self.shared_last))


@dataclass(frozen=True)
class Chart:
    """All panels of one kind of trace, entity perspective first, which share a colour scale."""

    kind: str
    panels: tuple[Panel, ...]

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"aie-{file_name(self.kind)}"

    @property
    def csv(self) -> bytes:
        """The figure's numbers."""
        return chart_csv(self)

    @property
    def fingerprint(self) -> bytes:
        """What the chart's figures are drawn from."""
        return b"".join(
            f"{panel.unit} {panel.kind} {panel.window} {panel.perspective} {panel.facts} ".encode()
            + fingerprint(panel.effects)
            for panel in self.panels
        )

    @property
    def printed_kind(self) -> str:
        """What is restored, in words."""
        return TRACE_KINDS[self.kind].words(self.panels[0].window)

    @property
    def layer_words(self) -> str:
        """What the axis of layers counts."""
        return TRACE_KINDS[self.kind].layer_words

    @property
    def summary(self) -> str:
        """What the chart shows, in words: each panel's largest effect away from the last token, and where it lies."""
        parts = []
        for panel in self.panels:
            role, layer = panel.peak
            parts.append(
                f"{panel.perspective} perspective {panel.aie_RL[role, layer]:.3f}, at the {panel.effects[role].role}, "
                f"layer {layer}"
            )
        return f"largest AIE away from the last token: {'; '.join(parts)}"


def finished_traces(store: Store) -> dict[TraceKey, Traces]:
    """The finished traces of a run, by (trace kind, perspective), in the plan's order."""
    found: dict[TraceKey, Traces] = {}
    for unit in store.info().plan.units:
        if unit.does == "trace":
            cases_F, numbers_FX = store.numbers(unit)
            if len(cases_F):
                found[unit.trace_kind.name, unit.perspective] = traces_of(unit.perspective, cases_F, numbers_FX)
    return found


def charts(store: Store, traced: Mapping[TraceKey, Traces] | None = None) -> list[Chart]:
    """A chart for each kind of trace that has finished facts, in the plan's order; `traced` where they are read."""
    traced = finished_traces(store) if traced is None else traced
    kinds: dict[str, list[Panel]] = {}
    counts = store.counts()
    for unit in store.info().plan.units:
        traces = traced.get((unit.trace_kind.name, unit.perspective)) if unit.does == "trace" else None
        if traces is not None:
            kinds.setdefault(unit.trace_kind.name, []).append(_panel(unit, traces, counts[unit.name]))
    return [
        Chart(kind, tuple(sorted(panels, key=lambda panel: PERSPECTIVES.index(panel.perspective))))
        for kind, panels in kinds.items()
    ]


def chart_csv(chart: Chart) -> bytes:
    """Mean AIE (probability), 95% interval of the mean (normal approximation) and facts, by unit, role and layer."""
    header = ("unit", "kind", "perspective", "role", "layer", "facts", "aie", "low", "high")
    rows = [
        [panel.unit, chart.kind, panel.perspective, effect.role, *numbers]
        for panel in chart.panels
        for effect in panel.effects
        for numbers in layer_rows(effect)
    ]
    return csv_bytes(header, rows)


def layer_rows(effect: RoleEffects) -> Iterator[list[object]]:
    """A row for each layer: layer, facts, mean, and the interval's ends, which are empty below two facts."""
    for layer, (mean, half) in enumerate(zip(effect.mean(), effect.half_width(), strict=True)):
        numbers = [mean] if np.isnan(half) else [mean, mean - half, mean + half]
        yield [layer, effect.facts, *(Number(f"{x:.6f}") for x in numbers), *[""] * (3 - len(numbers))]


def largest_half_width(panel: Panel) -> float | None:
    """Half of the widest 95% interval among the panel's cells, in probability; None below two facts."""
    widths = [effect.half_width().max() for effect in panel.effects if effect.facts > 1]
    return float(max(widths)) if widths else None


def _panel(unit: Unit, traces: Traces, counts: Counter[str]) -> Panel:
    return Panel(
        unit=unit.name,
        kind=unit.trace_kind.name,
        window=unit.window_of(traces.effects_FRL.shape[-1]),
        perspective=unit.perspective,
        effects=tuple(traces.role_effects()),
        facts=len(traces.cases_F),
        failed=counts["failed"],
        excluded=counts["excluded"],
        clean=float(traces.clean_F.mean()),
        corrupted=float(traces.corrupted_F.mean()),
        shared_last=int(traces.shared_last_F.sum()),
    )


def fingerprint(effects: Sequence[RoleEffects]) -> bytes:
    """All that a figure shows of these effects: roles, numbers of facts, means and intervals."""
    return b"".join(
        f"{effect.role} {effect.facts} ".encode() + effect.mean().tobytes() + effect.half_width().tobytes()
        for effect in effects
    )
