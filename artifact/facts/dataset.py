"""The data of a run: facts to edit, statements to trace, where both come from, and the hash of what was read.

Covers CounterFact with the authors' relation data or with the reconstruction by templates, the known facts, the user's
own file, and the two sets that come with the package. One source never stands in for another: where data is absent an
error says how to get it or what to ask for instead. It fetches nothing (fetch.py) and takes paths of files that are
there.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from artifact.errors import FactError
from artifact.facts.everyday import everyday_records
from artifact.facts.fact import Fact, Statement, is_counterfact, parse_facts, parse_statements
from artifact.facts.known import edit_cases
from artifact.facts.odd import SHARE, OddRecord, decode_records, parse_records
from artifact.facts.templates import with_relation
from artifact.reading import read_bytes
from artifact.sources.catalogue import WORLD

RelationSource = Literal["authors", "templates"]
PAPER_CASES = 7_500
"""The paper edits the first 7,500 records of CounterFact, as ROME's Table 4 (arXiv 2202.05262) does: the released
loader takes the first records of the file. CounterFact's stand in the order of their case_id."""
TEMPLATES = "relation prompts from templates"
"""What the source of reconstructed data says."""


@dataclass(frozen=True)
class Data:
    """Facts and statements in the order in which a run takes them, with their source, sha256 and a sentence about them.

    `sha256` is that of the file's bytes, or of the records' canonical JSON for what comes with the package.
    """

    facts: list[Fact]
    statements: list[Statement]
    source: str
    sha256: str
    note: str
    odd: tuple[OddRecord, ...] = ()
    """Records that cannot be used: failed cases of every unit that edits or scores."""
    cases: tuple[int, ...] = ()
    """All case ids in order, where some records are odd."""
    reconstructed: bool = False
    """Relation prompts of some facts were built by rule: published values are compared with a wide tolerance."""

    @property
    def case_ids(self) -> list[int]:
        """The cases of units that edit or score, odd ones in their place."""
        return list(self.cases) or [fact.case_id for fact in self.facts]


def counterfact(
    path: Path | None, relation_source: RelationSource, relation_path: Path | None = None, by_id: bool = False
) -> Data:
    """The paper's selection of CounterFact: the first PAPER_CASES records, or all of a smaller file.

    In the order of the file, as the released loader takes them, or `by_id`.

    `templates` takes the records of `path` and builds their relation prompts by rule. `authors` takes the records of
    `relation_path`, the authors' rel_counterfact.json, whole; where `path` is given, too, the note says how many of
    them ask for another fact than CounterFact does. Raises FactError where a file is absent or lacks the fields.
    """
    if relation_source == "authors":
        return _with_authors_relations(path, relation_path, by_id)
    if path is None or not os.path.exists(path):
        raise FactError(
            f"CounterFact is not there ({path or 'no path given'}); run `kloc fetch counterfact`, or give --facts known"
        )
    records, sha256 = _read(path)
    found, note = _selection(parse_records(records, str(path), every=True), by_id)
    try:
        found = [with_relation(one) if isinstance(one, Fact) else one for one in found]
    except FactError as error:
        raise FactError(f"{path}: {error}") from None
    note += f"; {TEMPLATES}, not the authors' relation data"
    return _data(found, f"CounterFact, {TEMPLATES}", sha256, note, reconstructed=True)


def known(path: Path, by_id: bool = False) -> Data:
    """The known facts: statements to trace, and edit cases built from them alone (known.py).

    A statement counts only where the model's greedy answer begins as the attribute does, which the run itself checks.
    Raises FactError when the file is absent or no file of known facts.
    """
    if not os.path.exists(path):
        raise FactError(f"the known facts are not there ({path}); run `kloc fetch known`")
    records, sha256 = _read(path)
    if is_counterfact(records):
        raise FactError(f"{path}: holds CounterFact-style records, not known facts; give --facts {path}")
    return _known(path, records, sha256, "known facts", "templates", by_id)


def with_relation_words(data: Data, path: Path) -> tuple[Data, list[str]]:
    """The data's statements with the words that the authors' file of relation traces names, and all words of that file.

    A record belongs to the statement of its known_id with the same prompt, one without an id to the statement with its
    prompt; its field `subject` holds the words as they are. The words are those of every record: their embeddings give
    the noise. Raises FactError when the file holds anything else.
    """
    rows, sha256 = _read(path)
    fields = ("subject", "prompt")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(field), str) for field in fields) for row in rows
    ):
        raise FactError(f"{path}: expected records with subject and prompt; delete it and run `kloc fetch relation`")
    rows = [row for row in rows if row["subject"].strip()]
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


def own(path: Path, relation_source: RelationSource = "authors", by_id: bool = False) -> Data:
    """The user's own file: CounterFact-style records, with relation fields or without, or known facts.

    Relation fields of the file are kept. Those that are missing are built by rule with `templates`, and otherwise the
    relation view is absent. Raises FactError for a relation without a written name (relations.py), or a bad record.
    """
    records, sha256 = _read(path)
    if not is_counterfact(records):
        return _known(path, records, sha256, "own known facts", relation_source, by_id)
    found = _ordered(parse_records(records, str(path)), by_id)
    facts = [one for one in found if isinstance(one, Fact)]
    bare = sum(fact.relation is None for fact in facts)
    source, note = "own facts", f"{len(facts)} records of {path.name}"
    if bare and relation_source == "templates":
        try:
            found = [with_relation(one) if isinstance(one, Fact) and one.relation is None else one for one in found]
        except FactError as error:
            raise FactError(f"{path}: {error}") from None
        source, note = f"{source}, {TEMPLATES}", f"{note}; relation prompts of {bare} built by rule"
    elif bare:
        note += f"; {bare} have no relation fields and so no relation view"
    return _data(found, source, sha256, note, reconstructed=bool(bare) and relation_source == "templates")


