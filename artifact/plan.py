"""The paper's experiments as data: which facts, methods, perspectives and models make which units of work.

Covers every plan by name, their units in the order in which an early stop leaves the most useful report, and narrowing
a plan to some tables, figures or methods. A unit does one thing to a list of facts; its records are stored a case at a
time.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Literal, get_args

import msgspec

from artifact.editing.methods import METHODS, MethodName
from artifact.errors import SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.tracing.kinds import TRACE_KINDS, KindWord, SeverWord, TraceKind, trace_kind

UnitKind = Literal["trace", "unedited", "edit"]
Part = Literal["table1", "table2", "figure2", "figure3"]
PARTS: tuple[Part, ...] = get_args(Part)
PAPER_MODELS = ("gpt2-xl", "gpt-j")
PAPER_METHODS: Mapping[str, tuple[str, ...]] = {
    "gpt2-xl": ("rome", "memit", "mend", "ft", "kn"),
    "gpt-j": ("rome", "memit", "mend"),
}
"""Methods of Tables 1 and 2 by model, the ones that most claims rest on first."""
_BEFORE_WINDOWS = 2
"""How many of them a paper's plan edits by before it traces."""


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
    kind: KindWord = "hidden"
    window: int = 10
    sever: SeverWord | None = None
    corrupt: Perspective = "entity"
    method: Literal["none"] | MethodName = "none"
    perspective: Perspective = "entity"

    @property
    def trace_kind(self) -> TraceKind:
        """The kind of trace that `kind` and `sever` stand for."""
        return trace_kind(self.kind, self.sever)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tables and figures that the unit is for."""
        if self.does == "unedited":
            return ("table1", "table2")
        if self.does == "edit":
            return ("table1",) if self.perspective == "relation" else ("table2",)
        return self.trace_kind.figures


class Plan(msgspec.Struct, frozen=True):
    """A named list of units, for the models it names (empty: whichever is asked for)."""

    name: str
    title: str
    units: tuple[Unit, ...]
    models: tuple[str, ...] = ()

    @property
    def of_the_paper(self) -> bool:
        """Whether it takes the paper's facts, second moments and hyperparameters, and so may be held against it."""
        return bool(self.models)


def _unedited(batch: int, most: int | None = None) -> Unit:
    return Unit("unedited", "unedited", batch=batch, most=most)


def _traces(batch: int, most: int | None, severed: bool, window: int = 10) -> tuple[Unit, ...]:
    """The kinds of trace that the paper's figures show, from both perspectives: the severed ones, or the others."""
    return tuple(
        Unit(
            f"trace-{one.name}-{corrupt}",
            "trace",
            batch=batch,
            most=most,
            kind=one.kind,
            window=window,
            sever=one.sever,
            corrupt=corrupt,
        )
        for corrupt in reversed(PERSPECTIVES)  # the relation view is the paper's
        for one in TRACE_KINDS.values()
        if one.figures and bool(one.severed) == severed
    )


def _edits(batches: Mapping[str, int], most: int | None) -> tuple[Unit, ...]:
    """Methods from both perspectives, each with its batch: the rows of Tables 1 and 2."""
    return tuple(
        Unit(f"{method}-{view}", "edit", batch=batch, most=most, method=method, perspective=view)
        for method, batch in batches.items()
        for view in reversed(PERSPECTIVES)
    )


def _smoke(title: str, edits: int, traces: int) -> Plan:
    return Plan(
        name="smoke",
        title=title,
        units=(
            _unedited(batch=48, most=48),
            *_edits({name: one.smoke_batch for name, one in METHODS.items() if one.smoke_batch}, most=edits),
            *_traces(16, traces, severed=False, window=3),  # the paper's ten layers would span a small model
            *_traces(16, traces, severed=True),
        ),
    )


def _paper(name: str, title: str, model: str, most: int | None = None, traced: int | None = None) -> Plan:
    """The paper's units on one of its models: what most claims rest on first, what decides least last."""
    batches = {method: METHODS[method].batch for method in PAPER_METHODS[model]}
    edits = _edits(batches, most)
    first = tuple(unit for unit in edits if unit.method in PAPER_METHODS[model][:_BEFORE_WINDOWS])
    last = edits[len(first) :]
    return Plan(
        name=name,
        title=title,
        units=(
            _unedited(64, most),
            *first,
            *_traces(16, traced, severed=False),
            *last,
            *_traces(16, traced, severed=True),
        ),
        models=(model,),
    )


SMOKE = _smoke("every stage once, on a small model", edits=48, traces=64)
SMOKE_FEW_FACTS = _smoke("every stage once, on few facts", edits=4, traces=2)
"""The smoke plan where every fact takes seconds: GPT-2 without a GPU."""
_TABLES_AND_FIGURES = "both tables and both figures"
PLANS: Mapping[str, tuple[Plan, ...]] = {
    "smoke": (SMOKE,),
    "sample": (_paper("sample", f"{_TABLES_AND_FIGURES} from 200 facts each", "gpt2-xl", most=200, traced=200),),
    "gpt2-xl": (_paper("gpt2-xl", f"{_TABLES_AND_FIGURES} on GPT-2 XL", "gpt2-xl"),),
    "gpt-j": (_paper("gpt-j", f"{_TABLES_AND_FIGURES} on GPT-J", "gpt-j"),),
    "full": tuple(_paper("full", f"{_TABLES_AND_FIGURES}, both models", model) for model in PAPER_MODELS),
}
"""Plans by name; a name with several is run one after the other, a folder each, and reported together."""


def find_plans(name: str) -> tuple[Plan, ...]:
    """The plan of that name, one for each model it runs; SettingError when there is none."""
    if name not in PLANS:
        raise SettingError(f"plan {name!r} is unknown; expected one of {', '.join(PLANS)}")
    return PLANS[name]


def narrowed(plan: Plan, only: Sequence[str] = (), methods: Sequence[str] = ()) -> Plan:
    """The plan with the units of some tables and figures, and of some methods, alone.

    Traces and the unedited model belong to no method and stay with their tables and figures. SettingError for a name
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


def narrowing_of(plan: Plan) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The shortest (only, methods) that `narrowed` gives this plan for; both empty for a whole or an unknown plan."""
    methods = tuple(dict.fromkeys(unit.method for unit in plan.units if unit.does == "edit"))
    for whole in (*PLANS.get(plan.name, ()), SMOKE_FEW_FACTS):
        if (whole.name, whole.models) == (plan.name, plan.models):
            for count, asked in product(range(len(PARTS) + 1), ((), methods)):
                for only in combinations(PARTS, count):
                    if _left(whole, only, asked) == plan.units:
                        return only, asked
    return (), ()


def _left(plan: Plan, only: Sequence[str], methods: Sequence[str]) -> tuple[Unit, ...]:
    return tuple(
        unit
        for unit in plan.units
        if (not only or any(part in only for part in unit.parts))
        and (not methods or unit.does != "edit" or unit.method in methods)
    )
