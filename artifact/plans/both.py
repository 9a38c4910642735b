"""The plan `both`: one fact edited through both perspectives, alone, one on the other, and together."""

from collections.abc import Mapping

from artifact.plans.unit import Plan, Unit

FACTS, BEYOND_FACTS = 100, 5
"""Facts of the plan, and of the plan `beyond`."""

_LATE = 0.8
"""How deep the last layer of the late edit lies."""


def late_layers(depth: int, count: int) -> tuple[int, ...]:
    """The layers of the late edit in a model of `depth` layers: as many as the method edits, the last of them at four
    fifths of the depth.
    """
    last = min(depth - 1, int(_LATE * depth))
    return tuple(range(max(0, last - count + 1), last + 1))


def units(most: int, batch: int) -> tuple[Unit, ...]:
    """All arms of `most` facts, so many together."""
    return (Unit("both", "task", batch=batch, most=most, method="memit", task="both"),)


PLANS: Mapping[str, tuple[Plan, ...]] = {
    "both": (Plan("both", "both perspectives of one fact: alone, in turn and together", units(FACTS, batch=4)),)
}
BEYOND = units(BEYOND_FACTS, batch=5)
