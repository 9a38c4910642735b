"""The relation prompts by rule, where the authors' relation data are missing: `--relation-source templates`.

Covers the prompts that ask for the relation of a subject and an object, and the relation fields of a fact whose
relation has a written name (relations.py). The main prompt is the paper's ("The relation between Lyon and Beirut is");
the rephrasings are ours, committed and in a fixed order, so that every reconstruction is the same. Data made from it
are marked (dataset.py).
"""

import re
from dataclasses import dataclass, replace

from artifact.errors import FactError
from artifact.facts.fact import Fact
from artifact.facts.relations import RELATIONS, another_relation, table_of
from artifact.terminal import short

_MAIN = "The relation between {{}} and {object} is"
_REPHRASINGS = (
    "What links {subject} to {object} is the relation called",
    "{subject} and {object} are connected by the relation",
    "The relationship of {subject} to {object} is known as",
    "Between {subject} and {object} there is a relation named",
    "The property that leads from {subject} to {object} is",
)


@dataclass(frozen=True)
class RelationPrompts:
    """The relation fields of a record: surface forms (the name first), the two main prompts, and the rephrasings.

    `add` and `removal` keep "{}" for the subject and hold o* and o_c; `rephrasings` are complete, with s and o*.
    """

    forms: tuple[str, ...]
    add: str
    removal: str
    rephrasings: tuple[str, ...]


def relation_prompt(obj: str) -> str:
    """The main relation prompt with "{}" for the subject; FactError when `obj` holds "{}" itself."""
    if "{}" in obj:
        raise FactError(f"the object {short(obj)!r} holds {{}}, which stands for the subject; write it without")
    return _MAIN.format(object=obj)


def rephrased(subject: str, obj: str) -> tuple[str, ...]:
    """The rephrasings of the relation prompt, filled; braces in `subject` and `obj` stay as they are."""
    parts = {"{subject}": subject, "{object}": obj}
    return tuple(re.sub(r"\{subject\}|\{object\}", lambda slot: parts[slot[0]], text) for text in _REPHRASINGS)


def relation_prompts(relation_id: str, subject: str, new: str, true: str) -> RelationPrompts:
    """The relation fields by rule; FactError for a relation that is not in relations.py, naming it."""
    if (table := table_of(relation_id)) is None:
        raise FactError(
            f"relation_id {short(relation_id)!r} has no written name here ({len(RELATIONS)} Wikidata properties of "
            "CounterFact have one); give a file with the relation fields"
        )
    kind = table[relation_id]
    return RelationPrompts(
        (kind.name, *kind.aliases), relation_prompt(new), relation_prompt(true), rephrased(subject, new)
    )


def with_relation(fact: Fact) -> Fact:
    """`fact` with its relation perspective by rule; FactError names the case, as in `relation_prompts`."""
    try:
        made = relation_prompts(fact.relation_id, fact.subject, fact.object_new, fact.object_true)
    except FactError as error:
        raise FactError(f"case {fact.case_id}: {error}") from None
    name = made.forms[0]
    return replace(
        fact,
        relation=name,
        add_template=made.add,
        removal_template=made.removal,
        relation_paraphrases=made.rephrasings,
        another_relation=another_relation(fact.case_id, fact.relation_id, name, table_of(fact.relation_id) or {}),
    )
