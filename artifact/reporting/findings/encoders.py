"""What the plan `encoders` measured: an encoder's traces by role and layer, and edits of it beside their controls.

Covers N3's quantities, tables (success of the edits, and from each perspective effects of every kind of trace) and one
figure. A mean over layers chooses none of them.

Shape letters: F fact, L layer, V number of a scored case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.editing.methods import METHODS, printed_name
from artifact.evaluation.metrics import VALUES, Column
from artifact.facts.fact import Perspective, other_perspective
from artifact.plans.encoders import LEFT, RIGHT
from artifact.plans.unit import CONTROL_WORDS
from artifact.reporting.cells import PROBABILITY, SCALES, Cell, Grid, Line
from artifact.reporting.findings import Findings, Number, Quantity, floats, tests_of
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.line_charts import LayerLine, LineChart, LinePanel
from artifact.reporting.tables import RATES, hard_column
from artifact.runs.store import Store
from artifact.sizes import count_of
from artifact.tracing.averages import roles
from artifact.tracing.kinds import TRACE_KINDS

SUBJECT: Mapping[Perspective, str] = {"entity": "last subject token", "relation": "subject tokens"}
"""The role of the subject that each perspective's quantities are about."""
MASK = "last token"
Relations = Mapping[str, Sequence[int]]
"""Case ids by relation."""
_DRAWN = ("hidden", "mlp", "attn")


@dataclass(frozen=True)
class View:
    """One perspective's finished facts: success of the unedited model before_FV and under each arm (nan where an edit
    failed), and by kind and role the effects_FL (nan where a fact was not traced or has no such token).
    """

    perspective: Perspective
    model: str
    layers: int
    cases_F: np.ndarray
    before_FV: np.ndarray
    arms: Mapping[str, np.ndarray]
    effects: Mapping[tuple[str, str], np.ndarray]
    unchanged: Mapping[str, int]
    """By arm, the edits that change nothing (Method.unchanged): their numbers are the unedited model's."""

    @property
    def traced(self) -> int:
        """How many facts were traced: those that the model answers."""
        finite = [np.isfinite(rows_FL).any(1) for rows_FL in self.effects.values()]
        return int(np.any(finite, axis=0).sum()) if finite else 0

    def success(self, column: Column, arm: str = "") -> Series:
        """By fact, success in a column: of the unedited model, or under an arm."""
        values_FV = self.arms[arm] if arm else self.before_FV
        return Series.finite(self.cases_F, values_FV[:, VALUES.index(("success", column))])

    def change(self, column: Column, arm: str) -> Series:
        """By fact, what an arm changes."""
        return self.success(column, arm).minus(self.success(column))

    def effect(self, kind: str, role: str) -> Series | None:
        """By fact, the mean over layers of the indirect effect."""
        if (kind, role) not in self.effects:
            return None
        effects_FL = self.effects[kind, role]
        return Series.finite(self.cases_F, effects_FL.mean(1))


def views_of(store: Store) -> dict[Perspective, View]:
    """The finished facts of a run, by perspective."""
    found: dict[Perspective, View] = {}
    for unit in store.info().plan.units:
        if unit.task == "encoders":
            records = [record for record in store.records(unit) if record.status == "done"]
            if records:
                payloads = [record.payload for record in records]
                found[unit.perspective] = _view(unit.perspective, [record.case_id for record in records], payloads)
    return found


def _view(perspective: Perspective, cases: Sequence[int], payloads: Sequence[Mapping[str, Any]]) -> View:
    nothing, layers = [np.nan] * len(VALUES), payloads[0]["layers"]
    traced = [payload["trace"].get("effects", {}) for payload in payloads]
    keys = dict.fromkeys((kind, role) for one in traced for kind, roles in one.items() for role in roles)
    return View(
        perspective,
        payloads[0]["model"],
        layers,
        np.array(cases),
        np.array([floats(payload["before"]) for payload in payloads]),
        {
            arm: np.array([floats(payload["arms"][arm].get("values", nothing)) for payload in payloads])
            for arm in payloads[0]["arms"]
        },
        {
            (kind, role): np.array([floats(one.get(kind, {}).get(role, [None] * layers)) for one in traced])
            for kind, role in keys
        },
        {arm: sum(payload["arms"][arm].get("unedited", False) for payload in payloads) for arm in payloads[0]["arms"]},
    )


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it has no records of the plan."""
    views, relations = views_of(store), store.info().relations
    if not views:
        return None
    quantities: dict[str, Estimate | None] = {
        "entity effect, MLP minus attention, subject's last token": _effects_apart(
            views.get("entity"), "mlp", "attn", SUBJECT["entity"], relations
        ),
        "relation effect, attention minus MLP, mask": _effects_apart(
            views.get("relation"), "attn", "mlp", MASK, relations
        ),
    }
    for perspective, view in views.items():
        own, other = (hard_column(one) for one in (perspective, other_perspective(perspective)))
        gap = view.change(own, "rome").minus(view.change(other, "rome"))
        quantities[f"transfer gap against another relation, {perspective} edit, ROME"] = _mean(gap, relations)
        above = view.success(own, "rome").minus(view.success(own, "rome random_layer"))
        quantities[f"{perspective} edit, ROME minus another layer"] = _mean(above, relations)
    chart = _chart(views)
    return Findings(
        {name: Quantity(estimate) for name, estimate in quantities.items()},
        (_edits(views), *(_traces(view) for view in views.values() if view.effects)),
        (chart,) if chart.panels else (),
        tests=tests_of([*_numbers(views)], relations),
    )


def _numbers(views: Mapping[Perspective, View]) -> Iterator[Number]:
    """What each edit and control changes in success, and every kind of trace's effects by role, mean over layers."""
    for perspective, view in views.items():
        for arm in view.arms:
            for column in RATES:
                of = f"{arm_words(arm)}, {perspective} edit"
                yield Number(of, f"change, {column.name}", view.change(column, arm), SCALES["success"].of_change)
        for kind, role in view.effects:
            effect = view.effect(kind, role)
            if effect is not None:
                of = f"{TRACE_KINDS[kind].printed}, {perspective} corrupted"
                yield Number(of, f"indirect effect, {role}", effect, PROBABILITY.of_change, None)


