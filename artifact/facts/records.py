"""Facts parsed strictly from CounterFact-style records, and statements to trace from those or from known facts.

Covers the record layout of CounterFact with the relation fields of the authors' data (requested_rewrite.relation.strs,
add_rel_prompt, rm_rel_prompt, rel_prompts), and that of the known facts used for tracing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from artifact.errors import FactError, PromptError
from artifact.facts.checks import Checks
from artifact.facts.fact import NO_RELATION, Fact, Question, Statement
from artifact.facts.layouts import read_rows, refuse_other_layouts
from artifact.facts.relations import another_relation, kinds_among, table_of
from artifact.facts.subject import subject_start
from artifact.terminal import short

_T = TypeVar("_T")
TEXT_LIMIT = 10_000
"""Most characters of one text of a record; the longest of the published files has a few hundred."""
LIST_LIMIT = 1_000
"""Most prompts of one kind in a record."""
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]
_Texts = Annotated[list[_Text], msgspec.Meta(max_length=LIST_LIMIT)]
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Object(msgspec.Struct):
    str: _Text


class _Relation(msgspec.Struct):
    strs: _Texts


class _Rewrite(msgspec.Struct):
    prompt: _Text
    subject: _Text
    target_new: _Object
    target_true: _Object
    relation_id: _Text = ""
    relation: _Relation | None = None
    add_rel_prompt: _Text | None = None
    rm_rel_prompt: _Text | None = None


class _Question(msgspec.Struct):
    prompt: _Text
    answer: _Text


_Questions = Annotated[list[_Question], msgspec.Meta(max_length=LIST_LIMIT)]


class _FactRecord(msgspec.Struct):
    requested_rewrite: _Rewrite
    case_id: _Id | None = None
    paraphrase_prompts: _Texts = []
    neighborhood_prompts: _Texts = []
    rel_prompts: _Texts = []
    other_subject_prompts: _Questions = []
    other_relation_prompts: _Questions = []


class _KnownRecord(msgspec.Struct):
    subject: _Text
    prompt: _Text
    known_id: _Id | None = None
    attribute: _Text | None = None
    template: _Text | None = None
    relation_id: _Text | None = None


def parse_facts(raw: object, source: str) -> list[Fact]:
    """Facts from one record or a list of records (decoded JSON); fields that are not read may hold anything.

    Raises FactError with record number (from 0), field and what was wrong; `source` names the file in the message.
    """
    facts = [parse_fact(row, number, source) for number, row in enumerate(rows_of(raw, source))]
    refuse_repeats([fact.case_id for fact in facts], "case_id", source)
    return with_foils(facts)


def parse_statements(raw: object, source: str) -> list[Statement]:
    """Statements to trace, from known-facts records (subject, prompt, ...) or CounterFact-style ones.

    Raises FactError as `parse_facts` does, and where a known fact's subject does not occur exactly once in its prompt,
    or subject or template do not fit it (subject.py).
    """
    rows = rows_of(raw, source)
    if is_counterfact(raw):
        return [fact.statement for fact in parse_facts(raw, source)]
    statements = [parse_statement(row, number, source) for number, row in enumerate(rows)]
    refuse_repeats([statement.case_id for statement in statements], "known_id", source)
    return statements


def is_counterfact(raw: object) -> bool:
    """Whether records are CounterFact-style, not known facts: one of them is, so that a damaged one hides nothing."""
    rows = raw if isinstance(raw, list) else [raw]
    return any(isinstance(row, dict) and "requested_rewrite" in row for row in rows)


def read_facts(path: Path | str) -> list[Fact]:
    """The facts of a file of CounterFact-style records (layouts.py); FactError as of parse_facts."""
    return parse_facts(read_rows(path), str(path))


def read_statements(path: Path | str) -> list[Statement]:
    """`parse_statements` of a file."""
    return parse_statements(read_rows(path), str(path))


def parse_fact(row: object, number: int, source: str) -> Fact:
    """One record, the `number`-th of `source`, without its harder foil (with_foils); FactError as in parse_facts."""
    record = _convert(row, _FactRecord, source, number)
    rewrite, relation = record.requested_rewrite, record.requested_rewrite.relation
    check = Checks(source, number)
    _check_record(record, check)
    check.end()
    return Fact(
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
        other_subjects=tuple(Question(one.prompt, one.answer.strip()) for one in record.other_subject_prompts),
        other_relations=tuple(Question(one.prompt, one.answer.strip()) for one in record.other_relation_prompts),
    )


def _check_record(record: _FactRecord, check: Checks) -> None:
    """Note the texts of a record that are not what they must be."""
    rewrite = record.requested_rewrite
    for name in ("prompt", "add_rel_prompt", "rm_rel_prompt"):
        if (text := getattr(rewrite, name)) is not None:
            check.template(f"requested_rewrite.{name}", text)
    new, true = rewrite.target_new.str, rewrite.target_true.str
    for name, text in (("subject", rewrite.subject), ("target_new.str", new), ("target_true.str", true)):
        check.filled(f"requested_rewrite.{name}", text)
    check.complete("requested_rewrite.subject", rewrite.subject)
    if rewrite.subject.strip() not in ("", rewrite.subject):
        check.refuse(f"requested_rewrite.subject {short(rewrite.subject)!r} has blanks at its ends; write it without")
    if new.strip() and new.strip() == true.strip():
        check.refuse(f"target_new.str and target_true.str are both {short(new.strip())!r}; name two different objects")
    for name in ("paraphrase_prompts", "neighborhood_prompts", "rel_prompts"):
        for at, text in enumerate(getattr(record, name)):
            check.filled(f"{name}[{at}]", text)
            check.complete(f"{name}[{at}]", text)
    for name in ("other_subject_prompts", "other_relation_prompts"):
        for at, question in enumerate(getattr(record, name)):
            check.filled(f"{name}[{at}].prompt", question.prompt)
            check.complete(f"{name}[{at}].prompt", question.prompt)
            check.filled(f"{name}[{at}].answer", question.answer)
            if question.answer.strip() == new.strip() != "":
                check.refuse(
                    f"{name}[{at}].answer is {short(new.strip())!r}, which the edit writes; leave the prompt out"
                )
    _check_relation(rewrite, check)


def _check_relation(rewrite: _Rewrite, check: Checks) -> None:
    """The relation's fields: all three or none, and a name other than the foil."""
    names = ("relation", "add_rel_prompt", "rm_rel_prompt")
    missing = [f"requested_rewrite.{name}" for name in names if getattr(rewrite, name) is None]
    if 0 < len(missing) < len(names):
        check.refuse(f"{' and '.join(missing)} missing beside the other relation fields; give all three or none")
    if (relation := rewrite.relation) is None:
        return
    if not (relation.strs and relation.strs[0].strip()):
        check.refuse("requested_rewrite.relation.strs is empty; name the relation")
    elif relation.strs[0].strip() == NO_RELATION:
        check.refuse(
            f"requested_rewrite.relation.strs is {NO_RELATION!r}, with which it is compared; name the relation"
        )


