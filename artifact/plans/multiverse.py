"""The plan of question M: every finding of the figures under every combination of an experimenter's choices."""

from collections.abc import Mapping

from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Plan, Unit


def multiverse_units(most: int, batch: int) -> tuple[Unit, ...]:
    """Both perspectives over at most so many facts."""
    return tuple(
        Unit(f"multiverse-{perspective}", "task", batch=batch, most=most, perspective=perspective, task="multiverse")
        for perspective in reversed(PERSPECTIVES)
    )


MULTIVERSE = Plan("multiverse", "which choices carry the findings of the figures", multiverse_units(20, 4))
PLANS: Mapping[str, tuple[Plan, ...]] = {"multiverse": (MULTIVERSE,)}
BEYOND = multiverse_units(8, 8)
"""Its units at a small size."""
