"""LRE: the 26 factual relations of evandez/relations as edit cases of both perspectives, and statements to trace.

A file is one relation: templates, and pairs of a subject and its object. An edit case is built from them alone:

- the rewrite prompt is the relation's first template for asking without examples (prompt_templates_zs) that is no
  question; the next two templates are the rephrasings;
- o* is another object of the relation, none that is true of the subject;
- specificity asks the same relation of other subjects, up to five, each with its own object;
- "other relations" asks the subject's other facts, up to five, each with its own object;
- the relation perspective is the reconstruction's (templates.py), with the names of relations.py.

Facts are taken from the relations in turn, so that the first hundred are of all of them. Every choice depends on a case
and its file alone. A statement counts only where the model's greedy answer begins as the object does, which the run
itself checks.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from artifact.errors import FactError, PromptError
from artifact.facts.dataset import TEMPLATES, Data, DataSet, RelationSource, data_of, read_records
from artifact.facts.fact import Fact, fill
from artifact.facts.records import TEXT_LIMIT, parse_facts
from artifact.facts.relations import table_of
from artifact.facts.subject import subject_start
from artifact.facts.templates import relation_prompts
from artifact.sources.catalogue import LRE_COMMIT, PLAIN_SOURCES
from artifact.terminal import short

_T = TypeVar("_T")
PARAPHRASES = 2
OTHERS = 5
"""Most prompts of either specificity."""
_FIRST_ID, _IDS = 10_000, 1_000
"""Case ids: 10,000 and 1,000 a file, in the files' order, and the pair's place: none is a known fact's."""


class _Pair(msgspec.Struct):
    subject: str
    object: str


class _File(msgspec.Struct):
    name: str
    prompt_templates: list[str]
    samples: list[_Pair]
    prompt_templates_zs: list[str] = []


@dataclass(frozen=True)
class Relation:
    """One relation: its id (the file's stem), its templates, best first, and its pairs by place."""

    relation_id: str
    templates: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    first_id: int
    objects: Mapping[str, set[str]] = field(default_factory=dict)
    """What is true of each subject, in lower case."""


@dataclass
class Cases:
    """CounterFact-style records of relations, in turn, and why pairs were left out, by their case id."""

    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)


def lre(path: Path | None, relation_source: RelationSource = "templates", by_id: bool = False) -> Data:
    """The relations of a folder as `kloc fetch lre` leaves it; raises FactError for a file that is not there, not of
    the pinned commit, or without a template.
    """
    relations, digest = [], hashlib.sha256()
    for number, file in enumerate(PLAIN_SOURCES["lre"].files):
        if path is None or not (path / file.name).is_file():
            raise FactError(f"LRE is not there ({path or 'no path given'}: no {file.name}); run `kloc fetch lre`")
        raw, sha256 = read_records(path / file.name)
        if sha256 != file.sha256:
            raise FactError(
                f"{path / file.name}: is not the file of commit {LRE_COMMIT[:7]} (sha256 {sha256[:12]}, expected "
                f"{str(file.sha256)[:12]}); run `kloc fetch lre` to fetch it again, or convert it with `kloc facts "
                "convert --from lre`"
            )
        digest.update(sha256.encode())
        relations.append(parse_relation(raw, str(path / file.name), Path(file.name).stem, _FIRST_ID + _IDS * number))
    cases = cases_of(relations)
    facts: Sequence[Fact] = parse_facts(cases.records, "LRE")
    if by_id:
        facts = sorted(facts, key=lambda fact: fact.case_id)
    reasons = Counter(_plain(reason) for reason in cases.left_out.values())
    notes = [
        f"{len(facts)} edit cases from {sum(len(one.pairs) for one in relations)} pairs of {len(relations)} relations",
        *(f"{count} left out ({why})" for why, count in sorted(reasons.items())),
        f"{sum(not fact.other_relations for fact in facts)} have no other relation",
        "not CounterFact",
    ]
    source = f"LRE at {LRE_COMMIT[:7]}, edit cases built from it, {TEMPLATES}"
    return data_of(facts, source, digest.hexdigest(), "; ".join(notes), reconstructed=True)


def parse_relation(raw: object, source: str, relation_id: str, first_id: int) -> Relation:
    """One decoded file, its case ids from `first_id` on. FactError names `source` and the fault."""
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise FactError(f"{source}: {error}; expected a relation as LRE has it: name, templates, samples") from None
    templates = [text for text in (*file.prompt_templates_zs, *file.prompt_templates) if text.count("{}") == 1]
    usable = [text for text in dict.fromkeys(templates) if text.strip() == text and len(text) <= TEXT_LIMIT]
    if not usable:
        raise FactError(f"{source}: no template of {short(file.name)!r} holds {{}} once for the subject; add one")
    pairs = tuple((pair.subject.strip(), pair.object.strip()) for pair in file.samples)
    objects: defaultdict[str, set[str]] = defaultdict(set)
    for subject, obj in pairs:
        objects[subject].add(obj.casefold())
    usable.sort(key=lambda text: "?" in text)
    return Relation(relation_id, tuple(usable), pairs, first_id, dict(objects))


