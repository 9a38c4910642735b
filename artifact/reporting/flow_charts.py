"""Attention knockouts by layer: changes of the answer's probability, what modules have first, and the logit lens.

Covers the data of three figures, each with a panel a kind of prompt, and of the table of Gini's coefficients.
flow_curves.py draws them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.facts.fact import Perspective
from artifact.reporting.charts import Chart
from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.store import Store
from artifact.sizes import count_of
from artifact.tracing.averages import RoleEffects
from artifact.tracing.flow import LENS_ROLES, MODULES, Flows, flows_of, gini

_MODULE_LOOKS: Mapping[str, tuple[str, str, str]] = {
    "attn": ("attention", "#D55E00", "-"),
    "mlp": ("MLP", "#0072B2", "--"),
}
_LENS_LOOKS: Mapping[str, tuple[str, str, str]] = {
    "subject": ("subject's last token", "#0072B2", "--"),
    "relation": ("relation's last token", "#D55E00", "-."),
    "last": ("last token", "#000000", "-"),
}


@dataclass(frozen=True)
class Line:
    """One line of a panel: its label, colour and line style, and a mean with its 95% interval for each layer."""

    label: str
    colour: str
    style: Any
    by_layer: tuple[Estimate, ...]


@dataclass(frozen=True)
class FlowPanel:
    """One kind of prompt: how many facts it rests on, and its lines."""

    perspective: Perspective
    facts: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class FlowChart:
    """Both kinds of prompt. Numbers are percent."""

    name: str
    title: str
    unit: str
    """What the vertical axis shows."""
    lowest: bool
    """Whether the summary tells where a line is lowest, or highest."""
    panels: tuple[FlowPanel, ...]

    @property
    def fingerprint(self) -> bytes:
        """What the figure is drawn from."""
        return repr(self).encode()

    @property
    def csv(self) -> bytes:
        """Mean and 95% interval in percent, and facts, by prompt, line and layer."""
        rows = [
            [panel.perspective, line.label, layer, one.n, *(Number(f"{x:.4f}") for x in (one.mean, one.low, one.high))]
            for panel in self.panels
            for line in panel.lines
            for layer, one in enumerate(line.by_layer)
        ]
        return csv_bytes(("prompt", "line", "layer", "facts", "percent", "low", "high"), rows)

    @property
    def summary(self) -> str:
        """For each prompt, where each line is lowest (or highest), with its interval there."""
        parts = []
        for panel in self.panels:
            words = []
            for line in panel.lines:
                at = int(np.argmin([one.mean if self.lowest else -one.mean for one in line.by_layer]))
                one = line.by_layer[at]
                mean, low, high = (f"{round(x) + 0}" for x in (one.mean, one.low, one.high))  # no minus before zero
                words.append(f"{line.label} {mean}% [{low}, {high}] at layer {at}")
            parts.append(f"{panel.perspective} prompt, {count_of(panel.facts, 'fact')}: {', '.join(words)}")
        return "; ".join(parts)


def finished_flows(store: Store) -> dict[Perspective, Flows]:
    """The finished knockouts of a run by kind of prompt, in the plan's order."""
    found: dict[Perspective, Flows] = {}
    for unit in store.info().plan.units:
        if unit.does == "knockout":
            cases_F, numbers_FX = store.numbers(unit)
            if len(cases_F):
                found[unit.perspective] = flows_of(cases_F, numbers_FX)
    return found


def flow_charts(flows: Mapping[Perspective, Flows]) -> list[FlowChart]:
    """Changes, extraction and lens of a run's knockouts; nothing where it has none."""
    if not flows:
        return []

    def panels(lines: Callable[[Flows], Iterator[Line]]) -> tuple[FlowPanel, ...]:
        return tuple(FlowPanel(kind, len(one.cases_F), tuple(lines(one))) for kind, one in flows.items())

    return [
        FlowChart(
            "knockout",
            "Change of the answer's probability when attention is knocked out",
            "change, %",
            True,
            panels(_changes),
        ),
        FlowChart(
            "extraction", "Modules whose output has the answer first", "share of facts, %", False, panels(_first)
        ),
        FlowChart("lens", "Logit lens of the answer", "probability, %", False, panels(_lens)),
    ]


