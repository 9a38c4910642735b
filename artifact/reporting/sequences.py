"""What many edits leave in one model: curves over the number of facts, written one after the other or as one batch.

Covers the tables and the figure of a run that has units of the task `sequence` (runs/tasks/sequence.py). At each point
all facts that the model carries are scored; the unedited model is the point of no fact, scored on all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from artifact.editing.methods import printed_name
from artifact.evaluation.metrics import VALUES, Column
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import COUNT, SCALES, Cell, Grid, Line
from artifact.reporting.equivalence import MARGIN, Tested, held_against
from artifact.reporting.further import FURTHER, further_values
from artifact.reporting.grids import edit_name
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.line_charts import LayerLine, LineChart, LinePanel
from artifact.runs.store import Store
from artifact.sizes import count_of

WAYS: Mapping[str, str] = {"sequence": "one after the other", "batch": "as one batch"}
SCORED = (
    Column("entity", "reliability"),
    Column("entity", "generality"),
    Column("entity", "specificity"),
    Column("entity", "other_relations"),
    Column("relation", "reliability"),
    Column("relation", "generality"),
)
"""Columns of success."""
_SHOWN = (
    ("entity reliability", "entity, in sequence", "sequence"),
    ("entity reliability", "entity, one batch", "batch"),
    ("relation reliability", "relation, in sequence", "sequence"),
    ("relation reliability", "relation, one batch", "batch"),
    ("entity specificity", "other facts, in sequence", "sequence"),
)
"""The figure's lines: the column, the line's name, and the way of writing."""
Key = tuple[int, str]
"""So many facts, written in this way (a key of WAYS)."""
UNEDITED: Key = (0, "unedited")
_WORDS = {"unedited": "unedited", **WAYS}


@dataclass(frozen=True)
class Written:
    """One method's edits from one perspective: at each point the numbers by column, with their intervals, how many
    facts were scored, and how many edits failed; and the paired changes against the unedited model.
    """

    method: str
    edited: Perspective
    found: Mapping[tuple[Key, str], Estimate | None]
    changes: Mapping[tuple[Key, str], Estimate | None]
    scored: Mapping[Key, int]
    failed: Mapping[Key, int]


def written_of(store: Store) -> list[Written]:
    """What a run's records of the task hold, unit by unit."""
    info, found = store.info(), []
    for unit in info.plan.units:
        if unit.task != "sequence":
            continue
        records = [record for record in store.records(unit) if record.status == "done"]
        if records:
            payloads = {record.case_id: record.payload for record in records}
            found.append(_written(printed_name(unit.method), unit.perspective, payloads, info.relations))
    return found


def _written(
    method: str, edited: Perspective, payloads: Mapping[int, Any], relations: Mapping[str, Sequence[int]]
) -> Written:
    values: dict[tuple[Key, str], list[tuple[int, float]]] = {}
    scored: dict[Key, int] = {}
    failed: dict[Key, int] = {}
    for case, payload in payloads.items():
        points = [(UNEDITED, payload["before"]), *((_key(one), one) for one in payload["points"])]
        for key, point in points:
            scored[key] = scored.get(key, 0) + ("values" in point)
            failed[key] = failed.get(key, 0) + ("failed" in point)
            for column, value in _numbers(point).items():
                values.setdefault((key, column), []).append((case, value))
    series = {at: Series.of(own) for at, own in values.items()}
    found = dict(zip(series, estimates(list(series.values()), relations=relations), strict=True))
    paired = {
        (key, name): own.minus(series[UNEDITED, name])
        for (key, name), own in series.items()
        if key != UNEDITED and (UNEDITED, name) in series
    }
    changes = dict(zip(paired, estimates(list(paired.values()), rates=False, relations=relations), strict=True))
    return Written(method, edited, found, changes, {key: scored[key] for key in sorted(scored, key=_place)}, failed)


