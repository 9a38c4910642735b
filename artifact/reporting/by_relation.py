"""Edits by relation, where a run's data are of named relations: each method's success for every relation's facts.

Facts of one relation are not independent of each other: a mean over all of them may be one relation's. A relation with
few finished facts is left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from artifact.evaluation.metrics import Column
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import COUNT, SCALES, Cell, Grid, Line
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.tables import MeasuredRow, scored_cases
from artifact.reporting.verdict import MeasuredRun

FEWEST = 3
"""Finished facts of a relation that a table shows."""
Estimates = Mapping[tuple[str, str], Estimate]
"""A unit's success by relation, by (unit, relation)."""


def relation_grids(run: MeasuredRun) -> list[Grid]:
    """A table an edited perspective: reliability of that perspective by relation and method, in percent."""
    if not run.info.by_relation:
        return []
    found = _estimates(run)
    return [grid for one in PERSPECTIVES if (grid := _grid(run, one, found)).lines]


def _estimates(run: MeasuredRun) -> Estimates:
    units = {unit.name: unit for unit in run.info.plan.units}
    parts: dict[tuple[str, str], Series] = {}
    for row in (row for row in run.rows if row.edited is not None):
        series = scored_cases(run.store, units[row.unit]).get(("success", _column(row)))
        if series is not None:
            own = {name: series.among(np.array(sorted(cases))) for name, cases in run.info.relations.items()}
            parts |= {(row.unit, name): part for name, part in own.items() if len(part.cases_N)}
    found = estimates(list(parts.values()))
    return {key: estimate for key, estimate in zip(parts, found, strict=True) if estimate is not None}


def _column(row: MeasuredRow) -> Column:
    assert row.edited is not None
    return Column(row.edited, "reliability")


def _grid(run: MeasuredRun, edited: Perspective, found: Estimates) -> Grid:
    rows: Sequence[MeasuredRow] = [row for row in run.rows if row.edited == edited]
    lines = []
    for relation in run.info.relations:
        of_rows = [found.get((row.unit, relation)) for row in rows]
        facts = max((one.n for one in of_rows if one is not None), default=0)
        if facts >= FEWEST:
            cells = [Cell.of(one, SCALES["success"]) for one in of_rows]
            lines.append(Line((f"{edited} edit", relation), (*cells, Cell(facts, scale=COUNT))))
    return Grid(
        name=f"by-relation-{edited}",
        title=f"By relation: {edited} edits",
        caption=f"Success of the {edited} perspective's reliability after {edited} edits, in percent with its 95% "
        f"interval, for each relation of which at least {FEWEST} facts are finished.",
        heads=("edited", "relation"),
        columns=(*(row.printed_method for row in rows), "facts"),
        lines=tuple(lines),
    )
