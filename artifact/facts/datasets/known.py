"""The known facts: statements to trace, and edit cases from them alone, for machines where CounterFact cannot be had.

An edit case adds to a known fact a new object o*, rephrasings and neighbours, all from the same file:

- o* is another object of the relation in the file, drawn by the case's own seed;
- the rewrite prompt is the fact's own, with "{}" for the subject;
- rephrasings are up to two other templates of the relation in the file, the most frequent first;
- neighbours are prompts of other subjects with the same relation and the same o_c, up to ten, drawn likewise;
- the relation perspective is the reconstruction's (templates.py).

A known fact's prompt is a template and the text that GPT-2 XL generated before the object ("... was written in the
early 1980s, when the" -> Italian). Where that text is long or more than plain words, the prompt no longer asks for the
relation: such a record is left out. The template itself does (CounterFact's rewrite prompts are such templates), so it
serves as a rephrasing. The words before o_c must also suit o*: after an article or "city of", objects are drawn that
the file has there, too. Nothing depends on the order of the records.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from artifact.errors import FactError
from artifact.facts.dataset import TEMPLATES, Data, DataSet, RelationSource, read_records
from artifact.facts.fact import Fact, Statement, fill
from artifact.facts.records import is_counterfact, parse_statements
from artifact.facts.templates import with_relation

STATEMENTS = 1_209
"""Statements of the published file, which the paper's plans trace."""
OUR_READING = (
    "deviation: the authors' rel_known_1000.json is not there, so relation traces corrupt all of the prompt but its "
    "subject, with the noise of the subjects' embeddings"
)
PARAPHRASES = 2
NEIGHBOURS = 10
"""As many prompts as a record of CounterFact has at most."""
_LONGEST = 3
_PLAIN = re.compile(r"[a-z, ]*")
_LINKS = ("", ",", " of", " in")
_ENDINGS = (" the", " a", " an", " city of")


def known(path: Path | None, relation_source: RelationSource = "templates", by_id: bool = False) -> Data:
    """The known facts: statements to trace, and edit cases built from them, with relation prompts by rule.

    A statement counts only where the model's greedy answer begins as the attribute does, which the run itself checks.
    Raises FactError when the file is absent or no file of known facts.
    """
    if path is None or not os.path.exists(path):
        raise FactError(f"the known facts are not there ({path or 'no path given'}); run `kloc fetch known`")
    raw, sha256 = read_records(path)
    if is_counterfact(raw):
        raise FactError(f"{path}: holds CounterFact-style records, not known facts; give --facts {path}")
    return known_data(path, raw, sha256, "known facts", True, by_id)


def known_data(path: Path, raw: object, sha256: str, source: str, by_rule: bool, by_id: bool) -> Data:
    """Statements and edit cases of known facts (decoded); without relation prompts `by_rule` the entity's alone."""
    statements = parse_statements(raw, str(path))
    if by_id:
        statements = sorted(statements, key=lambda statement: statement.case_id)
    built = edit_cases(statements, str(path), by_rule)
    left_out = [f"{count} left out ({why})" for why, count in built.left_out.items()]
    unphrased = sum(not fact.paraphrases for fact in built.facts)
    note = "; ".join(
        [
            f"{len(built.facts)} edit cases from {len(statements)} known facts",
            *left_out,
            f"{unphrased} have no rephrasing, {sum(not fact.neighbourhood for fact in built.facts)} no neighbour",
            "not CounterFact",
        ]
    )
    if built.facts:
        source += ", edit cases built from them"
        source += f", {TEMPLATES}" if by_rule else ""
    return Data(built.facts, statements, source, sha256, note, reconstructed=by_rule and bool(built.facts))


class NoRelationWords(FactError):
    """The file of relation traces is the plain known facts under its name."""


def with_relation_words(data: Data, path: Path) -> tuple[Data, list[str]]:
    """The data's statements with the words that the authors' file of relation traces names, and all words of that file.

    A record belongs to the statement of its known_id with the same prompt, one without an id to the statement with its
    prompt; its field `subject` holds the words as they are. The words are those of every record: their embeddings give
    the noise. Raises FactError when the file holds anything else, NoRelationWords where it names subjects.
    """
    rows, sha256 = read_records(path)
    fields = ("subject", "prompt")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(field), str) for field in fields) for row in rows
    ):
        raise FactError(f"{path}: expected records with subject and prompt; delete it and run `kloc fetch relation`")
    rows = [row for row in rows if row["subject"].strip()]
    subjects = {one.prompt: one.subject for one in data.statements}
    if rows and all(row["subject"] == subjects.get(row["prompt"]) for row in rows):
        raise NoRelationWords(
            f"{path.name} holds each statement's subject, as the plain known facts do, and no relation's words"
        )
    words = {(str(row.get("known_id", "")), row["prompt"]): row["subject"] for row in rows}
    statements = [
        replace(one, relation_words=words.get((str(one.case_id), one.prompt)) or words.get(("", one.prompt)))
        for one in data.statements
    ]
    bare = sum(one.relation_words is None for one in statements)
    note = f"{data.note}; relation traces corrupt the words of {path.name} (sha256 {sha256[:12]})"
    if bare:
        note += f", and leave out the {bare} statements that it does not hold"
    return replace(data, statements=statements, note=note), [row["subject"] for row in rows]


