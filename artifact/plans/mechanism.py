"""The plan of question Q3: how a fact's information travels to the last token, in both kinds of prompt.

Covers attention knockouts of every edge (tracing/edges.py) and the windows of both modules that say in how few layers
their effects lie. Windows are the published ones of 48 layers, scaled by depth.
"""

from collections.abc import Mapping

from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Plan, Unit
from artifact.tracing.edges import WINDOW

_TRACED = ("mlp", "attn")


def mechanism_units(knocked: int | None = None, traced: int | None = None) -> tuple[Unit, ...]:
    """Knockouts from both perspectives over at most so many facts, and traces of both modules over so many."""
    return (
        *(
            Unit(
                f"knockout-{perspective}",
                "knockout",
                batch=16,
                most=knocked,
                window=WINDOW,
                perspective=perspective,
                scaled=True,
            )
            for perspective in PERSPECTIVES
        ),
        *(
            Unit(
                f"trace-{kind}-{perspective}",
                "trace",
                batch=16,
                most=traced,
                kind=kind,
                perspective=perspective,
                scaled=True,
            )
            for kind in _TRACED
            for perspective in PERSPECTIVES
        ),
    )


MECHANISM = Plan(
    "mechanism", "how information travels: attention knockouts, extraction, lens", mechanism_units(200, 64)
)
BEYOND = mechanism_units(48, 16)
"""Its units at a small size."""
PLANS: Mapping[str, tuple[Plan, ...]] = {"mechanism": (MECHANISM,)}
