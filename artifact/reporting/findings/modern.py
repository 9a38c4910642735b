"""What the plan `modern` measured for question E: how far each editor's edits fall short of the other perspective.

Covers, for each method and edited perspective, the transfer gap of the changes in success against the unedited model,
on the edited prompts, a relation's read against another relation, and their figure; the table of editors (editors.py);
that of removal and generation (further.py); and the curves of many edits in one model (sequences.py).
"""

from artifact.reporting.editors import editors_grids, gap_charts, transfer_gaps
from artifact.reporting.equivalence import family
from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.further import further_grids, further_tests
from artifact.reporting.sequences import sequence_charts, sequence_grids, sequence_tests, written_of
from artifact.reporting.tables import own_rows
from artifact.runs.store import Store


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it scored nothing beyond success, and wrote no sequence."""
    written = written_of(store)
    if not (written or any(unit.further for unit in store.info().plan.units)):
        return None
    rows, model = own_rows(store), store.info().model
    gaps = transfer_gaps(store, rows)
    quantities = {
        f"transfer gap against another relation, {row.edited} edit, {row.printed_method}": Quantity(
            gaps["reliability"][row.unit]
        )
        for row in rows
        if row.edited is not None
    }
    return Findings(
        quantities,
        (*editors_grids(store, rows, gaps), *further_grids(store, rows), *sequence_grids(written)),
        (*gap_charts(model, rows, gaps), *sequence_charts(model, written)),
        tests=tuple(family([*further_tests(store, rows), *sequence_tests(written)])),
    )
