"""The plan of question M: every finding of the tables and figures under every combination of an experimenter's choices.

Covers the traces that the claims about the figures compare, each in every way (tracing/choices.py), and the edits that
those about the tables compare, as released, with each switch of the protocol that the method follows corrected alone,
and with all of them. Choices of scoring (foil, metric, prompts) read what is stored. Edits as released and the unedited
model are the paper's own units.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from artifact.editing.methods import METHODS
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.plans.modern import BEYOND_FACTS as EDITED_BEYOND
from artifact.plans.modern import FIRST as EDITED_FIRST
from artifact.plans.paper import PAPER_METHODS, PAPER_MODELS
from artifact.plans.unit import TRACED_FOR, Plan, Unit, edit_units, unedited
from artifact.tracing.choices import WINDOWS
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TRACE_KINDS

FACTS, _TRACED = 20, 5
"""Facts of every unit, and those that are traced together."""
_AT = ("last corrupted token",)
ROLES: Mapping[tuple[str, Perspective], tuple[str, ...]] = {
    ("hidden", "relation"): ("subject tokens", "first corrupted token", "middle corrupted tokens", *_AT),
    ("mlp", "relation"): (*_AT, "last token"),
    ("attn", "relation"): _AT,
    ("mlp", "entity"): ("last subject token",),
    **{(one.name, "relation"): _AT for one in TRACE_KINDS.values() if one.severed},
}
"""The roles whose tokens the claims compare, by kind of trace and perspective: others are not restored."""


def traced_units(most: int, batch: int) -> tuple[Unit, ...]:
    """One for each kind of trace and perspective that a claim compares."""
    needed = {one for kinds in TRACED_FOR.values() for one in kinds}
    return tuple(
        Unit(
            f"multiverse-{kind.name}-{perspective}",
            "task",
            batch=batch,
            most=most,
            kind=kind.kind,
            sever=kind.sever,
            perspective=perspective,
            task="multiverse",
        )
        for perspective in reversed(PERSPECTIVES)
        for kind in TRACE_KINDS.values()
        if (kind.name, perspective) in needed
    )


def own_window(model: str, layers: int) -> int:
    """The paper's window: its ten layers on the paper's models, on others the same share of the depth."""
    return WINDOWS[-1] if model in PAPER_MODELS else scaled_window(layers, WINDOWS[-1])


def corrected_units(methods: Sequence[str], most: int) -> Iterator[Unit]:
    """Each method's edits with one switch corrected, and with all that it follows."""
    for unit in edit_units({name: METHODS[name].batch for name in methods}, most):
        own = METHODS[unit.method].switches[unit.perspective]
        for switch in own:
            yield msgspec.structs.replace(unit, name=f"{unit.name}-but-{switch}", correct=(switch,))
        yield msgspec.structs.replace(unit, name=f"{unit.name}-corrected", correct=own)


_METHODS = PAPER_METHODS["gpt2-xl"]
MULTIVERSE = Plan(
    "multiverse",
    "which choices carry the findings of the tables and figures",
    (
        unedited(64, FACTS),
        *traced_units(FACTS, _TRACED),
        *edit_units({name: METHODS[name].batch for name in _METHODS}, FACTS),
        *corrected_units(_METHODS, FACTS),
    ),
    rounds=FACTS // _TRACED,
)
PLANS: Mapping[str, tuple[Plan, ...]] = {"multiverse": (MULTIVERSE,)}
BEYOND = (*traced_units(8, 8), *corrected_units(EDITED_FIRST, EDITED_BEYOND))
"""Its units at a small size; as released the plan `beyond` edits anyway."""