class Built(NamedTuple):
    """The edit cases in the order of their statements, and how many records were left out for which reason."""

    facts: list[Fact]
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Known:
    """A statement taken apart: `wording` is its prompt with "{}" for the subject, `tail` what follows the template."""

    statement: Statement
    relation_id: str
    object: str
    wording: str
    template: str
    tail: str

    @property
    def subject(self) -> str:
        return self.statement.subject

    @property
    def asks(self) -> bool:
        """Whether the prompt still asks for the relation: few and plain words after the template."""
        return len(self.tail.split()) <= _LONGEST and _PLAIN.fullmatch(self.tail) is not None


def edit_cases(statements: Sequence[Statement], source: str, relation_view: bool = True) -> Built:
    """Edit cases from known facts, the case id being the known id; with `relation_view` both perspectives, else the
    entity's.

    A record is left out, and counted, that names no relation or object, whose prompt runs on, or whose relation has no
    other object to write. FactError names `source` and the case where the relation has no written name (relations.py).
    """
    left_out: Counter[str] = Counter()
    relations: defaultdict[str, list[_Known]] = defaultdict(list)
    for statement in statements:
        if statement.relation_id is None or statement.answer is None:
            left_out["no relation_id or attribute"] += 1
        else:
            relations[statement.relation_id].append(_apart(statement, statement.relation_id, statement.answer))
    facts = []
    for members in relations.values():
        wordings = _wordings(members)
        for known in members:
            if not known.asks:
                left_out["the prompt runs on after its template"] += 1
                continue
            new = _new_object(known, members)
            if new is None:
                left_out["the relation has no other object that suits the prompt"] += 1
                continue
            case = _case(known, new, members, wordings)
            try:
                facts.append(with_relation(case) if relation_view else case)
            except FactError as error:
                raise FactError(f"{source}: {error}") from None
    place = {statement.case_id: number for number, statement in enumerate(statements)}
    return Built(sorted(facts, key=lambda fact: place[fact.case_id]), dict(sorted(left_out.items())))


def _apart(statement: Statement, relation_id: str, obj: str) -> _Known:
    wording = statement.prompt.replace(statement.subject, "{}", 1)
    template = wording if statement.template is None else statement.template
    tail = statement.prompt[len(fill(template, statement.subject)) :]
    return _Known(statement, relation_id, obj, wording, template, tail)


def _case(known: _Known, new: str, members: Sequence[_Known], wordings: dict[str, str]) -> Fact:
    """The record's entity perspective."""
    suitable = [
        wording
        for template, wording in wordings.items()
        if template != known.template and _ending(wording) in ("", _ending(known.wording))
    ]
    neighbours = {
        other.statement.prompt
        for other in members
        if other.asks and other.object == known.object and other.subject != known.subject
    }
    case_id = known.statement.case_id
    return Fact(
        case_id=case_id,
        subject=known.subject,
        relation_id=known.relation_id,
        template=known.wording,
        object_true=known.object,
        object_new=new,
        paraphrases=tuple(fill(wording, known.subject) for wording in suitable[:PARAPHRASES]),
        neighbourhood=tuple(_drawn(neighbours, f"neighbours/{case_id}")[:NEIGHBOURS]),
        relation=None,
        add_template=None,
        removal_template=None,
        relation_paraphrases=(),
    )


def _wordings(members: Iterable[_Known]) -> dict[str, str]:
    """For each template of a relation the wording that an object can follow, the most frequent template first.

    That is the template, with the first of _LINKS that the file has after it ("... is located in the continent" of).
    """
    tails: defaultdict[str, list[str]] = defaultdict(list)
    for known in members:
        tails[known.template].append(known.tail)
    return {
        template: template + next((link for link in _LINKS if link in tails[template]), "")
        for template in sorted(tails, key=lambda template: (-len(tails[template]), template))
    }


def _new_object(known: _Known, members: Sequence[_Known]) -> str | None:
    """o*: another object of the relation that the file has after the same ending, drawn by the case's own seed.

    No object that is true of the subject, and none that its prompt names.
    """
    ending, prompt = _ending(known.wording), known.statement.prompt.casefold()
    true = {other.object.casefold() for other in members if other.subject == known.subject}
    others = {
        other.object
        for other in members
        if other.asks
        and (not ending or _ending(other.wording) == ending)
        and other.object.casefold() not in true
        and other.object.casefold() not in prompt
    }
    return next(iter(_drawn(others, f"new object/{known.statement.case_id}")), None)


def _ending(wording: str) -> str:
    """The article or "city of" at the end of a prompt, which not every object can follow; empty without one."""
    return next((ending for ending in _ENDINGS if wording.endswith(ending)), "")


def _drawn(texts: Iterable[str], seed: str) -> list[str]:
    """`texts` in a random order that depends on `seed` and each text alone."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"known facts/{seed}/{text}".encode()).digest())


DATASET = DataSet(
    name="known",
    load=known,
    files={"authors": "known", "templates": "known"},
    relation_words="rel_known",
    own_reading=OUR_READING,
    selected=True,
    cases=STATEMENTS,
)