def sequence_tests(every: Sequence[Written]) -> list[Tested | None]:
    """The changes of the figure's columns at each point held against zero, not corrected yet; None for one that there
    is not.
    """
    shown, scale = dict.fromkeys(name for name, _, _ in _SHOWN), SCALES["success"].of_change
    return [
        held_against(
            f"{one.method}, {edit_name(one.edited)}, {count_of(key[0], 'fact')}, {_WORDS[key[1]]}",
            name,
            one.changes.get((key, name)),
            scale,
            margin=MARGIN,
        )
        for one in every
        for key, name in product(one.scored, shown)
    ]


def _key(point: Mapping[str, Any]) -> Key:
    return point["facts"], point["way"]


def _place(key: Key) -> tuple[int, int]:
    return key[0], list(_WORDS).index(key[1])


def _numbers(point: Mapping[str, Any]) -> dict[str, float]:
    """A fact's numbers at a point by column, those that there are."""
    if "values" not in point:
        return {}
    own = {column.name: point["values"][VALUES.index(("success", column))] for column in SCORED}
    there = {name: float(value) for name, value in own.items() if value is not None and value == value}
    return there | further_values(point["further"])


def sequence_grids(every: Sequence[Written]) -> tuple[Grid, ...]:
    """The tables, of success, and of removal and generation: a line for each method, perspective, number of facts and
    way; none without any. In one they would be wider than a page.
    """
    if not every:
        return ()
    return (
        _grid("sequence", "success", [column.name for column in SCORED], every),
        _grid("sequence-further", "removal and generation", FURTHER, every),
    )


def _grid(name: str, of: str, columns: Sequence[str], every: Sequence[Written]) -> Grid:
    lines = []
    for one in every:
        for key in one.scored:
            cells = [Cell.of(one.found.get((key, column)), SCALES["success"]) for column in columns]
            counts = [Cell(n, scale=COUNT) for n in (one.scored[key], one.failed[key])]
            heads = (edit_name(one.edited), one.method, str(key[0]), _WORDS[key[1]])
            lines.append(Line(heads, (*cells, *counts)))
    return Grid(
        name=name,
        title=f"Many edits in one model: {of}",
        caption="In percent, each with its 95% interval over facts, of all facts that were written: one after the "
        "other, each edit computed on the model that carries those before it, or all as one batch. The unedited model "
        "is scored on all facts of the curve. An edit that failed is missing in its model, and its fact is scored all "
        "the same.",
        heads=("edited", "method", "facts written", "way"),
        columns=(*columns, "n", "failed edits"),
        lines=tuple(lines),
    )


def sequence_charts(model: str, every: Sequence[Written]) -> tuple[LineChart, ...]:
    """The figure: a row of panels a method, the two perspectives side by side; none without any."""
    if not every:
        return ()
    methods = list(dict.fromkeys(one.method for one in every))
    chosen = sorted(every, key=lambda one: (methods.index(one.method), PERSPECTIVES.index(one.edited)))
    last = []
    for one in chosen:
        most = max(facts for facts, _ in one.scored)
        named = [(name, way, one.found.get(((most, way), f"{one.edited} reliability"))) for way, name in WAYS.items()]
        said = ", ".join(f"{100 * own.mean:.1f} {name}" for name, _, own in named if own)
        last.append(f"{one.method}, {edit_name(one.edited)}, {count_of(most, 'fact')}: {said}")
    return (
        LineChart(
            name="sequence",
            title=f"Success after many edits in one model, {model}",
            summary="success on each perspective's edited prompts and on other facts; after the most facts, on prompts "
            f"of the edited perspective, in percent: {'; '.join(last)}",
            axis="success",
            of_layers=0,
            panels=tuple(LinePanel(f"{one.method}, {edit_name(one.edited)}", _lines(one)) for one in chosen),
            across="facts written",
            side_by_side=len(PERSPECTIVES),
        ),
    )


def _lines(one: Written) -> tuple[LayerLine, ...]:
    lines = []
    for column, name, way in _SHOWN:
        keys = [key for key in one.scored if key[1] == way]
        if keys:
            found = tuple(one.found.get((key, column)) for key in keys)
            lines.append(LayerLine(name, tuple(facts for facts, _ in keys), found))
    return tuple(lines)
