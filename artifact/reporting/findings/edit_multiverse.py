"""The findings of the tables under every choice of an experimenter: method, protocol, foil, metric, prompts.

Covers T1 to T3 as differences fact by fact, above zero where a fact agrees. The paper's bounds are those of its models,
so on any model the direction is asked:
T1, after relation edits: the relation's prompts say the new answer more than the entity's do.
T2, after entity edits: the entity's prompts say it more than before, and the relation is kept less on rephrasings than
on the prompt itself.
T3: the entity's prompts say it more after an entity edit than after a relation edit, and the relation's no less after a
relation edit than after an entity edit (to within MARGIN). For both, the paper's prompts are the entity's own and the
relation's rephrasings (expected/paper.json).
Of two differences the one that is less sure stands for the finding. Foil, metric and prompts are read from the NLLs
that are stored with every scored case.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import msgspec

from artifact.editing.methods import printed_name
from artifact.editing.protocol import all_switches
from artifact.evaluation.metrics import ANOTHER_RELATION, METRICS, Group, Metric, PromptScore, view_score
from artifact.facts.fact import NO_RELATION, PERSPECTIVES, Perspective
from artifact.plans.unit import EDITED_FOR, Part, Unit
from artifact.reporting.equivalence import MARGIN
from artifact.reporting.intervals import Series
from artifact.reporting.multiverse import Specification, least_sure
from artifact.reporting.tables import TRANSFER_GROUPS, undone
from artifact.runs.store import Store

PROMPTS: Mapping[str, tuple[Group, int | None]] = {
    "the prompt itself": ("reliability", None),
    "all rephrasings": ("generality", None),
    "the first rephrasing": ("generality", 1),
}
"""Prompts that stand for a perspective: their group, and how many of it (None: all)."""
MIXED = "itself (entity), all rephrasings (relation)"
"""The prompts of the claims that speak of the entity's reliability and of the relation's generality."""
_MIXED: Mapping[Perspective, str] = {"entity": "the prompt itself", "relation": "all rephrasings"}
FOILS = (NO_RELATION, ANOTHER_RELATION)
FORMS = ("as it is", "change")
Key = tuple[Perspective, str, Metric, str]
"""Perspective, prompts, metric, and the relation's foil."""
Numbers = Mapping[Key, Series]
_NO_FOIL = ""


class Edits:
    """A run's scored edits by perspective, method and protocol, and its unedited model."""

    def __init__(self, store: Store) -> None:
        info = store.info()
        units, self._switches = info.plan.units, all_switches(info.switches)
        self._store = store
        edits = [unit for unit in units if unit.does == "edit" and unit.control is None]
        taken_back = [unit for unit in edits if undone(info, unit)]
        self._units: dict[tuple[Perspective, str, tuple[str, ...]], Unit] = {
            (unit.perspective, unit.method, unit.correct): unit for unit in edits if unit not in taken_back
        }
        self.undone = tuple(dict.fromkeys(printed_name(unit.method) for unit in taken_back))
        """Methods some of whose edits were undone before the scoring, and so are no specifications: what was scored is
        the unedited model."""
        self._before = next((unit for unit in units if unit.does == "unedited"), None)
        self._known: dict[str, Numbers] = {}

    @property
    def protocols(self) -> dict[str, dict[tuple[str, ...], str]]:
        """By method, the switches that are corrected (none, each one, all) with the protocol in words; of methods
        edited in several ways. What the run itself corrects is corrected in all of them.
        """
        found: dict[str, dict[tuple[str, ...], str]] = {}
        for method in dict.fromkeys(method for _, method, _ in self._units):
            followed = dict.fromkeys(switch for _, m, correct in self._units if m == method for switch in correct)
            if followed:
                ways = [(), *((switch,) for switch in followed), tuple(followed)]
                first: dict[str, tuple[str, ...]] = {}
                for way in ways:
                    first.setdefault(self._words(way, tuple(followed)), way)
                found[method] = {way: said for said, way in first.items()}
        return found

    def _words(self, correct: tuple[str, ...], followed: tuple[str, ...]) -> str:
        off = [switch for switch in followed if switch in correct or not self._switches[switch]]
        if not off:
            return "released"
        return "corrected" if len(off) == len(followed) > 1 else f"but {', '.join(off)}"

    def follows(self, perspective: Perspective, method: str, correct: tuple[str, ...]) -> bool:
        """Whether edits from a perspective were made with one of the switches corrected."""
        return any(set(way) & set(correct) for p, m, way in self._units if (p, m) == (perspective, method))

    def of(self, perspective: Perspective, method: str, correct: tuple[str, ...]) -> Numbers:
        """The numbers of one edit; where it follows none of the switches, those as released."""
        own = [unit for (p, m, _), unit in self._units.items() if (p, m) == (perspective, method)]
        followed = {switch for unit in own for switch in unit.correct}
        kept = tuple(switch for switch in correct if switch in followed)
        unit = next((one for one in own if set(one.correct) == set(kept)), None)
        return {} if unit is None else self._numbers(unit)

    @property
    def before(self) -> Numbers:
        """The unedited model's numbers."""
        return {} if self._before is None else self._numbers(self._before)

    def _numbers(self, unit: Unit) -> Numbers:
        if unit.name not in self._known:
            values: dict[Key, list[tuple[int, float]]] = {}
            for record in self._store.records(unit):
                if record.status == "done":
                    for key, value in case_numbers(record.payload["views"]):
                        values.setdefault(key, []).append((record.case_id, value))
            self._known[unit.name] = {key: Series.of(own) for key, own in values.items()}
        return self._known[unit.name]