def world() -> Data:
    """The embedded world's facts."""
    records, _ = _read(WORLD / "facts.json")
    return _built_in(records, "embedded world", "made-up facts, true by construction")


def everyday() -> Data:
    """The built-in everyday facts (everyday.py)."""
    return _built_in(everyday_records(), "built-in everyday facts", "written for smoke runs; not CounterFact")


def data_for(model: str) -> Data:
    """The facts that a smoke run of `model` uses: the world's own, or the built-in everyday facts."""
    return world() if model == "world" else everyday()


def _with_authors_relations(path: Path | None, relation_path: Path | None, by_id: bool) -> Data:
    instead = "run `kloc fetch relation`, or give --relation-source templates"
    if relation_path is None or not os.path.exists(relation_path):
        raise FactError(f"the authors' relation data is not there ({relation_path or 'no path given'}); {instead}")
    records, sha256 = _read(relation_path)
    found, note = _selection(parse_records(records, str(relation_path), every=True), by_id)
    facts = [one for one in found if isinstance(one, Fact)]
    if facts and all(fact.relation is None and not fact.relation_paraphrases for fact in facts):
        raise FactError(
            f"{relation_path}: holds no relation fields: it is plain CounterFact under the name of the authors' data, "
            f"as their released loader saves it where the file is missing; delete it and {instead}"
        )
    bare = {fact.case_id: _bare_field(fact) for fact in facts if _bare_field(fact)}
    if len(bare) + len(found) - len(facts) > SHARE * len(found):
        case, field = next(iter(bare.items()), (0, ""))
        raise FactError(
            f"{relation_path}: case {case} has no {field}, as {len(bare)} of {len(found)} records; {instead}"
        )
    places = {one.case_id: number for number, one in enumerate(found)}
    for fact in facts:
        if fact.case_id in bare:
            reason = f"case {fact.case_id}: {bare[fact.case_id]} is missing or empty; give it a text"
            found[places[fact.case_id]] = OddRecord(fact.case_id, reason, fact.statement)
    facts = [one for one in found if isinstance(one, Fact)]
    if path is not None:
        plain = {fact.case_id: _asked(fact) for fact in parse_facts(_read(path)[0], str(path))}
        others = sum(plain.get(fact.case_id) != _asked(fact) for fact in facts)
        note += f"; {others} of them differ from CounterFact in prompt, subject or objects"
    return _data(found, "CounterFact with the authors' relation data", sha256, note)


def _bare_field(fact: Fact) -> str:
    """The relation's field that is missing in a record; empty where none is."""
    if fact.relation is None:
        return "requested_rewrite.relation"
    return "" if fact.relation_paraphrases else "rel_prompts"


def _asked(fact: Fact) -> tuple[str, ...]:
    return fact.relation_id, fact.template, fact.subject, fact.object_true, fact.object_new


def _known(path: Path, records: object, sha256: str, source: str, relation_source: RelationSource, by_id: bool) -> Data:
    """Statements and edit cases of known facts; without templates the cases have the entity view alone."""
    statements = parse_statements(records, str(path))
    if by_id:
        statements = sorted(statements, key=lambda statement: statement.case_id)
    by_rule = relation_source == "templates"
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


def _selection(facts: Sequence[Fact | OddRecord], by_id: bool) -> tuple[list[Fact | OddRecord], str]:
    """The paper's cases, and what they are in words."""
    found, order = _ordered(facts, by_id), "by case_id" if by_id else "in the file's order"
    if len(found) < PAPER_CASES:
        return found, f"all {len(found):,} records of the file {order}, fewer than the paper's {PAPER_CASES:,}"
    return found[:PAPER_CASES], f"the first {PAPER_CASES:,} of {len(found):,} records {order}"


def _ordered(facts: Sequence[Fact | OddRecord], by_id: bool) -> list[Fact | OddRecord]:
    return sorted(facts, key=lambda fact: fact.case_id) if by_id else list(facts)


def _built_in(records: object, source: str, note: str) -> Data:
    digest = hashlib.sha256(msgspec.json.encode(records, order="sorted")).hexdigest()
    return _data(parse_facts(records, source), source, digest, note)


def _data(found: Sequence[Fact | OddRecord], source: str, sha256: str, note: str, reconstructed: bool = False) -> Data:
    """Data whose statements are the facts' own prompts; odd records are counted in the note."""
    facts = [one for one in found if isinstance(one, Fact)]
    odd = tuple(one for one in found if isinstance(one, OddRecord))
    if odd:
        note += f"; {len(odd)} odd records are failed cases"
    cases = tuple(one.case_id for one in found) if odd else ()
    statements = [one.statement for one in found if one.statement is not None]
    return Data(facts, statements, source, sha256, note, odd, cases, reconstructed)


def _read(path: Path) -> tuple[object, str]:
    """The decoded records of a file, and the sha256 of its bytes."""
    content = read_bytes(path)
    return decode_records(content, str(path)), hashlib.sha256(content).hexdigest()