def parse_statement(row: object, number: int, source: str) -> Statement:
    """One known fact, the `number`-th of `source`; FactError as in parse_statements."""
    known = _convert(row, _KnownRecord, source, number)
    check = Checks(source, number)
    check.filled("subject", known.subject)
    check.complete("prompt", known.prompt)
    subject, prompt = short(known.subject), short(known.prompt)
    first = known.prompt.find(known.subject)
    if not check.faults:
        if first >= 0 and known.prompt.find(known.subject, first + 1) >= 0:
            # Whatever the template says: edit cases are built from the prompt alone (known.py).
            check.refuse(f"subject {subject!r} occurs more than once in its prompt {prompt!r}; write it with one")
        else:
            try:
                subject_start(known.prompt, known.subject, known.template)
            except PromptError as error:
                check.refuse(str(error))
    if known.attribute is not None:
        check.filled("attribute", known.attribute)
    check.end()
    return Statement(
        number if known.known_id is None else known.known_id,
        known.prompt,
        known.subject,
        known.template,
        known.attribute.strip() if known.attribute is not None else None,
        known.relation_id,
    )


def with_foils(facts: Sequence[Fact]) -> list[Fact]:
    """Each fact with the other relation it is compared with: from the table, or from the file's own relations."""
    named = [(f.relation_id, f.relation, f.subject) for f in facts if f.relation and not table_of(f.relation_id)]
    own = kinds_among(named)
    return [
        replace(
            fact,
            another_relation=another_relation(
                fact.case_id, fact.relation_id, fact.relation, table_of(fact.relation_id) or own
            ),
        )
        if fact.relation
        else fact
        for fact in facts
    ]


def rows_of(raw: object, source: str) -> Sequence[object]:
    """One record or a list of them as a list; FactError when there are none, or of another project's layout."""
    refuse_other_layouts(raw, source)
    rows = raw if isinstance(raw, list) else [raw]
    if not rows:
        raise FactError(f"{source}: holds no record; give one record or a list of records")
    return rows


def _convert(row: object, kind: type[_T], source: str, number: int) -> _T:
    try:
        return msgspec.convert(row, kind, strict=False)  # numbers may be written as text
    except msgspec.ValidationError as error:
        raise FactError(f"{source}: record {number}: {error}; correct the record") from None


def refuse_repeats(ids: Sequence[int], field: str, source: str) -> None:
    """Raise FactError, with both records, when two of them have one id."""
    for number, earlier in repeats(ids).items():
        raise FactError(f"{source}: records {earlier} and {number} both have {field} {ids[number]}; give each its own")


def repeats(ids: Sequence[int]) -> dict[int, int]:
    """The places of ids that occur before, each with the place of the first."""
    first: dict[int, int] = {}
    return {number: first[one] for number, one in enumerate(ids) if first.setdefault(one, number) != number}
