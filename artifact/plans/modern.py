"""The plan `modern`: do editors of after the paper show its asymmetry, and what do edits leave beside success?

Covers every method from both perspectives with the unedited model, removal and generation, and three controls of ROME:
an edit of another layer, one of equal norm and random direction, and one of another fact's subject. A method that for
a fact edited alone is another one is left out.
"""

from collections.abc import Mapping

from artifact.editing.methods import METHODS
from artifact.plans.unit import CONTROLS, Plan, edit_units, unedited

MOST = 60
"""Facts that each unit takes."""
_FIRST = ("rome", "memit")
"""The paper's methods that the others are read against; the first is the controls'."""


def _modern() -> Plan:
    batches = {name: method.batch for name, method in METHODS.items() if not method.alone_as}
    first = {name: batches[name] for name in _FIRST}
    others = {name: batch for name, batch in reversed(batches.items()) if name not in first}
    controlled = {_FIRST[0]: first[_FIRST[0]]}
    controls = [unit for control in CONTROLS for unit in edit_units(controlled, MOST, control, further=True)]
    return Plan(
        name="modern",
        title=f"modern editors, removal, generation and controls from {MOST} facts each",
        units=(
            unedited(64, MOST, further=True),
            *edit_units(first, MOST, further=True),
            *controls,
            *edit_units(others, MOST, further=True),
        ),
    )


PLANS: Mapping[str, tuple[Plan, ...]] = {"modern": (_modern(),)}
