"""The plan `modern`: do editors of after the paper show its asymmetry, and what do edits leave beside success?

Covers every method from both perspectives with the unedited model, removal and generation, and three controls of ROME:
an edit of another layer, one of equal norm and random direction, and one of another fact's subject. A method that for
a fact edited alone is another one is left out.
"""

from collections.abc import Mapping, Sequence

from artifact.editing.methods import METHODS
from artifact.plans.unit import CONTROLS, Plan, Unit, edit_units, unedited

MOST = 60
"""Facts that each unit takes, and BEYOND_FACTS in the plan `beyond`."""
BEYOND_FACTS = 5
FIRST = ("rome", "memit")
"""The paper's methods that the others are read against; the first is the controls'."""


def units(most: int, methods: Sequence[str]) -> tuple[Unit, ...]:
    """The unedited model, ROME and MEMIT, ROME's controls, and the other methods, `most` facts each."""
    first = {name: METHODS[name].batch for name in FIRST}
    others = {name: METHODS[name].batch for name in methods if name not in first}
    controlled = {FIRST[0]: first[FIRST[0]]}
    controls = [unit for control in CONTROLS for unit in edit_units(controlled, most, control, further=True)]
    return (
        unedited(64, most, further=True),
        *edit_units(first, most, further=True),
        *controls,
        *edit_units(others, most, further=True),
    )


_ALONE = tuple(name for name, method in reversed(METHODS.items()) if not method.alone_as)
PLANS: Mapping[str, tuple[Plan, ...]] = {
    "modern": (
        Plan(
            name="modern",
            title=f"modern editors, removal, generation and controls from {MOST} facts each",
            units=units(MOST, _ALONE),
        ),
    )
}
BEYOND = units(BEYOND_FACTS, [name for name in _ALONE if not METHODS[name].smoke_batch])
"""Of the paper's methods ROME and MEMIT alone: the smoke plan has all of them."""
