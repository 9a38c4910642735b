"""The paper's experiments as data: which facts, methods, perspectives and models make which units of work.

Covers the `smoke` plan and the units that exist. A unit does one thing to a list of facts; its records are stored a
case at a time. It does not run anything (runs/).
"""

from typing import Literal

import msgspec

from artifact.errors import SettingError
from artifact.facts.fact import Perspective

UnitKind = Literal["trace", "unedited", "edit"]


class Unit(msgspec.Struct, frozen=True):
    """One thing to do to each fact: trace it, score the unedited model on it, or edit it and score the edited model.

    `kind` and `corrupt` describe a trace, `method` and `perspective` an edit. `most`
    is how many facts it takes at most (None: all), `batch` how many are computed together: batches are cut from the
    plan's list of cases and never from what is left, so that an interrupted run gives the same numbers.
    """

    name: str
    does: UnitKind
    batch: int
    most: int | None = None
    kind: Literal["hidden", "mlp", "attn"] = "hidden"
    corrupt: Perspective = "entity"
    method: Literal["none", "rome"] = "none"
    perspective: Perspective = "entity"


class Plan(msgspec.Struct, frozen=True):
    """A named list of units."""

    name: str
    title: str
    units: tuple[Unit, ...]


SMOKE = Plan(
    name="smoke",
    title="every stage once, on a small model",
    units=(
        Unit("unedited", "unedited", batch=48, most=48),
        Unit("rome-entity", "edit", batch=4, most=48, method="rome", perspective="entity"),
        Unit("rome-relation", "edit", batch=4, most=48, method="rome", perspective="relation"),
        Unit("trace-hidden-entity", "trace", batch=8, most=96, corrupt="entity"),
        Unit("trace-hidden-relation", "trace", batch=8, most=96, corrupt="relation"),
    ),
)
PLANS = {plan.name: plan for plan in (SMOKE,)}


def find_plan(name: str) -> Plan:
    """The plan of that name; SettingError when there is none."""
    if name not in PLANS:
        raise SettingError(f"plan {name!r} is unknown; expected one of {', '.join(PLANS)}")
    return PLANS[name]
