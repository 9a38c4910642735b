"""What the plan `modern` measured for question E: how far each editor's edits fall short of the other perspective.

Covers, for each method and edited perspective, the transfer gap of the changes in success against the unedited model,
on the edited prompts. Its table and figure are those of every run that scored what edits leave (further.py).
"""

from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.tables import own_rows
from artifact.runs.store import Store


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it scored nothing beyond success."""
    if not any(unit.further for unit in store.info().plan.units):
        return None
    gaps = {
        f"transfer gap, {row.edited} edit, {row.printed_method}": row.gaps.get(("success", "reliability"))
        for row in own_rows(store)
        if row.edited is not None
    }
    quantities = {name: Quantity(gap.change if gap else None) for name, gap in gaps.items()}
    return Findings(quantities, shown="transfer-gap")
