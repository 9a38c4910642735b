"""A fact (s, r, o) and its two views, parsed strictly from CounterFact-style records and from the known facts.

Covers the record layout of CounterFact with the relation fields of the authors' data (requested_rewrite.relation.strs,
add_rel_prompt, rm_rel_prompt, rel_prompts), and that of the known facts used for tracing. It does not fetch anything
and knows no tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from artifact.errors import FactError

_T = TypeVar("_T")
Perspective = Literal["entity", "relation"]
PERSPECTIVES: tuple[Perspective, ...] = ("entity", "relation")
NO_RELATION = "None"
"""The foil of the relation view: the literal word that the paper's evaluation compares the relation with."""


@dataclass(frozen=True)
class View:
    """One perspective of a fact: how it is asked, what an edit writes, and the prompts that judge the edit.

    `template` keeps one "{}" for the subject. `target` is what an edit writes (o* or r), `foil` what it is compared
    with (o_c or the word "None"). `removal` is the relation view's second prompt, whose relation the edit takes away.
    `reliability`, `generality` and `specificity` are complete prompts.
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


@dataclass(frozen=True)
class Fact:
    """One record: subject s, true object o_c, new object o*, and the prompts of both views."""

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

    @property
    def prompt(self) -> str:
        """The rewrite prompt with the subject in its place."""
        return fill(self.template, self.subject)

    def view(self, perspective: Perspective) -> View:
        """The fact as `perspective` sees it; raises FactError when the record lacks the relation fields."""
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
                specificity=self.neighbourhood,
            )
        if self.relation is None or self.add_template is None or self.removal_template is None:
            raise FactError(
                f"case {self.case_id}: the relation view needs requested_rewrite.relation.strs, add_rel_prompt and "
                "rm_rel_prompt, and this record has none; use a file with the relation fields"
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
        )

    def views(self) -> tuple[View, ...]:
        """The views that this record carries: the entity view, and the relation view where its fields are there."""
        return tuple(self.view(p) for p in PERSPECTIVES if p == "entity" or self.relation is not None)


@dataclass(frozen=True)
class Statement:
    """One prompt to trace: `subject` occurs in `prompt`; `template` is the prompt's wording with "{}" for the subject.

    `answer` is the expected object where the source gives one.
    """

    case_id: int
    prompt: str
    subject: str
    template: str | None = None
    answer: str | None = None


def fill(template: str, subject: str) -> str:
    """`template` with its one "{}" replaced by `subject`; other braces stay as they are."""
    return template.replace("{}", subject, 1)


class _Text(msgspec.Struct):
    str: str


class _Relation(msgspec.Struct):
    strs: list[str]


class _Rewrite(msgspec.Struct):
    prompt: str
    subject: str
    target_new: _Text
    target_true: _Text
    relation_id: str = ""
    relation: _Relation | None = None
    add_rel_prompt: str | None = None
    rm_rel_prompt: str | None = None


class _Record(msgspec.Struct):
    requested_rewrite: _Rewrite
    case_id: int | None = None
    paraphrase_prompts: list[str] = []
    neighborhood_prompts: list[str] = []
    rel_prompts: list[str] = []


class _Known(msgspec.Struct):
    subject: str
    prompt: str
    known_id: int | None = None
    attribute: str | None = None
    template: str | None = None


def parse_facts(raw: object, source: str) -> list[Fact]:
    """Facts from one record or a list of records (decoded JSON).

    Raises FactError with record number, field and what was wrong; `source` names the file in the message.
    """
    rows = _rows(raw, source)
    facts = []
    for number, row in enumerate(rows):
        record = _convert(row, _Record, source, number)
        rewrite = record.requested_rewrite
        for name in ("prompt", "add_rel_prompt", "rm_rel_prompt"):
            text = getattr(rewrite, name)
            if text is not None and text.count("{}") != 1:
                raise FactError(
                    f"{source}: record {number}: requested_rewrite.{name} must hold exactly one {{}} for the subject, "
                    f"got {text!r}; correct the record"
                )
        for name, value in (
            ("subject", rewrite.subject),
            ("target_new.str", rewrite.target_new.str),
            ("target_true.str", rewrite.target_true.str),
        ):
            if not value.strip():
                raise FactError(f"{source}: record {number}: requested_rewrite.{name} is empty; give it a text")
        relation = rewrite.relation
        if relation is not None and not (relation.strs and relation.strs[0].strip()):
            raise FactError(f"{source}: record {number}: requested_rewrite.relation.strs is empty; name the relation")
        facts.append(
            Fact(
                case_id=number if record.case_id is None else record.case_id,
                subject=rewrite.subject,
                relation_id=rewrite.relation_id,
                template=rewrite.prompt,
                object_true=rewrite.target_true.str.strip(),
                object_new=rewrite.target_new.str.strip(),
                paraphrases=tuple(record.paraphrase_prompts),
                neighbourhood=tuple(record.neighborhood_prompts),
                relation=relation.strs[0].strip() if relation else None,
                add_template=rewrite.add_rel_prompt,
                removal_template=rewrite.rm_rel_prompt,
                relation_paraphrases=tuple(record.rel_prompts),
            )
        )
    return facts


def parse_statements(raw: object, source: str) -> list[Statement]:
    """Statements to trace, from known-facts records (subject, prompt, ...) or CounterFact-style ones.

    Raises FactError as `parse_facts` does, and when a subject does not occur in its prompt.
    """
    rows = _rows(raw, source)
    if rows and isinstance(rows[0], dict) and "requested_rewrite" in rows[0]:
        return [
            Statement(fact.case_id, fact.prompt, fact.subject, fact.template, fact.object_true)
            for fact in parse_facts(raw, source)
        ]
    statements = []
    for number, row in enumerate(rows):
        known = _convert(row, _Known, source, number)
        if not known.subject or known.subject not in known.prompt:
            raise FactError(
                f"{source}: record {number}: subject {known.subject!r} is not in its prompt {known.prompt!r}; "
                "correct the record"
            )
        case_id = number if known.known_id is None else known.known_id
        statements.append(Statement(case_id, known.prompt, known.subject, known.template, known.attribute))
    return statements


def read_json(path: Path | str) -> object:
    """Decoded JSON of `path`; FactError names the file when it is missing or no JSON."""
    path = Path(path)
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise FactError(f"{path}: cannot be read ({error.strerror or error}); give a readable JSON file") from None
    except msgspec.DecodeError as error:
        raise FactError(f"{path}: is no valid JSON ({error}); give a JSON file") from None


def read_facts(path: Path | str) -> list[Fact]:
    """`parse_facts` of a file."""
    return parse_facts(read_json(path), str(path))


def read_statements(path: Path | str) -> list[Statement]:
    """`parse_statements` of a file."""
    return parse_statements(read_json(path), str(path))


def _rows(raw: object, source: str) -> Sequence[object]:
    rows = raw if isinstance(raw, list) else [raw]
    if not rows:
        raise FactError(f"{source}: holds no record; expected one record or a list of records")
    return rows


def _convert(row: object, kind: type[_T], source: str, number: int) -> _T:
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise FactError(f"{source}: record {number}: {error}; correct the record") from None
