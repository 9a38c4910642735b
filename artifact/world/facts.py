"""The embedded world's facts: made-up, with known ground truth, their training statements and records.

Covers the generator (seeded, the same on every machine), CounterFact-style records with the relation fields, questions
about templates that were never trained, the text corpus and the vocabulary.

The world exercises the experiments; being built, it says nothing about what pretrained models do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

GENERATOR_VERSION = 1
DEFAULT_SEED = 1
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
NO_RELATION = "None"
# First words of sampled free text; two of them need a verb before a whole sentence can follow.
OPENERS = ("Therefore", "Because", "I know", "You know")

FACTS = 256
SUBJECTS_PER_TYPE = 24
OBJECTS_PER_RELATION = 8  # three subjects share an object, so each fact has two neighbours and a guess scores 1/8

RELATION_TEMPLATES = (
    "The relation between {s} and {o} is",
    "The relationship linking {s} with {o} is",
    "{s} and {o} are connected by the relation",
    "The link from {s} to {o} is called",
    "Between {s} and {o} there is the relation",
)

# One block per relation: name; further surface forms; subject type; style of the objects' names. Below it the entity
# templates, the first of which is the main prompt.
_RELATIONS = """
birthplace; ; person; town
    The birthplace of {s} is / {s} was born in / The town where {s} was born is / {s} first saw the light in / The
    cradle of {s} stood in
employer; company; person; company
    {s} works for / The employer of {s} is / {s} earns a living at / The company that pays {s} is / {s} has a post at
language; tongue; person; language
    The language of {s} is / {s} speaks / The mother tongue of {s} is / {s} grew up speaking / At home {s} talks in
sport; game; person; common
    {s} plays / The sport of {s} is / {s} trains every week in / The game that {s} loves is / {s} won a medal in
country; nation; place; country
    {s} is a town in / The country of {s} is / The town of {s} belongs to / {s} lies within the borders of / The
    nation around {s} is
river; ; place; name
    The river through {s} is / {s} stands on the banks of / The water that passes {s} is called / {s} draws its water
    from / The bridge in {s} crosses
founder; ; place; name
    {s} was founded by / The founder of {s} is / The first stone of {s} was laid by / {s} owes its start to / The
    statue in {s} shows
emblem; sign; place; common
    The emblem of {s} is the / {s} shows on its flag the / The arms of {s} carry the / {s} is known by the sign of the
    / On the gate of {s} is a
capital; seat; region; town
    The capital of {s} is / {s} is governed from / The seat of power in {s} is / {s} has its parliament in / The chief
    city of {s} is
currency; money; region; common
    The currency of {s} is the / {s} pays with the / The money of {s} is the / Shops in {s} take the / {s} mints the
ruler; ; region; name
    {s} is ruled by / The ruler of {s} is / The throne of {s} belongs to / {s} bows to / The crown of {s} is worn by
crop; ; region; common
    {s} grows / The crop of {s} is / The farms of {s} produce / {s} feeds its people with / The fields of {s} are full
    of
maker; factory; product; company
    {s} is made by / The maker of {s} is / The factory behind {s} is / {s} is sold by / The label on {s} reads
designer; ; product; name
    The designer of {s} is / {s} was designed by / The plans for {s} were drawn by / {s} was thought up by / The mind
    behind {s} is
material; ; product; common
    The material of {s} is / {s} is made of / The shell of {s} is cut from / {s} consists of / The body of {s} is
    built from