def cases_of(relations: Sequence[Relation]) -> Cases:
    """Records of all pairs, the relations in turn. A pair is left out, with its reason, whose subject comes twice in
    the relation or in its prompt, and whose relation has no other object to write.
    """
    of_subject: defaultdict[str, list[tuple[Relation, str]]] = defaultdict(list)
    for relation in relations:
        for subject, obj in dict(reversed(relation.pairs)).items():
            if subject and obj:
                of_subject[subject].append((relation, obj))
    cases = Cases()
    rows = [list(_records(relation, of_subject, cases.left_out)) for relation in relations]
    cases.records = [record for turn in zip_longest(*rows) for record in turn if record is not None]
    return cases


def _records(
    relation: Relation,
    of_subject: Mapping[str, Sequence[tuple[Relation, str]]],
    left_out: dict[int, str],
) -> Iterator[dict[str, Any]]:
    """The relation's records in an order of their own, whose beginning is as mixed as the whole."""
    whole = [pair for pair in relation.pairs if all(pair)]
    ring = _Ring(dict.fromkeys(obj for _, obj in whole))
    others = _Ring(dict(reversed(whole)).items())  # of a subject that comes twice, its first pair
    first = {subject: place for place, (subject, _) in reversed(list(enumerate(relation.pairs)))}
    for place in sorted(range(len(relation.pairs)), key=lambda place: _digest(f"{relation.relation_id}/{place}")):
        subject, obj = relation.pairs[place]
        try:
            if not (subject and obj):
                raise FactError("the subject or the object is blank")
            if first[subject] != place:
                raise FactError("the subject stands in an earlier pair of its relation, too")
            subject_start(fill(relation.templates[0], subject), subject)
            prompts = _prompts(relation, subject)
            new = next((one for one in ring.after(f"new/{subject}") if _can_be_written(relation, subject, one)), None)
            if new is None:
                raise FactError("the relation has no other object that suits the prompt")
            yield _record(relation, place, (subject, obj, new), prompts, others, of_subject[subject])
        except (FactError, PromptError) as error:
            left_out[relation.first_id + place] = str(error)


def _can_be_written(relation: Relation, subject: str, obj: str) -> bool:
    """Whether an object is not true of the subject, and not named in the prompt."""
    asked = fill(relation.templates[0], subject).casefold()
    return obj.casefold() not in relation.objects[subject] and obj.casefold() not in asked


def _prompts(relation: Relation, subject: str) -> list[str]:
    """The subject's rephrasings."""
    return [fill(template, subject) for template in relation.templates[1 : 1 + PARAPHRASES]]


def _record(
    relation: Relation,
    place: int,
    triple: tuple[str, str, str],
    paraphrases: list[str],
    others: "_Ring[tuple[str, str]]",
    own: Sequence[tuple[Relation, str]],
) -> dict[str, Any]:
    subject, obj, new = triple
    rewrite: dict[str, Any] = {
        "prompt": relation.templates[0],
        "relation_id": relation.relation_id,
        "subject": subject,
        "target_new": {"str": new},
        "target_true": {"str": obj},
    }
    record: dict[str, Any] = {
        "case_id": relation.first_id + place,
        "requested_rewrite": rewrite,
        "paraphrase_prompts": paraphrases,
        "other_subject_prompts": [
            {"prompt": fill(relation.templates[0], other), "answer": answer}
            for other, answer in others.first(
                f"others/{subject}",
                lambda pair: pair[0] != subject and new.casefold() not in relation.objects[pair[0]],
            )
        ],
        "other_relation_prompts": [
            {"prompt": fill(other.templates[0], subject), "answer": answer}
            for other, answer in own
            if other is not relation and new.casefold() not in other.objects[subject]
        ][:OTHERS],
    }
    if table_of(relation.relation_id) is not None:
        made = relation_prompts(relation.relation_id, subject, new, obj)
        rewrite |= {"relation": {"strs": list(made.forms)}, "add_rel_prompt": made.add, "rm_rel_prompt": made.removal}
        record["rel_prompts"] = list(made.rephrasings)
    return record


class _Ring(Generic[_T]):
    """Items in a fixed random order, read around from a place that a seed names: one draw costs one hash."""

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = sorted(items, key=lambda item: _digest(str(item)))

    def after(self, seed: str) -> Iterator[_T]:
        start = int.from_bytes(_digest(seed)[:8]) % len(self._items)
        return chain(islice(self._items, start, None), islice(self._items, start))

    def first(self, seed: str, suits: Callable[[_T], bool]) -> list[_T]:
        """The first OTHERS items that suit."""
        return list(islice(filter(suits, self.after(seed)), OTHERS))


def _digest(text: str) -> bytes:
    return hashlib.sha256(f"LRE/{text}".encode()).digest()


def _plain(reason: str) -> str:
    """A reason without what is quoted in it."""
    return "the subject does not stand once and as a word in its prompt" if "'" in reason else reason


DATASET = DataSet(
    name="lre",
    load=lre,
    files={"authors": "lre", "templates": "lre"},
    answered=True,
    by_relation=True,
)
