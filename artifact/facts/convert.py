"""Records of other projects' layouts as CounterFact-style ones: `kloc facts convert`.

Covers EasyEdit's CounterFact, KnowEdit and zsRE. They have prompts with the subject in place, one rephrasing, and
prompts about other facts. One of these serves as a neighbour where its answer is the fact's true object, since
specificity compares the true object with the new one; and as another relation of the subject where it names the subject
and has an answer of its own. Others are counted. None of these layouts has relation prompts. LRE's files are relations,
of which datasets/lre.py makes records of both perspectives.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifact.errors import FactError, PromptError
from artifact.facts.datasets.lre import Relation, cases_of, parse_relation
from artifact.facts.layouts import LayoutName
from artifact.facts.records import parse_fact
from artifact.facts.subject import subject_start
from artifact.terminal import without_quotes

Other = tuple[object, object, bool]
"""A prompt about another fact, its answer, and whether it may ask another relation."""


def _easyedit_others(row: Mapping[str, Any]) -> Iterator[Other]:
    yield row.get("locality_prompt"), row.get("locality_ground_truth"), True


def _knowedit_others(row: Mapping[str, Any]) -> Iterator[Other]:
    groups = row.get("locality")
    for name, group in groups.items() if isinstance(groups, dict) else ():
        for one in group if isinstance(group, list) else ():
            if isinstance(one, dict):
                # Forgetfulness asks the fact's own relation for its other answers.
                yield one.get("prompt"), one.get("ground_truth"), name != "Forgetfulness"


def _zsre_others(row: Mapping[str, Any]) -> Iterator[Other]:
    yield row.get("loc"), row.get("loc_ans"), True


@dataclass(frozen=True)
class _Layout:
    """The fields of a record that hold its prompt, new and true object and rephrasing (the first that is there), and
    its prompts about other facts with their answers.
    """

    prompt: str
    new: str
    true: str
    rephrasing: tuple[str, ...]
    others: Callable[[Mapping[str, Any]], Iterable[Other]]


_FIELDS: dict[str, _Layout] = {
    "easyedit": _Layout("prompt", "target_new", "ground_truth", ("rephrase_prompt",), _easyedit_others),
    "knowedit": _Layout("prompt", "target_new", "ground_truth", ("rephrase", "rephrase_prompt"), _knowedit_others),
    "zsre": _Layout("src", "alt", "answers", ("rephrase",), _zsre_others),
}


@dataclass
class Converted:
    """CounterFact-style records; why others were left out, by their place in the file (from 0); and how many prompts
    about other facts are left out.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    unused: int = 0

    def reasons(self) -> Counter[str]:
        """How many records were left out for which reason, quoted texts aside."""
        return Counter(map(without_quotes, self.left_out.values()))


def convert(raw: object, layout: LayoutName, source: str) -> Converted:
    """The records of a decoded file of `layout`, without relation prompts; each keeps its case_id, or takes its place.

    A relation of LRE becomes records of its pairs, with relation prompts where it is one of LRE's own (relations.py);
    FactError for one without a template. Left out are records with a field missing, whose subject does not occur once
    and as a word in the prompt, with the case_id of an earlier one, and those that parse_fact refuses.
    """
    if layout == "lre":
        return _of_relations(raw, source)
    made, seen = Converted(), set[int]()
    for number, row in enumerate(raw if isinstance(raw, list) else [raw]):
        try:
            record, unused = _record(row, _FIELDS[layout])
            case_id = parse_fact(record, number, source).case_id
            if case_id in seen:
                raise FactError(f"case_id {case_id} is an earlier record's, too")
        except (FactError, PromptError) as error:
            made.left_out[number] = str(error).removeprefix(f"{source}: record {number}: ")
            continue
        seen.add(case_id)
        made.records.append(record | {"case_id": case_id})
        made.unused += unused
    return made


def _of_relations(raw: object, source: str) -> Converted:
    relations: list[Relation] = []
    for number, one in enumerate(raw if isinstance(raw, list) else [raw]):
        named = f"{source}: relation {number}" if isinstance(raw, list) else source
        first_id = relations[-1].first_id + len(relations[-1].pairs) if relations else 0
        name = one.get("name") if isinstance(raw, list) and isinstance(one, dict) else Path(source).stem
        relations.append(parse_relation(one, named, str(name).replace(" ", "_"), first_id))
    cases, made = cases_of(relations), Converted()
    made.left_out = dict(cases.left_out)
    for record in sorted(cases.records, key=lambda record: record["case_id"]):
        try:
            parse_fact(record, record["case_id"], source)
        except FactError as error:
            made.left_out[record["case_id"]] = str(error).removeprefix(f"{source}: record {record['case_id']}: ")
        else:
            made.records.append(record)
    made.left_out = dict(sorted(made.left_out.items()))
    return made


def _record(row: object, layout: _Layout) -> tuple[dict[str, Any], int]:
    """One record, and how many of its prompts about other facts are left out."""
    if not isinstance(row, dict):
        raise FactError("it is not an object")
    needed = ("subject", layout.prompt, layout.new, layout.true)
    subject, prompt, new, true = found = [_text(row.get(name)) for name in needed]
    if missing := [name for name, text in zip(needed, found, strict=True) if not text]:
        raise FactError(f"{' and '.join(missing)} missing or without a text")
    subject = subject.strip()
    start = subject_start(prompt, subject)
    others = [(_text(asked), _text(answer).strip(), relation) for asked, answer, relation in layout.others(row)]
    neighbours = [asked for asked, answer, _ in others if asked and answer == true.strip()]
    relations = [
        {"prompt": asked, "answer": answer}
        for asked, answer, relation in others
        if relation and _names(asked, subject) and answer not in ("", true.strip(), new.strip())
    ]
    rewrite: dict[str, Any] = {
        "prompt": f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}",
        "subject": subject,
        "target_new": {"str": new.strip()},
        "target_true": {"str": true.strip()},
    }
    if relation_id := _text(row.get("relation_id")):
        rewrite["relation_id"] = relation_id
    record = {
        "case_id": row.get("case_id"),
        "requested_rewrite": rewrite,
        "paraphrase_prompts": [text for name in layout.rephrasing if (text := _text(row.get(name)))][:1],
        "neighborhood_prompts": neighbours,
        **({"other_relation_prompts": relations} if relations else {}),
    }
    return record, sum(bool(asked) for asked, *_ in others) - len(neighbours) - len(relations)


def _names(text: str, subject: str) -> bool:
    """Whether the subject stands in a text as a word."""
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text) is not None


def _text(value: object) -> str:
    """A text, or the first of a list, or of a list in it; empty where there is none."""
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) and value.strip() else ""
