"""The table of a run's editors: what each changes and where, what its edits say of T1 to T3, and its transfer gaps; and
the figure of these gaps.

Covers every method that the run edits by, a line each; the figure has the controls, too. The paper's bounds are numbers
of its models and methods, so of each editor the direction is asked, as the multiverse asks it
(findings/edit_multiverse.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from artifact.editing.methods import METHODS, printed_name
from artifact.editing.site import PRINTED_MODULE, TOKEN_WORDS, FactToken, Module
from artifact.evaluation.metrics import Column, Group, Metric
from artifact.facts.fact import PERSPECTIVES, other_perspective
from artifact.reporting.cells import SCALES, Cell, Grid, Line
from artifact.reporting.edit_charts import AFTER, Mark
from artifact.reporting.equivalence import doubt
from artifact.reporting.findings.edit_multiverse import FINDINGS, Edits, directions
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.mark_charts import MarkChart, MarkPanel
from artifact.reporting.multiverse import Specification, lies_below
from artifact.reporting.tables import TRANSFER_GROUPS, MeasuredRow, hard_column, scored_cases
from artifact.runs.store import Store

_ASKED = {
    "T1": "after relation edits, relation prompts say the new answer more than entity prompts",
    "T2": "after entity edits, entity prompts say it more than before, and the relation is kept less on rephrasings",
    "T3": "each perspective's prompts say the new answer more after an edit through it than after one through the "
    "other (relation prompts: no less, within 0.05)",
}
Gaps = Mapping[Group, Mapping[str, Estimate | None]]
"""Transfer gaps of the changes in success, by group of prompts and unit."""


def transfer_gaps(store: Store, rows: Sequence[MeasuredRow]) -> Gaps:
    """Of each unit that edits, the rise in success on the edited perspective's prompts minus that on the other's.

    Relation prompts are read against another relation: against the word "None" an unedited model leaves little to rise.
    None for a unit whose edits were undone before the scoring, and where a number is missing.
    """
    info = store.info()
    units = {unit.name: unit for unit in info.plan.units}
    base = next((row for row in rows if row.edited is None), None)
    before = scored_cases(store, units[base.unit]) if base else {}
    series: dict[tuple[Group, str], Series] = {}
    for row in rows:
        if row.edited is None or row.undone:
            continue
        after = scored_cases(store, units[row.unit])
        for group in TRANSFER_GROUPS:
            both = (row.edited, other_perspective(row.edited))
            keys: list[tuple[Metric, Column]] = [("success", hard_column(one, group)) for one in both]
            if all(key in after and key in before for key in keys):
                here, there = (after[key].minus(before[key]) for key in keys)
                series[group, row.unit] = here.minus(there)
    found = dict(zip(series, estimates(list(series.values()), rates=False, relations=info.relations), strict=True))
    edits = [row.unit for row in rows if row.edited is not None]
    return {group: {unit: found.get((group, unit)) for unit in edits} for group in TRANSFER_GROUPS}


def gap_charts(model: str, rows: Sequence[MeasuredRow], gaps: Gaps) -> tuple[MarkChart, ...]:
    """The figure of the transfer gaps of every edit and control, a panel a group of prompts; none without gaps."""
    panels, methods = [], dict[str, None]()
    for group, of_units in gaps.items():
        marks = [
            Mark(row.printed_method, row.edited, gap, None)
            for row in rows
            if row.edited is not None and (gap := of_units.get(row.unit)) is not None
        ]
        panels.append(MarkPanel(group, tuple(marks)))
        methods |= dict.fromkeys(mark.method for mark in marks)
    if not methods:
        return ()
    chart = MarkChart(
        name="transfer-gap",
        title="Transfer gap: the edited perspective's rise in success minus the other's (relations against another "
        f"relation), {model}",
        measured="gap",
        lines=tuple(methods),
        panels=tuple(panels),
        of=AFTER,
        heads=("edited", "method"),
    )
    return (chart,)


def editors_grids(store: Store, rows: Sequence[MeasuredRow], gaps: Gaps) -> tuple[Grid, ...]:
    """The table; none for a run without edits."""
    edits = [row for row in rows if row.edited is not None and not row.control]
    if not edits:
        return ()
    info, scored, lines = store.info(), Edits(store), []
    names = {(row.method, row.edited): row.unit for row in edits}
    for method in dict.fromkeys(row.method for row in edits):
        own = [row for row in edits if row.method == method]
        found = [gaps["reliability"].get(names.get((method, one), "")) for one in PERSPECTIVES]
        numbers = [Cell.of(gap, SCALES["success"].of_change) for gap in found]
        states = ["edit undone"] * len(FINDINGS)
        if not own[0].undone:
            asked = directions(scored, method)
            states = [_state(asked.get(finding), info.relations) for finding in FINDINGS]
        changes, where = edited_place(method, info.settings.get(method, {}))
        lines.append(Line((changes, own[0].printed_method, where), (*states, *numbers)))
    words = "; ".join(f"{finding}: {_ASKED[finding]}" for finding in FINDINGS)
    caption = (
        f"{words}. Each is asked of the method's own edits, fact by fact, by success: it holds where the 95% interval "
        "of the least sure difference lies above zero, and does not where it lies below (of two differences by "
        "Bonferroni's interval). Transfer gap: the rise in "
        "success on the edited perspective's prompts minus the rise on the other's, in points; relation prompts are "
        "read against another relation."
    )
    for one in METHODS.values():
        if one.alone_as:
            caption += f" For a fact edited alone {one.printed} is {printed_name(one.alone_as)}."
    return (
        Grid(
            name="editors",
            title="Editors, and the paper's questions asked of each",
            caption=caption,
            heads=("changes", "method", "where"),
            columns=(*FINDINGS, *(f"gap, {one} edit" for one in PERSPECTIVES)),
            lines=tuple(lines),
        ),
    )


def _state(asked: Specification | None, relations: Mapping[str, Sequence[int]]) -> str:
    """What a difference says of its finding."""
    (found,) = estimates([asked.differences], rates=False, relations=relations) if asked is not None else (None,)
    if asked is None or found is None:
        return "not run"
    if doubt(found):
        return "undecided"
    return "holds" if found.low > 0 else "does not hold" if lies_below(found, asked.of) else "undecided"


class _Place(TypedDict, total=False):
    """What hyperparameters say of where a method edits."""

    layers: list[int]
    fact_token: FactToken
    site: Module
    modules: list[Module]


def edited_place(method: str, setting: Mapping[str, Any]) -> tuple[str, str]:
    """What a method changes, and where: module, token and layers as the run's hyperparameters have them; nothing of
    these where one is in other words, which a new method may have, or damaged.
    """
    known = METHODS.get(method)
    if known is None:
        return "", ""
    try:
        hparams = msgspec.convert(setting.get("hparams", {}), _Place)
    except msgspec.ValidationError:
        hparams = _Place()
    place = known.place
    if not place and "fact_token" in hparams:
        modules = hparams.get("modules", [hparams.get("site", "mlp")])
        place = f"{' and '.join(PRINTED_MODULE[one] for one in modules)}, {TOKEN_WORDS[hparams['fact_token']]}"
    layers = hparams.get("layers", [])
    words = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers else ""
    return "weights" if known.carries else "context", ", ".join(one for one in (place, words) if one)
