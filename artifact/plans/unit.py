"""What a plan is made of: units of work, each of which does one thing to a list of facts."""

from collections.abc import Mapping, Sequence
from functools import cache
from sys import intern
from typing import Annotated, Literal, TypeVar, get_args

import msgspec

from artifact.editing.methods import MethodName, printed_name
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TRACE_KINDS, KindWord, SeverWord, TraceKind, trace_kind

T = TypeVar("T")
UnitKind = Literal["trace", "unedited", "edit", "knockout", "task"]
Control = Literal["random_layer", "random_direction", "shuffled_subject"]
CONTROLS: tuple[Control, ...] = get_args(Control)
CONTROL_WORDS: Mapping[Control, str] = {
    "random_layer": "another layer",
    "random_direction": "random direction",
    "shuffled_subject": "another subject",
}
"""How tables name what a control edits in the place of the edit (runs/controls.py)."""
Part = Literal["table1", "table2", "figure2", "figure3", "T1", "T2", "T3", "F1", "F2", "F3", "F4"]
PARTS: tuple[Part, ...] = get_args(Part)
TRACED_FOR: Mapping[Part, tuple[tuple[str, Perspective], ...]] = {
    "F1": (("mlp", "relation"),),
    "F2": (("hidden", "relation"),),
    "F3": (("attn", "relation"),),
    "F4": (
        *(("mlp", "relation"), ("attn", "relation"), ("mlp", "entity"), ("hidden", "relation")),
        *((one.name, "relation") for one in TRACE_KINDS.values() if one.severed),
    ),
}
"""The kinds of trace, with their perspectives, that a claim about the figures compares (expected/paper.json)."""
EDITED_FOR: Mapping[Part, tuple[Perspective, ...]] = {"T1": ("relation",), "T2": ("entity",), "T3": PERSPECTIVES}
"""The edits that a claim about the tables compares."""


