"""The plan on real facts: the paper's tables and figures on facts that the model answers, whichever model is asked for.

Its units are taken in rounds, so that an early stop leaves a part of every table and figure: edits first, those that
most claims rest on before the others, then traces, and severed traces last.
"""

from collections.abc import Mapping

from artifact.plans.paper import PAPER_METHODS
from artifact.plans.unit import Plan, edit_units, trace_units, unedited

EDITED, TRACED = 160, 64
"""Facts of every edit and of every trace."""
ROUNDS = 8
_EDITS, _TRACES = 4, 2
"""Facts computed together, small enough for two cores to be stopped between."""

REAL = Plan(
    name="real",
    title="the paper's tables and figures on real facts that the model answers",
    units=(
        unedited(_EDITS, EDITED),
        *edit_units(dict.fromkeys(PAPER_METHODS["gpt2-xl"], _EDITS), EDITED),
        *trace_units(_TRACES, TRACED, severed=False),
        *trace_units(_TRACES, TRACED, severed=True),
    ),
    facts="real",
    rounds=ROUNDS,
)
PLANS: Mapping[str, tuple[Plan, ...]] = {"real": (REAL,)}