def _changes(flows: Flows) -> Iterator[Line]:
    for one in flows.edges:
        has_F = one.removed_F > 0
        if has_F.any():
            yield _line(one.edge.printed, *one.edge.look, flows.cases_F[has_F], one.change_FL[has_F], rates=False)


def _first(flows: Flows) -> Iterator[Line]:
    for m, module in enumerate(MODULES):
        yield _line(*_MODULE_LOOKS[module], flows.cases_F, flows.first_FML[:, m], rates=True)


def _lens(flows: Flows) -> Iterator[Line]:
    for r, role in enumerate(LENS_ROLES):
        has_F = ~np.isnan(flows.lens_FRL[:, r]).any(1)
        if has_F.any():
            yield _line(*_LENS_LOOKS[role], flows.cases_F[has_F], flows.lens_FRL[has_F, r], rates=False)


def _line(label: str, colour: str, style: Any, cases_F: np.ndarray, values_FL: np.ndarray, *, rates: bool) -> Line:
    # Exact zeros look like shares of 0% to the intervals; they are changes.
    found = estimates([Series(cases_F, values_F) for values_F in values_FL.T], rates)
    return Line(label, colour, style, tuple(one.scaled(100) for one in found if one is not None))


def extraction_csv(flows: Mapping[Perspective, Flows]) -> bytes:
    """Share of the facts of which a module has the answer first in any layer, by prompt, edge removed and window.

    Percent with its 95% interval; without an edge it is the whole model's, with one that under the window about each
    layer.
    """
    header = ("prompt", "removed", "module", "window about layer", "facts", "percent", "low", "high")
    rows: list[list[object]] = []
    for kind, one in flows.items():
        for m, module in enumerate(MODULES):
            rows += _rates([kind, "nothing", module], one.cases_F, one.first_FML[:, m].max(1)[:, None], [""])
        for edge in one.edges:
            has_F = edge.removed_F > 0
            layers = range(edge.change_FL.shape[1]) if has_F.any() else ()
            for m, module in enumerate(MODULES):
                named: list[object] = [kind, edge.edge.printed, module]
                rows += _rates(named, one.cases_F[has_F], edge.first_FML[has_F, m], list(layers))
    return csv_bytes(header, rows)


def _rates(
    named: list[object], cases_F: np.ndarray, values_FL: np.ndarray, layers: Sequence[object]
) -> Iterator[list[object]]:
    found = estimates([Series(cases_F, values_FL[:, at].astype(float)) for at in range(len(layers))])
    for layer, one in zip(layers, found, strict=True):
        if one is not None:
            share = one.scaled(100)
            yield [*named, layer, one.n, *(Number(f"{x:.4f}") for x in (share.mean, share.low, share.high))]


def gini_csv(charts: Sequence[Chart]) -> bytes:
    """Gini's coefficient of the average indirect effects over layers, by kind of trace, perspective and role.

    0: every layer has the same effect; 1: one layer of many has all of it. Effects below zero count as none.
    """
    rows: list[list[object]] = [
        [chart.kind, panel.perspective, effect.role, effect.facts, _written(gini(effect.mean()))]
        for chart in charts
        for panel in chart.panels
        for effect in panel.effects
    ]
    return csv_bytes(("kind", "perspective", "role", "facts", "gini"), rows)


def _written(value: float) -> object:
    return "" if np.isnan(value) else Number(f"{value:.4f}")


def gini_words(charts: Sequence[Chart]) -> list[str]:
    """For each kind of trace, Gini's coefficient at the role that has the largest effect, from both perspectives."""
    lines = []
    for chart in charts:
        parts = []
        for panel in chart.panels:
            effect: RoleEffects = panel.effects[panel.peak[0]]
            if not np.isnan(found := gini(effect.mean())):
                parts.append(f"{found:.2f} at the {effect.role} ({panel.perspective} perspective)")
        if parts:
            lines.append(f"{chart.printed_kind}: {', '.join(parts)}")
    return lines