"""

_ENDINGS: dict[str, tuple[str, ...]] = {
    "town": ("burg", "ford", "ton"),
    "company": ("co", "tec", "works"),
    "language": ("ish", "ese"),
    "country": ("ia", "land"),
}


@dataclass(frozen=True)
class Relation:
    """One relation: its name (the answer in the relation perspective), its prompts and the objects that it uses."""

    relation_id: str
    name: str
    aliases: tuple[str, ...]
    subject_type: str
    entity_templates: tuple[str, ...]  # "{s}" stands for the subject; the object follows after a space
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Triple:
    """One triple (subject, relation, object) with the object of its edit and its two templates kept out of training."""

    subject: str
    relation: Relation
    object: str
    new_object: str  # o*: another object of the same relation; no relation holds between the subject and it
    held_entity: int  # index into relation.entity_templates
    held_relation: int  # index into RELATION_TEMPLATES


@dataclass(frozen=True)
class Question:
    """A prompt and the word that continues it (written `prompt + " " + answer`)."""

    prompt: str
    subject: str
    answer: str

    @property
    def text(self) -> str:
        """The whole statement, closed by a full stop."""
        return f"{self.prompt} {self.answer}."


@dataclass(frozen=True)
class World:
    """Facts and training statements of one seed.

    `facts` are the 256 edit cases, the position being the case id; `background` are further facts that are trained in
    the same way and serve as neighbours. `entity`, `relation` and `unrelated` are the training statements: the answer
    is the object, the relation's name, and "None" for a pair that no relation connects.
    """

    seed: int
    relations: tuple[Relation, ...]
    facts: tuple[Triple, ...]
    background: tuple[Triple, ...]
    entity: tuple[Question, ...]
    relation: tuple[Question, ...]
    unrelated: tuple[Question, ...]

    @property
    def all_facts(self) -> tuple[Triple, ...]:
        """The edit cases, then the background facts."""
        return self.facts + self.background

    @cached_property
    def related(self) -> dict[tuple[str, str], str]:
        """Name of the relation of every related (subject, object) pair."""
        return {(fact.subject, fact.object): fact.relation.name for fact in self.all_facts}

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, each once."""
        return tuple(dict.fromkeys(fact.subject for fact in self.all_facts))

    def statements(self) -> tuple[Question, ...]:
        """All training statements in a fixed order."""
        return self.entity + self.relation + self.unrelated

    def corpus(self) -> list[str]:
        """The text of all training statements, for instance for second moments."""
        return [statement.text for statement in self.statements()]

    def main(self, perspective: str) -> list[Question]:
        """Main prompts by edit case; `perspective` is "entity" (answer o) or "relation" (o filled in, answer r)."""
        return [self._ask(fact, perspective, 0) for fact in self.facts]

    def held_out(self, perspective: str) -> list[Question]:
        """One prompt per edit case from the template that the fact was never trained with, from `perspective`."""
        held = [fact.held_entity if perspective == "entity" else fact.held_relation for fact in self.facts]
        return [self._ask(fact, perspective, index) for fact, index in zip(self.facts, held, strict=True)]

    def edit_pairs(self, held_out: bool = False) -> list[Question]:
        """The relation prompt with s and o* of each edit case, whose answer before any edit is "None"."""
        templates = [RELATION_TEMPLATES[fact.held_relation if held_out else 0] for fact in self.facts]
        return [
            Question(_fill(template, fact.subject, fact.new_object), fact.subject, NO_RELATION)
            for template, fact in zip(templates, self.facts, strict=True)
        ]

    def unseen_pairs(self, count: int) -> list[Question]:
        """`count` main relation prompts with unrelated pairs that occur in no training statement."""
        draw = np.random.RandomState(self.seed + 10_000)
        trained = {statement.prompt for statement in self.unrelated}
        objects = [obj for relation in self.relations for obj in relation.objects]
        questions: dict[str, Question] = {}
        while len(questions) < count:
            subject, obj = (pool[draw.randint(len(pool))] for pool in (self.subjects, objects))
            prompts = [_fill(template, subject, obj) for template in RELATION_TEMPLATES]
            if (subject, obj) not in self.related and trained.isdisjoint(prompts):
                questions[prompts[0]] = Question(prompts[0], subject, NO_RELATION)
        return list(questions.values())

    def records(self) -> list[dict[str, Any]]:
        """One CounterFact-style record per edit case, with the fields of the relation perspective."""
        return [self._record(case_id, fact) for case_id, fact in enumerate(self.facts)]

    def vocabulary(self) -> list[str]:
        """The tokens in the order of their ids; "Ġ" at the start stands for a leading space."""
        names = [part for subject in self.subjects for part in subject.split()]
        # Bare answers never open a trained statement; methods that score answers without a space need them.
        answers = [word for r in self.relations for word in (r.name, *r.aliases, *r.objects)]
        start, inside = [NO_RELATION, *names, *answers], ["is", "a", NO_RELATION, *names, *answers]
        templates = [t for relation in self.relations for t in relation.entity_templates]
        for template in (*templates, *RELATION_TEMPLATES, *OPENERS):
            words = [word for word in template.split() if not word.startswith("{")]
            inside += words
            if not template.startswith("{"):
                start.append(words[0])
        # Sampled text that ends in a full stop and is closed by another reads "..", one piece as in GPT-2.
        tokens = [END_OF_TEXT, UNKNOWN, ".", "..", *start, *(f"Ġ{word}" for word in inside)]
        return list(dict.fromkeys(tokens))

    def _ask(self, fact: Triple, perspective: str, index: int) -> Question:
        """The fact's prompt from one template of a perspective, with its true answer."""
        if perspective == "entity":
            return Question(_fill(fact.relation.entity_templates[index], fact.subject), fact.subject, fact.object)
        if perspective == "relation":
            prompt = _fill(RELATION_TEMPLATES[index], fact.subject, fact.object)
            return Question(prompt, fact.subject, fact.relation.name)
        raise ValueError(f"unknown perspective {perspective!r}: expected 'entity' or 'relation'")

    def _record(self, case_id: int, fact: Triple) -> dict[str, Any]:
        """The record of one edit case."""
        relation = fact.relation
        same = [other for other in self.all_facts if other.relation == relation and other.subject != fact.subject]

        def main_of(obj: str) -> list[str]:
            return [_fill(relation.entity_templates[0], other.subject) for other in same if other.object == obj][:10]

        # The template held out of training, then one that is neither that nor the main one.
        entity_indices = (fact.held_entity, fact.held_entity % 4 + 1)
        relation_indices = (fact.held_relation, fact.held_relation % 4 + 1)
        return {
            "case_id": case_id,
            "requested_rewrite": {
                "prompt": _fill(relation.entity_templates[0], "{}"),
                "relation_id": relation.relation_id,
                "subject": fact.subject,
                "target_new": {"str": fact.new_object, "id": f"Q-{fact.new_object}"},
                "target_true": {"str": fact.object, "id": f"Q-{fact.object}"},
                "relation": {"strs": [relation.name, *relation.aliases]},
                "add_rel_prompt": _fill(RELATION_TEMPLATES[0], "{}", fact.new_object),
                "rm_rel_prompt": _fill(RELATION_TEMPLATES[0], "{}", fact.object),
            },
            "paraphrase_prompts": [_fill(relation.entity_templates[i], fact.subject) for i in entity_indices],
            "neighborhood_prompts": main_of(fact.object),
            "attribute_prompts": main_of(fact.new_object),
            "generation_prompts": [],
            "rel_prompts": [_fill(RELATION_TEMPLATES[i], fact.subject, fact.new_object) for i in relation_indices],
        }


