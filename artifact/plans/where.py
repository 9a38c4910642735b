"""The plan `where`: which site an edit succeeds at, module by token by layer, beside the indirect effects there."""

from collections.abc import Mapping

from artifact.editing.site import MODULES
from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Plan, Unit

FACTS = 50
"""Facts of the plan, and BEYOND_FACTS of the plan `beyond`."""
BEYOND_FACTS = 6
_ROUNDS = 12
"""Two batches of every unit a round: an early stop leaves as many facts of every site."""
MOST_LAYERS = 12
"""A deeper model is edited at every second layer, every third, and so on."""
TOKENS = "subject_last last relation_last"
"""In this order: the relation's last token is mostly the prompt's, and then edited once, as that."""


def edited_layers(unit: Unit, layers: int) -> tuple[int, ...]:
    """The layers that a unit edits, of a model of so many."""
    step = int(unit.option("step")) or -(-layers // MOST_LAYERS)
    return tuple(range(0, layers, step))


def units(most: int, batch: int, step: int = 0) -> tuple[Unit, ...]:
    """A unit for each module and perspective: `most` facts, every `step`-th layer (0: at most MOST_LAYERS of them)."""
    return tuple(
        Unit(
            f"where-{site}-{perspective}",
            "task",
            batch=batch,
            most=most,
            method="rome",
            perspective=perspective,
            task="where",
            options=(("site", site), ("tokens", TOKENS), ("step", step)),
        )
        for perspective in reversed(PERSPECTIVES)
        for site in MODULES
    )


PLANS: Mapping[str, tuple[Plan, ...]] = {
    "where": (
        Plan(
            "where",
            "where to edit: both modules, three tokens, up to twelve layers",
            units(FACTS, batch=2),
            rounds=_ROUNDS,
        ),
    )
}
BEYOND = units(BEYOND_FACTS, batch=4)
