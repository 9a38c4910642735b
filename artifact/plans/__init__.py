"""The experiments as data: which facts, methods, perspectives and models make which units of work.

Covers every plan by name, and narrowing a plan to some tables, figures or methods. A unit does one thing to a list of
facts; its records are stored a case at a time. A new plan is a file beside paper.py and a line of _FILES.
"""

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from itertools import combinations

import msgspec

from artifact.editing.methods import METHODS
from artifact.errors import SettingError
from artifact.plans.paper import SMOKE_FEW_FACTS
from artifact.plans.unit import PARTS, Part, Plan, Unit

_FILES = ("paper", "real", "mechanism", "where", "multiverse", "both", "encoders", "modern", "beyond")
"""One file here each, which ends in PLANS: plans by name."""
PLANS: Mapping[str, tuple[Plan, ...]] = {
    name: plans for file in _FILES for name, plans in import_module(f"artifact.plans.{file}").PLANS.items()
}
"""Plans by name; a name with several is run one after the other, a folder each, and reported together."""


def find_plans(name: str) -> tuple[Plan, ...]:
    """The plan of that name, one for each model it runs; SettingError when there is none."""
    if name not in PLANS:
        raise SettingError(f"plan {name!r} is unknown; expected one of {', '.join(PLANS)}")
    return PLANS[name]


def narrowed(plan: Plan, only: Sequence[str] = (), methods: Sequence[str] = ()) -> Plan:
    """The plan with the units of some tables and figures, and of some methods, alone.

    What belongs to no method (traces, the unedited model) stays with its tables and figures. SettingError for a name
    that is unknown, or when nothing is left.
    """
    for word, asked, known in (("--only", only, PARTS), ("--methods", methods, tuple(METHODS))):
        for name in asked:
            if name not in known:
                raise SettingError(f"{word} {name!r} is unknown; expected one of {', '.join(known)}")
    units = _left(plan, only, methods)
    if not units:
        asked_for = " ".join([*(f"--only {name}" for name in only), *(f"--methods {name}" for name in methods)])
        raise SettingError(f"{asked_for} leaves nothing of the plan {plan.name}; ask for more of it")
    return plan if units == plan.units else msgspec.structs.replace(plan, units=units)


def narrowing_of(plan: Plan, left_out: Collection[str] = ()) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The shortest (only, methods) that `narrowed` gives this plan for, the units `left_out` apart; both empty for a
    whole or an unknown plan.
    """
    names = [unit.name for unit in plan.units]

    def left(whole: Plan, only: Sequence[Part], methods: Sequence[str]) -> list[str]:
        return [unit.name for unit in _left(whole, only, methods) if unit.name not in left_out]

    for whole in (*PLANS.get(plan.name, ()), SMOKE_FEW_FACTS):
        if (whole.name, whole.models) != (plan.name, plan.models):
            continue
        for asked in ((), plan.methods):
            if left(whole, (), asked) == names:
                return (), asked
        # A part that brings another unit is none of those asked for; all others together bring the most.
        fits = {asked: [p for p in PARTS if set(left(whole, [p], asked)) <= set(names)] for asked in ((), plan.methods)}
        fits = {asked: parts for asked, parts in fits.items() if parts and left(whole, parts, asked) == names}
        for count in range(1, len(PARTS) + 1):
            for asked, parts in fits.items():
                for only in combinations(parts, count):
                    if left(whole, only, asked) == names:
                        return only, asked
    return (), ()


def _left(plan: Plan, only: Sequence[str], methods: Sequence[str]) -> tuple[Unit, ...]:
    return tuple(
        unit
        for unit in plan.units
        if (not only or any(part in only for part in unit.parts)) and (not methods or unit.method in ("none", *methods))
    )
