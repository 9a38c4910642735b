"""A fact (s, r, o), its two views, and the statement that tracing asks. How they are read from files: records.py."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from artifact.errors import FactError

Perspective = Literal["entity", "relation"]
PERSPECTIVES: tuple[Perspective, ...] = ("entity", "relation")
NO_RELATION = "None"
"""The foil of the relation perspective: the literal word that the paper's evaluation compares the relation with."""


def other_perspective(perspective: Perspective) -> Perspective:
    """The one that is not this one."""
    return "relation" if perspective == "entity" else "entity"


class Question(NamedTuple):
    """A complete prompt about another fact, and its true answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class View:
    """One perspective of a fact: how it is asked, what an edit writes, and the prompts that judge the edit.

    `template` keeps one "{}" for the subject. `target` is what an edit writes (o* or r), `foil` what it is compared
    with (o_c or the word "None"), `harder_foil` a second one (the relation perspective's other relation). `removal` is
    the relation perspective's second prompt, whose relation the edit takes away. `reliability`, `generality`,
    `specificity` (other subjects) and `other_relations` (of the same subject) are complete prompts; `answers` are those
    of the prompts whose true answer is not the foil.
    """

    perspective: Perspective
    subject: str
    template: str
    target: str
    foil: str
    removal: str | None
    reliability: tuple[str, ...]
    generality: tuple[str, ...]
    specificity: tuple[str, ...]
    harder_foil: str | None = None
    other_relations: tuple[str, ...] = ()
    answers: tuple[Question, ...] = ()

    def truth(self, prompt: str) -> str:
        """What is true of a prompt about another fact: its own answer, or the foil, which neighbours share."""
        return dict(self.answers).get(prompt, self.foil)


@dataclass(frozen=True)
class Fact:
    """One record: subject s, true object o_c, new object o*, and the prompts of both perspectives.

    `another_relation` is a relation that the same kind of subject has, drawn by the case's own seed (relations.py).
    `neighbourhood` are prompts about other subjects with the same o_c; `other_subjects` (same relation) and
    `other_relations` (same subject) carry their own answers.
    """

    case_id: int
    subject: str
    relation_id: str
    template: str
    object_true: str
    object_new: str
    paraphrases: tuple[str, ...]
    neighbourhood: tuple[str, ...]
    relation: str | None
    add_template: str | None
    removal_template: str | None
    relation_paraphrases: tuple[str, ...]
    another_relation: str | None = None
    other_subjects: tuple[Question, ...] = ()
    other_relations: tuple[Question, ...] = ()

    @property
    def prompt(self) -> str:
        """The rewrite prompt with the subject in its place."""
        return fill(self.template, self.subject)

    @property
    def statement(self) -> "Statement":
        """The fact as tracing asks it: the rewrite prompt, expected to be answered with o_c."""
        return Statement(
            self.case_id, self.prompt, self.subject, self.template, self.object_true, self.relation_id or None
        )

    def statement_of(self, perspective: Perspective) -> "Statement | None":
        """The fact as a prompt that the unedited model may answer; None where the relation's fields are missing.

        Entity: the rewrite prompt, answered with o_c. Relation: the prompt that names s and o_c ("rm"), answered with
        the relation.
        """
        if perspective == "entity":
            return self.statement
        if self.relation is None or self.removal_template is None:
            return None
        prompt = fill(self.removal_template, self.subject)
        relation_id = self.relation_id or None
        return Statement(self.case_id, prompt, self.subject, self.removal_template, self.relation, relation_id)

    def view(self, perspective: Perspective) -> View:
        """The fact as `perspective` sees it; raises FactError when the relation fields are missing."""
        if perspective == "entity":
            return View(
                "entity",
                self.subject,
                self.template,
                target=self.object_new,
                foil=self.object_true,
                removal=None,
                reliability=(self.prompt,),
                generality=self.paraphrases,
                specificity=(*self.neighbourhood, *(one.prompt for one in self.other_subjects)),
                other_relations=tuple(one.prompt for one in self.other_relations),
                answers=(*self.other_subjects, *self.other_relations),
            )
        if self.relation is None or self.add_template is None or self.removal_template is None:
            raise FactError(
                f"case {self.case_id}: the relation perspective needs requested_rewrite.relation.strs, add_rel_prompt "
                "and rm_rel_prompt, and this record has none; use a file with the relation fields"
            )
        return View(
            "relation",
            self.subject,
            self.add_template,
            target=self.relation,
            foil=NO_RELATION,
            removal=self.removal_template,
            reliability=(fill(self.add_template, self.subject),),
            generality=self.relation_paraphrases,
            specificity=(),
            harder_foil=self.another_relation,
        )

    def views(self) -> tuple[View, ...]:
        """The views that this record carries: the entity's, and the relation's where its fields are there."""
        return tuple(self.view(p) for p in PERSPECTIVES if p == "entity" or self.relation is not None)


@dataclass(frozen=True)
class Statement:
    """One prompt to trace: `subject` occurs in `prompt`; `template` is the prompt's wording with "{}" for the subject.

    `answer` is the expected object where the source gives one. `relation_words` are the words that a relation trace
    corrupts where a source names them (the authors' file), else None: all but the subject.
    """

    case_id: int
    prompt: str
    subject: str
    template: str | None = None
    answer: str | None = None
    relation_id: str | None = None
    relation_words: str | None = None


def fill(template: str, subject: str) -> str:
    """`template` with its one "{}" replaced by `subject`; other braces stay as they are."""
    return template.replace("{}", subject, 1)