class Unit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing to do to each fact: trace it, score the unedited model on it, edit it and score the edited model, knock
    out attention, or a task of a question beyond the paper.

    `kind`, `window` and `sever` describe a trace, `method` an edit, `perspective` both: what is corrupted, or edited;
    of a knockout which prompt is asked. `window` counts layers; where it is `scaled`, layers of a model of 48.
    `most` is how many facts it takes at most (None: all), `batch` how many are computed together: batches are cut from
    the plan's list of cases and never from what is left, so that an interrupted run gives the same numbers.

    run.json leaves out a field that has its default, so that a new field changes no older run: a default is never
    changed. A field that this version does not know is refused.
    """

    name: str
    does: UnitKind
    batch: Annotated[int, msgspec.Meta(ge=1)]
    most: Annotated[int, msgspec.Meta(ge=1)] | None = None
    kind: KindWord = "hidden"
    window: int = 10
    sever: SeverWord | None = None
    method: Literal["none"] | MethodName = "none"
    perspective: Perspective = "entity"
    control: Control | None = None
    """What is done in the place of the edit, to see what an edit that should do nothing does."""
    further: bool = False
    """Whether removal and generation are scored too (evaluation/further.py)."""
    correct: tuple[str, ...] = ()
    """The protocol's switches that are corrected for this unit alone."""
    scaled: bool = False
    task: str = ""
    """For `task`: which (tasks.py), and its own settings by name."""
    options: tuple[tuple[str, str | int | float], ...] = ()

    def __post_init__(self) -> None:
        # A default is left out where it is the very same object; text that was pickled or read is another one.
        for name in ("kind", "method", "perspective"):
            msgspec.structs.force_setattr(self, name, intern(getattr(self, name)))

    def window_of(self, layers: int) -> int:
        """The window on a model of so many layers."""
        return scaled_window(layers, self.window) if self.scaled else self.window

    def option(self, name: str, default: str | int | float = "") -> str | int | float:
        """A task's setting."""
        return dict(self.options).get(name, default)

    @property
    def trace_kind(self) -> TraceKind:
        """The kind of trace that `kind` and `sever` stand for."""
        return trace_kind(self.kind, self.sever)

    @property
    def printed_method(self) -> str:
        """The method's printed name, and the control's where it is one."""
        control = "" if self.control is None else f", {CONTROL_WORDS[self.control]}"
        return printed_name(self.method) + control + (f", corrected {', '.join(self.correct)}" if self.correct else "")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tables, figures and claims that the unit is for."""
        return _parts_of(self)


@cache
def _parts_of(unit: Unit) -> tuple[Part, ...]:
    if unit.does == "unedited":
        return ("table1", "table2", *EDITED_FOR)
    if unit.does == "edit":
        table: Part = "table1" if unit.perspective == "relation" else "table2"
        return (table, *(part for part, edited in EDITED_FOR.items() if unit.perspective in edited))
    kind = unit.trace_kind
    if unit.does == "trace":  # a claim is judged where both perspectives were traced
        return (*kind.figures, *(p for p, kinds in TRACED_FOR.items() if kind.name in dict(kinds)))
    if unit.task == "multiverse":
        return tuple(part for part, kinds in TRACED_FOR.items() if (kind.name, unit.perspective) in kinds)
    return ()


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named list of units, for the models it names (empty: whichever is asked for).

    run.json leaves out a field that has its default, as a unit's.
    """

    name: str
    title: str
    units: tuple[Unit, ...]
    models: tuple[str, ...] = ()
    facts: str = ""
    """The data set that it takes without --facts. Where there is one, the plan is about real facts, whichever are given
    (runs/inputs.py), and traces' windows are the paper's share of the model's depth.
    """
    rounds: int = 1
    """The rounds in which it is computed: each takes the next part of every unit."""

    def part(self, unit: Unit, batches: Sequence[T], number: int) -> Sequence[T]:
        """A unit's batches of the `number`-th round, from 0. Where there are fewer than rounds, the first is in the
        first round: other units are read against the unedited model's only batch. A task's only batch, such as a
        hundred edits in one model, takes long and is in the last.
        """
        if unit.does == "task" and len(batches) == 1:
            return batches if number == self.rounds - 1 else batches[:0]
        cuts = [-(-len(batches) * at // self.rounds) for at in (number, number + 1)]
        return batches[cuts[0] : cuts[1]]

    def at_depth(self, layers: int) -> "Plan":
        """The plan with traces' windows as the same share of so many layers as they are of GPT-2 XL's 48."""
        units = (
            msgspec.structs.replace(unit, window=scaled_window(layers, unit.window)) if unit.does == "trace" else unit
            for unit in self.units
        )
        return msgspec.structs.replace(self, units=tuple(units))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of its units, in their order."""
        return tuple(dict.fromkeys(unit.method for unit in self.units if unit.method != "none"))

    @property
    def moved(self) -> tuple[str, ...]:
        """The methods that a control runs on other layers than their own."""
        return tuple(dict.fromkeys(unit.method for unit in self.units if unit.control == "random_layer"))

    @property
    def of_the_paper(self) -> bool:
        """Whether it takes the paper's facts, second moments and hyperparameters, and so may be held against it."""
        return bool(self.models)


def unedited(batch: int, most: int | None = None, further: bool = False) -> Unit:
    """The unit that scores the unedited model, against which every edit is read."""
    return Unit("unedited", "unedited", batch=batch, most=most, further=further)


def trace_units(batch: int, most: int | None, severed: bool, window: int = 10) -> tuple[Unit, ...]:
    """The kinds of trace that the paper's figures show, from both perspectives: the severed ones, or the others."""
    return tuple(
        Unit(
            f"trace-{one.name}-{perspective}",
            "trace",
            batch=batch,
            most=most,
            kind=one.kind,
            window=window,
            sever=one.sever,
            perspective=perspective,
        )
        for perspective in reversed(PERSPECTIVES)  # the relation's is the paper's
        for one in TRACE_KINDS.values()
        if one.figures and bool(one.severed) == severed
    )


def edit_units(
    batches: Mapping[str, int], most: int | None, control: Control | None = None, further: bool = False
) -> tuple[Unit, ...]:
    """Methods from both perspectives, each with its batch: the rows of Tables 1 and 2, or a control of theirs."""
    return tuple(
        Unit(
            f"{method}-{perspective}" + (f"-{control}" if control else ""),
            "edit",
            batch=batch,
            most=most,
            method=method,
            perspective=perspective,
            control=control,
            further=further,
        )
        for method, batch in batches.items()
        for perspective in reversed(PERSPECTIVES)
    )