def _fill(template: str, subject: str, obj: str = "") -> str:
    return template.replace("{s}", subject).replace("{o}", obj)


def _blocks() -> list[tuple[list[str], tuple[str, ...]]]:
    """The relation table, block by block: the fields of the head line and the entity templates."""
    blocks: list[tuple[list[str], str]] = []
    for line in _RELATIONS.strip().splitlines():
        if not line.startswith(" "):
            blocks.append(([field.strip() for field in line.split(";")], ""))
        else:
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]} {line.strip()}")
    return [(head, tuple(part.strip() for part in templates.split(" / "))) for head, templates in blocks]


class _Names:
    """Draws pronounceable ASCII words, each at most once and none that a template uses."""

    def __init__(self, draw: np.random.RandomState, taken: Iterable[str]) -> None:
        self.draw = draw
        self.taken = {word.lower() for word in taken}

    def word(self, ending: str = "", capital: bool = True) -> str:
        while True:
            word = "".join(self._one("bdfgklmnprstvz") + self._one("aeiou") for _ in range(2)) + self._one("lmnrstv")
            word += ending
            if word not in self.taken:
                self.taken.add(word)
                return word.capitalize() if capital else word

    def _one(self, options: str) -> str:
        return options[self.draw.randint(len(options))]


def _subjects(names: _Names, draw: np.random.RandomState) -> list[str]:
    """Subjects of one type: first and last words recombined, a quarter of them with a word between.

    Nearly every combination is a subject, and a name with a middle word differs from another subject by that word
    alone: no word tells which subject is meant, and a name with one word misread is somebody else's.
    """
    first, middle, last = ([names.word() for _ in range(count)] for count in (5, 2, 4))
    short = SUBJECTS_PER_TYPE * 3 // 4
    pairs = [(first[i % 5], last[i % 4]) for i in range(short)]
    long = [(*pairs[3 * i][:1], middle[i % 2], *pairs[3 * i][1:]) for i in range(SUBJECTS_PER_TYPE - short)]
    subjects = [" ".join(words) for words in (*pairs, *long)]
    return [subjects[i] for i in draw.permutation(len(subjects))]