def case_numbers(views: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """Each number of a scored case, from its stored prompts: perspective, prompts, metric and foil."""
    for perspective in PERSPECTIVES:
        stored = views.get(perspective, {}).get("prompts", {})
        prompts: dict[Group, list[PromptScore]] = {
            group: msgspec.convert(stored.get(group) or [], list[PromptScore]) for group in TRANSFER_GROUPS
        }
        for name, (group, most) in PROMPTS.items():
            scored = view_score({**prompts, group: prompts[group][:most]})
            for metric in METRICS:
                of_foils: dict[str, float | None] = {_NO_FOIL: scored.metrics[group][metric]}
                if perspective == "relation" and metric != "accuracy":
                    another = scored.another.get(group, {}).get(metric)
                    of_foils = {NO_RELATION: of_foils[_NO_FOIL], ANOTHER_RELATION: another}
                for foil, value in of_foils.items():
                    if value is not None:
                        yield (perspective, name, metric, foil), value


def edit_specifications(edits: Edits) -> dict[str, list[Specification]]:
    """By finding, every specification that a run's records hold; empty for a run that edits in one way alone."""
    found: dict[str, list[Specification]] = {finding: [] for finding in FINDINGS}
    for method, ways in edits.protocols.items():
        for correct, metric, prompts, foil, form in product(ways, METRICS, (*PROMPTS, MIXED), FOILS, FORMS):
            if metric == "accuracy" and foil != FOILS[0]:
                continue
            foil_word = _NO_FOIL if metric == "accuracy" else foil
            choices = {
                "method": printed_name(method),
                "protocol": ways[correct],
                "foil": foil_word,
                "metric": metric,
                "prompts": prompts,
                "form": form,
            }
            own = ways[correct] == "released" and (metric, foil, form) == (METRICS[0], FOILS[0], FORMS[0])
            for finding, (own_prompts, rule) in FINDINGS.items():
                if form == "change" and finding == "T3":
                    continue  # two edits of one fact: what the model said before falls out
                if prompts == MIXED != own_prompts:
                    continue
                if correct and not any(edits.follows(edited, method, correct) for edited in EDITED_FOR[finding]):
                    continue  # the same edits as released
                one = _Asked(edits, method, correct, metric, foil_word, prompts, form)
                differences = rule(one)
                least = least_sure(differences)
                if least is not None:
                    said = {name: level for name, level in choices.items() if level}
                    if finding == "T3":
                        del said["form"]
                    found[finding].append(Specification(said, least, own and prompts == own_prompts, len(differences)))
    return {finding: specifications for finding, specifications in found.items() if specifications}


def directions(edits: Edits, method: str) -> dict[Part, Specification]:
    """The findings' differences of one method's edits under the run's own protocol, by success, on the prompts that the
    paper's sentences speak of; without those that the run's records do not hold.
    """
    found: dict[Part, Specification] = {}
    for finding, (prompts, rule) in FINDINGS.items():
        differences = rule(_Asked(edits, method, (), METRICS[0], FOILS[0], prompts, FORMS[0]))
        if (least := least_sure(differences)) is not None:
            found[finding] = Specification({}, least, of=len(differences))
    return found


class _Asked:
    """One specification: numbers of the edits of one method under one protocol."""

    def __init__(
        self, edits: Edits, method: str, correct: tuple[str, ...], metric: Metric, foil: str, prompts: str, form: str
    ) -> None:
        self._edits, self._method, self._correct = edits, method, correct
        self._metric, self._foil, self.prompts, self._form = metric, foil, prompts, form

    def number(self, edited: Perspective, asked: Perspective, prompts: str = "") -> Series | None:
        """After edits from one perspective, the number of the prompts of another; as a change where that is asked."""
        return self._of(self._edits.of(edited, self._method, self._correct), asked, prompts, self._form)

    def change(self, edited: Perspective, asked: Perspective) -> Series | None:
        """The same against the unedited model."""
        return self._of(self._edits.of(edited, self._method, self._correct), asked, "", FORMS[1])

    def _of(self, numbers: Numbers, asked: Perspective, prompts: str, form: str) -> Series | None:
        own = _MIXED[asked] if self.prompts == MIXED else self.prompts
        key = (asked, prompts or own, self._metric, self._foil if asked == "relation" else _NO_FOIL)
        after, before = numbers.get(key), self._edits.before.get(key)
        if after is None or form == FORMS[0]:
            return after
        return None if before is None else after.minus(before)


def _minus(one: Series | None, other: Series | None, more: float = 0.0) -> Series | None:
    if one is None or other is None:
        return None
    difference = one.minus(other)
    return Series(difference.cases_N, difference.values_N + more)


def _t1(asked: _Asked) -> list[Series | None]:
    return [_minus(asked.number("relation", "relation"), asked.number("relation", "entity"))]


def _t2(asked: _Asked) -> list[Series | None]:
    if asked.prompts == "the prompt itself":
        return [None]  # it is what the rephrasings are compared with
    itself = asked.number("entity", "relation", "the prompt itself")
    return [asked.change("entity", "entity"), _minus(itself, asked.number("entity", "relation"))]


def _t3(asked: _Asked) -> list[Series | None]:
    return [
        _minus(asked.number("entity", "entity"), asked.number("relation", "entity")),
        _minus(asked.number("relation", "relation"), asked.number("entity", "relation"), MARGIN),
    ]


FINDINGS: Mapping[Part, tuple[str, Callable[[_Asked], list[Series | None]]]] = {
    "T1": ("the prompt itself", _t1),
    "T2": (MIXED, _t2),
    "T3": (MIXED, _t3),
}
"""By finding, the prompts that the paper's sentence speaks of, and its differences."""
