"""The plan `modern`: do editors of after the paper show its asymmetry, and what do edits leave beside success?

Covers every method from both perspectives with the unedited model, removal and generation; three controls of ROME and
of MEMIT: an edit of other layers, one of equal norm and random direction, and one of another fact's subject; and many
facts in one model (sequence.py). A method that for a fact edited alone is another one is left out.
"""

from collections.abc import Mapping, Sequence

from artifact.editing.methods import METHODS
from artifact.plans import sequence
from artifact.plans.unit import CONTROLS, Plan, Unit, edit_units, unedited

MOST = 60
"""Facts that each unit takes, and BEYOND_FACTS in the plan `beyond`."""
BEYOND_FACTS = 5
_ROUNDS = 6
"""About ten facts of every unit a round; where a batch has more, a round has one or none."""
FIRST = ("rome", "memit")
"""The paper's methods that the others are read against, and which the controls are of."""


def units(most: int, methods: Sequence[str]) -> tuple[Unit, ...]:
    """The unedited model, ROME and MEMIT, their controls, and the other methods, `most` facts each."""
    first = {name: METHODS[name].batch for name in FIRST}
    others = {name: METHODS[name].batch for name in methods if name not in first}
    controls = [unit for control in CONTROLS for unit in edit_units(first, most, control, further=True)]
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
            units=(*units(MOST, _ALONE), *sequence.units(sequence.SIZES, sequence.METHODS)),
            rounds=_ROUNDS,
        ),
    )
}
BEYOND = (
    *units(BEYOND_FACTS, [name for name in _ALONE if not METHODS[name].smoke_batch]),
    *sequence.units(sequence.BEYOND_SIZES, sequence.BEYOND_METHODS),
)
"""Of the paper's methods ROME and MEMIT alone: the smoke plan has all of them."""