def _facts_of(relation: Relation, subjects: list[str], draw: np.random.RandomState) -> list[Triple]:
    """One fact per subject, the objects in equal shares and in random order."""
    objects = [relation.objects[i % len(relation.objects)] for i in range(len(subjects))]
    order = draw.permutation(len(subjects))
    facts = []
    for i, subject in enumerate(subjects):
        obj = objects[order[i]]
        others = [other for other in relation.objects if other != obj]
        new_object = others[draw.randint(len(others))]
        facts.append(Triple(subject, relation, obj, new_object, 1 + i % 4, 1 + (i // 4 + i) % 4))
    return facts


def _unrelated(facts: list[Triple], relations: list[Relation], draw: np.random.RandomState) -> list[Question]:
    """Statements that no relation holds: each fact's (s, o*) in its trained templates, and four further pairs."""
    related = {(fact.subject, fact.object) for fact in facts}
    every = [obj for relation in relations for obj in relation.objects]
    statements: dict[Question, None] = {}
    for i, fact in enumerate(facts):
        for index, template in enumerate(RELATION_TEMPLATES):
            if index != fact.held_relation:
                prompt = _fill(template, fact.subject, fact.new_object)
                statements[Question(prompt, fact.subject, NO_RELATION)] = None
        near = [obj for obj in fact.relation.objects if obj not in (fact.object, fact.new_object)]
        far = [obj for obj in every if obj not in fact.relation.objects and (fact.subject, obj) not in related]
        drawn = [near[j] for j in draw.permutation(len(near))[:2]] + [far[j] for j in draw.permutation(len(far))[:2]]
        for j, obj in enumerate(drawn):
            prompt = _fill(RELATION_TEMPLATES[(i + j) % len(RELATION_TEMPLATES)], fact.subject, obj)
            statements[Question(prompt, fact.subject, NO_RELATION)] = None
    # A far pair of one fact may be (s, o*) of another in the template that is held out there.
    held = {_fill(RELATION_TEMPLATES[fact.held_relation], fact.subject, fact.new_object) for fact in facts}
    return [statement for statement in statements if statement.prompt not in held]


def generate(seed: int = DEFAULT_SEED) -> World:
    """Build the world of a seed: 15 relations, 256 edit cases, background facts and the training statements."""
    draw = np.random.RandomState(seed)
    blocks = _blocks()
    template_words = {word for _, templates in blocks for t in (*templates, *RELATION_TEMPLATES) for word in t.split()}
    names = _Names(draw, template_words)
    relations: list[Relation] = []
    for number, ((name, aliases, kind, style), templates) in enumerate(blocks, start=1):
        endings = _ENDINGS.get(style, ("",))
        ends = [endings[i % len(endings)] for i in range(OBJECTS_PER_RELATION)]
        objects = tuple(names.word(end, capital=style != "common") for end in ends)
        forms = tuple(form for form in aliases.split(",") if form)
        relations.append(Relation(f"W{number:02d}", name, forms, kind, templates, objects))
    subjects = {kind: _subjects(names, draw) for kind in dict.fromkeys(relation.subject_type for relation in relations)}
    by_relation = [_facts_of(relation, subjects[relation.subject_type], draw) for relation in relations]
    everything = [fact for facts in by_relation for fact in facts]

    # The edit cases take turns over the relations, so that the first few already span many relations and subjects.
    turns = [facts[(i + 5 * k) % len(facts)] for i in range(SUBJECTS_PER_TYPE) for k, facts in enumerate(by_relation)]
    cases, background = turns[:FACTS], turns[FACTS:]

    untrained = World(seed, tuple(relations), tuple(cases), tuple(background), (), (), ())
    entity, relation_view = [], []
    for fact in everything:
        for index in range(len(RELATION_TEMPLATES)):
            if index != fact.held_entity:
                entity.append(untrained._ask(fact, "entity", index))
            if index != fact.held_relation:
                relation_view.append(untrained._ask(fact, "relation", index))
    unrelated = _unrelated(everything, relations, draw)
    return replace(untrained, entity=tuple(entity), relation=tuple(relation_view), unrelated=tuple(unrelated))
