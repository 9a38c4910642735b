"""The paper's experiments as data: which facts, methods, perspectives and models make which units of work.

Covers the `smoke` plan and the units that exist. A unit does one thing to a list of facts; its records are stored a
case at a time. It does not run anything (runs/).
"""

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from artifact.editing.hparams import MethodName
from artifact.errors import SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective

UnitKind = Literal["trace", "unedited", "edit"]
TraceKind = Literal["hidden", "mlp", "attn"]
Severed = Literal["mlp", "attn"]


class Unit(msgspec.Struct, frozen=True):
    """One thing to do to each fact: trace it, score the unedited model on it, or edit it and score the edited model.

    `kind`, `window`, `sever` and `corrupt` describe a trace, `method` and `perspective` an edit. `most`
    is how many facts it takes at most (None: all), `batch` how many are computed together: batches are cut from the
    plan's list of cases and never from what is left, so that an interrupted run gives the same numbers.
    """

    name: str
    does: UnitKind
    batch: int
    most: int | None = None
    kind: TraceKind = "hidden"
    window: int = 10
    sever: Severed | None = None
    corrupt: Perspective = "entity"
    method: Literal["none"] | MethodName = "none"
    perspective: Perspective = "entity"

    @property
    def trace_kind(self) -> str:
        """What is traced in one word: hidden, mlp, attn, severed-mlp, severed-attn."""
        return f"severed-{self.sever}" if self.sever else self.kind


def _traces(batch: int, most: int, window: int) -> tuple[Unit, ...]:
    """Every kind of trace from both perspectives: what Figures 2 and 3 are drawn from."""
    units = []
    for corrupt in PERSPECTIVES:
        units += [
            Unit(f"trace-{kind}-{corrupt}", "trace", batch=batch, most=most, kind=kind, window=window, corrupt=corrupt)
            for kind in get_args(TraceKind)
        ]
        units += [
            Unit(f"trace-severed-{sever}-{corrupt}", "trace", batch=batch, most=most, sever=sever, corrupt=corrupt)
            for sever in get_args(Severed)
        ]
    return tuple(units)


def _edits(batches: Mapping[MethodName, int], most: int) -> tuple[Unit, ...]:
    """Every method from both perspectives, each with its batch: the rows of Tables 1 and 2."""
    return tuple(
        Unit(f"{method}-{view}", "edit", batch=batch, most=most, method=method, perspective=view)
        for method, batch in batches.items()
        for view in PERSPECTIVES
    )


class Plan(msgspec.Struct, frozen=True):
    """A named list of units."""

    name: str
    title: str
    units: tuple[Unit, ...]


def _smoke(title: str, edits: int, traces: int) -> Plan:
    return Plan(
        name="smoke",
        title=title,
        units=(
            Unit("unedited", "unedited", batch=48, most=48),
            *_edits({"ft": 16, "kn": 16, "mend": 16, "rome": 4, "memit": 8}, most=edits),
            *_traces(batch=16, most=traces, window=3),  # the paper's ten layers would span a small model
        ),
    )


SMOKE = _smoke("every stage once, on a small model", edits=48, traces=64)
SMOKE_FEW_FACTS = _smoke("every stage once, on few facts", edits=4, traces=2)
"""The smoke plan where every fact takes seconds: GPT-2 without a GPU."""
PLANS = {plan.name: plan for plan in (SMOKE,)}


def find_plan(name: str) -> Plan:
    """The plan of that name; SettingError when there is none."""
    if name not in PLANS:
        raise SettingError(f"plan {name!r} is unknown; expected one of {', '.join(PLANS)}")
    return PLANS[name]
