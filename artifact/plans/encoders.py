"""The plan `encoders`: traces and edits of an encoder from both perspectives, with controls.

A run on the embedded world takes its masked twin; one on another decoder is refused.
"""

from collections.abc import Mapping

from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Plan, Unit

FACTS, BEYOND_FACTS = 100, 12
"""Facts of the plan, and of the plan `beyond`."""
WINDOW = 10
"""Layers of a model of 48 that a restored window has."""
LEFT, RIGHT = "left of the subject", "right of the mask"
"""Roles of tokens that an encoder's traces have besides those of a decoder's."""


def units(most: int, batch: int) -> tuple[Unit, ...]:
    """Both perspectives of `most` facts, so many together."""
    return tuple(
        Unit(
            f"encoders-{perspective}",
            "task",
            batch=batch,
            most=most,
            method="rome",
            perspective=perspective,
            task="encoders",
        )
        for perspective in reversed(PERSPECTIVES)
    )


PLANS: Mapping[str, tuple[Plan, ...]] = {
    "encoders": (
        Plan("encoders", "an encoder: traces and edits from both perspectives, with controls", units(FACTS, 4)),
    )
}
BEYOND = units(BEYOND_FACTS, batch=12)
