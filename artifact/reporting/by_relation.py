"""Numbers by relation, where a run's data are of named relations: edits as asked from both perspectives, and traces.

Facts of one relation are not independent of each other: a mean over all of them may be one relation's. A relation with
few finished facts is left out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from artifact.evaluation.metrics import Column
from artifact.facts.fact import PERSPECTIVES, Perspective, other_perspective
from artifact.reporting.cells import COUNT, SCALES, Cell, Grid, Line, Scale
from artifact.reporting.charts import CORRUPTED
from artifact.reporting.intervals import Series, estimates
from artifact.reporting.tables import MeasuredRow, scored_cases
from artifact.reporting.verdict import MeasuredRun

FEWEST = 3
"""Finished facts of a relation that a table shows."""
_WIDEST = 5
"""Methods of a table: more do not fit a page."""
_NONE = Series(np.array([], dtype=np.int64), np.array([]))
_PROBABILITY = SCALES["magnitude"].of_change


def relation_grids(run: MeasuredRun) -> list[Grid]:
    """Tables for each edited perspective: reliability of both perspectives' prompts by relation and method, in percent,
    at most _WIDEST methods each; and one of the traces' total effects.
    """
    if not run.info.by_relation:
        return []
    edits = [_edits(run, edited, rows, number) for edited in PERSPECTIVES for number, rows in _parts(run, edited)]
    return [grid for grid in (*edits, _traces(run)) if grid.lines]


def _parts(run: MeasuredRun, edited: Perspective) -> Iterator[tuple[int, Sequence[MeasuredRow]]]:
    """The rows of each table of one perspective's edits, and its number from 1; controls are left out."""
    rows = [row for row in run.begun if row.edited == edited and not row.control]
    tables = max(1, math.ceil(len(rows) / _WIDEST))
    for number in range(tables):
        yield number + 1, rows[len(rows) * number // tables : len(rows) * (number + 1) // tables]


def _edits(run: MeasuredRun, edited: Perspective, rows: Sequence[MeasuredRow], number: int) -> Grid:
    units = {unit.name: unit for unit in run.info.plan.units}
    scored = [scored_cases(run.store, units[row.unit]) for row in rows]
    lines = [
        line
        for asked in (edited, other_perspective(edited))
        for line in _lines(
            f"{asked} perspective",
            [of.get(("success", Column(asked, "reliability"))) for of in scored],
            run.info.relations,
            SCALES["success"],
        )
    ]
    return Grid(
        name=f"by-relation-{edited}" + (f"-{number}" if number > 1 else ""),
        title=f"By relation: {edited} edits" + (f", table {number}" if number > 1 else ""),
        caption=f"Success after {edited} edits, asked from both perspectives (reliability), in percent with its 95% "
        f"interval, for each relation of which at least {FEWEST} facts are finished.",
        heads=("asked from", "relation"),
        columns=(*(row.printed_method for row in rows), "facts"),
        lines=tuple(lines),
    )


def _traces(run: MeasuredRun) -> Grid:
    whole: dict[Perspective, Series] = {}
    for (_, perspective), traces in run.traced.traces.items():
        whole.setdefault(perspective, Series(traces.cases_F, traces.clean_F - traces.corrupted_F))
    asked = [one for one in PERSPECTIVES if one in whole]
    relations = run.info.traced_relations
    lines = _lines("total effect", [whole[one] for one in asked], relations, _PROBABILITY, rates=False)
    return Grid(
        name="by-relation-traces",
        title="By relation: total effects",
        caption="The probability that noise on the subject's tokens or on the relation's takes from the answer, "
        f"clean minus corrupted, with its 95% interval, for each relation of which at least {FEWEST} facts were "
        "traced.",
        heads=("number", "relation"),
        columns=(*(CORRUPTED[one] for one in asked), "facts"),
        lines=tuple(lines),
    )


def _lines(
    head: str,
    every: Sequence[Series | None],
    relations: Mapping[str, Sequence[int]],
    scale: Scale,
    rates: bool = True,
) -> list[Line]:
    """A line for each relation with enough facts: the mean over its facts of each series."""
    own = [
        [_NONE if one is None else one.among(np.array(sorted(cases))) for one in every] for cases in relations.values()
    ]
    found = estimates([part for parts in own for part in parts], rates=rates)
    lines = []
    for at, relation in enumerate(relations):
        of_relation = found[at * len(every) : (at + 1) * len(every)]
        facts = max((one.n for one in of_relation if one is not None), default=0)
        if facts >= FEWEST:
            cells = [Cell.of(one, scale) for one in of_relation]
            lines.append(Line((head, relation), (*cells, Cell(facts, scale=COUNT))))
    return lines