def _mean(series: Series, relations: Relations) -> Estimate | None:
    return estimates([series], rates=False, relations=relations)[0]


def _effects_apart(view: View | None, kind: str, below: str, role: str, relations: Relations) -> Estimate | None:
    """The mean over facts of one kind's effect minus another's."""
    pair = [view.effect(one, role) for one in (kind, below)] if view else [None]
    if any(one is None for one in pair):
        return None
    first, second = pair
    assert first is not None and second is not None
    return _mean(first.minus(second), relations)


def arm_words(arm: str) -> str:
    """An arm as tables print it: the method, and its control in words."""
    method, _, control = arm.partition(" ")
    words = {str(one): words for one, words in CONTROL_WORDS.items()}
    return printed_name(method) + (f", {words[control]}" if control else "")


def _edits(views: Mapping[Perspective, View]) -> Grid:
    lines = []
    for perspective, view in views.items():
        for arm in ("", *view.arms):
            numbers = estimates([view.success(column, arm) for column in RATES])
            cells = tuple(Cell.of(one, SCALES["success"]) for one in numbers)
            words = arm_words(arm) if arm else "unedited"
            if arm and (none := view.unchanged[arm]):
                words += f", {none} {METHODS[arm.partition(' ')[0]].unchanged}"
            lines.append(Line((perspective, words), cells))
    view = next(iter(views.values()))
    facts = " and ".join(f"{len(one.cases_F)} facts ({asked} edits)" for asked, one in views.items())
    caption = (
        f"Edits of {view.model}, an encoder: success in percent on each kind of prompt, read at the mask, of the "
        "unedited model, under each edit, and under ROME's controls: the same edit of another layer, a change of equal "
        "norm in a random direction, and an edit for another fact's subject. "
        f"{facts}, without those whose edit failed; 95% intervals over facts."
    )
    columns = tuple(column.name for column in RATES)
    return Grid("encoders", "Edits of an encoder", caption, ("edited", "edit"), columns, tuple(lines))


def _traces(view: View) -> Grid:
    """Effects by kind and role from one perspective, roles in the order of the prompt's parts."""
    order = (*roles(view.perspective), LEFT, RIGHT)
    found = {role for _, role in view.effects}
    shown = tuple(role for role in order if role in found)
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in view.effects):
        series = [view.effect(kind, role) for role in shown]
        numbers = [None if one is None else _mean(one, {}) for one in series]
        lines.append(
            Line((view.perspective, TRACE_KINDS[kind].printed), tuple(Cell.of(one, PROBABILITY) for one in numbers))
        )
    caption = (
        f"Traces of {view.model}, {view.perspective} perspective: the average indirect effect (probability) of the "
        "restored token, mean over layers. The last token is the mask; tokens on its right, and on the left of the "
        f"subject, are restored too, as an encoder reads both ways. {count_of(view.traced, 'fact')}; 95% "
        "intervals over them."
    )
    name = f"encoder-traces-{view.perspective}"
    return Grid(
        name, f"Traces of an encoder, {view.perspective}", caption, ("corrupted", "restored"), shown, tuple(lines)
    )


def _chart(views: Mapping[Perspective, View]) -> LineChart:
    panels = []
    for perspective, view in views.items():
        for kind in _DRAWN:
            lines = [
                LayerLine(role, tuple(range(view.layers)), tuple(_by_layer(view, rows_FL)))
                for (name, role), rows_FL in view.effects.items()
                if name == kind
            ]
            if lines:
                panels.append(LinePanel(f"{perspective}: {TRACE_KINDS[kind].printed}", tuple(lines)))
    view = next(iter(views.values()))
    traced = " and ".join(
        f"{count_of(one.traced, 'fact')} ({corrupted} perspective)" for corrupted, one in views.items()
    )
    return LineChart(
        name="encoders",
        title=f"Average indirect effects by layer, {view.model}",
        summary=f"by role of the restored token, on {traced}; the last token is the mask",
        axis="effect on the probability",
        of_layers=view.layers,
        panels=tuple(panels),
    )


def _by_layer(view: View, rows_FL: np.ndarray) -> list[Estimate | None]:
    return estimates([Series.finite(view.cases_F, column_F) for column_F in rows_FL.T], rates=False)
