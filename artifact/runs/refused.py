"""What a model's family refuses of a plan, found before anything is computed: units, and facts that it cannot be asked.

Covers methods that do not edit the family, knockouts and tasks that it cannot do, controls for which the model is too
shallow, and answers that are more than an encoder's mask stands for. A fact is left out if an answer that every number
needs has several pieces. If another answer has, the fact loses the relation's perspective, the harder foil or that
prompt alone. What is left out is said once, in the run's output and on its page; a method that the user asked for by
name is refused instead.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import msgspec

from artifact.editing.methods import METHODS
from artifact.errors import ModelError, PromptError, SettingError
from artifact.facts.fact import NO_RELATION, Fact
from artifact.lm.load import LanguageModel, ModelKind
from artifact.plans.tasks import TASKS
from artifact.plans.unit import Plan, Unit
from artifact.runs.controls import no_other_layers
from artifact.runs.editors import unfit


def refusal(unit: Unit, model: ModelKind) -> str:
    """Why the model cannot do a unit, with the remedy; empty where it can."""
    if unit.does == "knockout":
        try:
            model.needs_decoder("attention knockout")
        except ModelError as error:
            return str(error)
    if unit.does == "task" and (refuses := TASKS[unit.task].refuses) and (refused := str(resolve_name(refuses)(model))):
        return refused
    if unit.method == "none":
        return ""
    refused = unfit(model, method := METHODS[unit.method])
    if refused or unit.control != "random_layer":
        return refused
    return no_other_layers(method.hparams_for(model.name, model.layers).edited, model)


def without_refused(plan: Plan, model: ModelKind, methods: Collection[str] = ()) -> tuple[Plan, dict[str, list[str]]]:
    """The plan with the units that the model can do, and the names of the others by the reason.

    Raises SettingError for one of the `methods`, which were asked for by name, and where no unit is left.
    """
    refused = {unit.name: reason for unit in plan.units if (reason := refusal(unit, model))}
    for unit in plan.units:
        if unit.name in refused and unit.does == "edit" and unit.method in methods and unit.control is None:
            raise SettingError(refused[unit.name])
    if refused and len(refused) == len(plan.units):
        raise SettingError(f"plan {plan.name}: nothing of it is left; {refused[plan.units[0].name]}")
    names: dict[str, list[str]] = {}
    for name, reason in refused.items():
        names.setdefault(reason, []).append(name)
    left = tuple(unit for unit in plan.units if unit.name not in refused)
    return (msgspec.structs.replace(plan, units=left) if refused else plan), names


def in_one_piece(model: LanguageModel, facts: Sequence[Fact]) -> tuple[list[Fact], dict[str, list[str]]]:
    """The facts without what an encoder's mask does not stand for and a fact can do without, and what that was, by the
    reason: the relation's perspective, another relation as the harder foil, and prompts about other facts. A decoder
    keeps all.
    """
    if model.decoder.family.causal:
        return [*facts], {}

    def fits(text: str) -> bool:
        try:
            model.tokens.continuation(f" {text}")
        except PromptError:
            return False
        return True

    kept, related, foils, prompts = [], 0, 0, 0
    for one in facts:
        fact = one
        if one.relation is not None and not (fits(one.relation) and fits(NO_RELATION)):
            none: dict[str, Any] = dict.fromkeys(("relation", "add_template", "removal_template"))
            fact = replace(one, **none, relation_paraphrases=(), another_relation=None)
            related += 1
        subjects, relations = (
            tuple(one for one in asked if fits(one.answer)) for asked in (fact.other_subjects, fact.other_relations)
        )
        foil = fact.another_relation if fact.another_relation and fits(fact.another_relation) else None
        kept.append(replace(fact, other_subjects=subjects, other_relations=relations, another_relation=foil))
        foils += foil != fact.another_relation
        prompts += len(fact.other_subjects) + len(fact.other_relations) - len(subjects) - len(relations)
    many = "not one word piece of the model, and an encoder's mask stands for one"
    of = f"of {len(facts)} facts"
    said = {"relation perspective": (related, of), "harder foil": (foils, of)}
    said["prompts about other facts"] = (prompts, "in all")
    counts = [f"the {words} ({count} {among})" for words, (count, among) in said.items() if count]
    return kept, ({many: counts} if counts else {})


def unaskable(model: LanguageModel, facts: Sequence[Fact]) -> dict[int, str]:
    """Why an encoder cannot be asked some of the facts, by case: one of their answers is more than one word piece. A
    decoder can be asked any.
    """
    if model.decoder.family.causal:
        return {}
    found: dict[int, str] = {}
    for fact in facts:
        try:
            for text in _answers(fact):
                model.tokens.continuation(text)
        except PromptError as error:
            found[fact.case_id] = str(error)
    return found


def counted(reasons: Mapping[int, str], facts: Sequence[Fact]) -> dict[str, list[str]]:
    """How many of the facts cannot be asked, by the first one's reason; empty where all can."""
    return {reason: [f"{len(reasons)} of {len(facts)} facts"] for reason in list(reasons.values())[:1]}


def _answers(fact: Fact) -> list[str]:
    """The texts that scoring reads after a fact's prompts."""
    views = fact.views()
    asked = [text for view in views for text in (view.target, view.foil, view.harder_foil) if text is not None]
    return [*asked, *(one.answer for view in views for one in view.answers)]
