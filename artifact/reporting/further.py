"""What edits leave beside success: whether the old relation is gone, and whether the model writes the target by itself.

Covers the table of removal and generation of a run that scored them (Unit.further). evaluation/further.py says what
the numbers mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Unit
from artifact.reporting.cells import COUNT, SCALES, Cell, Grid, Line
from artifact.reporting.equivalence import MARGIN, Tested, held_against
from artifact.reporting.grids import edit_name
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.tables import MeasuredRow
from artifact.runs.store import Store

FURTHER = ("removal", *(f"{perspective} generation" for perspective in PERSPECTIVES))
"""Columns of the table."""


def further_grids(store: Store, rows: Sequence[MeasuredRow]) -> tuple[Grid, ...]:
    """The table of removal and generation, each edit with its paired change against the unedited model; none for a run
    that did not score them.
    """
    found = _found(store)
    lines = [_line(row, found) for row in rows if any(("mean", row.unit, column) in found for column in FURTHER)]
    if not lines:
        return ()
    grid = Grid(
        name="further",
        title="Beyond success: removal and generation",
        caption='Removal: share of facts of which "None" is likelier than the relation at the "rm" prompt, in percent. '
        "Generation: share of facts whose greedy text after the edited prompt is the target, until its first sentence "
        "is over; each with its 95% interval, and beside it the paired change against the unedited model.",
        heads=("edited", "method"),
        columns=(*(f"{column}{words}" for column in FURTHER for words in ("", ", change")), "n"),
        lines=tuple(lines),
    )
    return (grid,)


def further_tests(store: Store, rows: Sequence[MeasuredRow]) -> list[Tested | None]:
    """The changes of removal and generation held against zero, not corrected yet; None for one that there is not."""
    found, scale = _found(store), SCALES["success"].of_change
    places = [(row, column) for row in rows for column in FURTHER]
    changes = [found.get(("change", row.unit, column)) for row, column in places]
    names = [(f"{row.printed_method}, {edit_name(row.edited)}", column) for row, column in places]
    return [held_against(*name, one, scale, margin=MARGIN) for name, one in zip(names, changes, strict=True)]


def _found(store: Store) -> Mapping[tuple[str, str, str], Estimate | None]:
    """Means and changes, by kind, unit and column."""
    info = store.info()
    units = [unit for unit in info.plan.units if unit.further]
    scored = {unit.name: _series(store, unit) for unit in units}
    base = next((scored[unit.name] for unit in units if unit.does == "unedited"), {})
    wanted: dict[tuple[str, str, str], Series] = {}
    for unit in units:
        for column, series in scored[unit.name].items():
            wanted["mean", unit.name, column] = series
            if unit.does == "edit" and column in base:
                wanted["change", unit.name, column] = series.minus(base[column])
    means = [kind == "mean" for kind, _, _ in wanted]
    return dict(zip(wanted, estimates(list(wanted.values()), means, info.relations), strict=True))


def _line(row: MeasuredRow, found: Mapping[tuple[str, str, str], Estimate | None]) -> Line:
    scale, cells = SCALES["success"], list[Cell]()
    for column in FURTHER:
        cells.append(Cell.of(found.get(("mean", row.unit, column)), scale))
        cells.append(Cell.of(found.get(("change", row.unit, column)), scale.of_change))
    return Line((edit_name(row.edited), row.printed_method), (*cells, Cell(row.done, scale=COUNT)))


def _series(store: Store, unit: Unit) -> dict[str, Series]:
    """Each column's values of the unit's finished cases."""
    values: dict[str, list[tuple[int, float]]] = {}
    for record in store.records(unit):
        if record.status == "done":
            for column, value in further_values(record.payload.get("further", {})).items():
                values.setdefault(column, []).append((record.case_id, value))
    return {column: Series.of(own) for column, own in values.items()}


def further_values(further: Mapping[str, Any]) -> dict[str, float]:
    """One case's numbers by column."""
    written = further.get("generation", {})
    found = {f"{perspective} generation": float(one["exact"]) for perspective, one in written.items()}
    return found | ({"removal": float(further["removal"]["removed"])} if "removal" in further else {})
