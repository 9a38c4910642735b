"""CounterFact as the paper takes it, with the authors' relation prompts or those built from templates."""

import os
from collections.abc import Sequence
from pathlib import Path

from artifact.errors import FactError
from artifact.facts.dataset import (
    PAPER,
    TEMPLATES,
    Data,
    DataSet,
    RelationSource,
    data_of,
    in_order,
    read_records,
    with_relations,
)
from artifact.facts.fact import Fact
from artifact.facts.odd import MOST_ODD, OddRecord, parse_records

PAPER_CASES = 7_500
"""The paper edits the first 7,500 records of CounterFact, as ROME's Table 4 (arXiv 2202.05262) does: the released
loader takes the first records of the file. CounterFact's stand in the order of their case_id."""


def counterfact(path: Path | None, relation_source: RelationSource, by_id: bool = False) -> Data:
    """The paper's selection of CounterFact: the first PAPER_CASES records, or all of a smaller file.

    In the order of the file, as the released loader takes them, or `by_id`. `templates` builds the relation prompts of
    counterfact.json by rule; `authors` reads the authors' rel_counterfact.json, which holds the records whole. Raises
    FactError where the file or its fields are missing.
    """
    if relation_source == "authors":
        return _with_authors_relations(path, by_id)
    if path is None or not os.path.exists(path):
        raise FactError(
            f"CounterFact is not there ({path or 'no path given'}); run `kloc fetch counterfact`, or give --facts known"
        )
    raw, sha256 = read_records(path)
    records, note = _selection(parse_records(raw, str(path), every=True), by_id)
    note = f"{note}; {TEMPLATES}, not the authors' relation data"
    return data_of(with_relations(records, path), f"CounterFact, {TEMPLATES}", sha256, note, reconstructed=True)


def _with_authors_relations(path: Path | None, by_id: bool) -> Data:
    instead = "run `kloc fetch relation`, or give --relation-source templates"
    if path is None or not os.path.exists(path):
        raise FactError(f"the authors' relation data is not there ({path or 'no path given'}); {instead}")
    raw, sha256 = read_records(path)
    records, note = _selection(parse_records(raw, str(path), every=True), by_id)
    facts = [one for one in records if isinstance(one, Fact)]
    if facts and all(fact.relation is None and not fact.relation_paraphrases for fact in facts):
        raise FactError(
            f"{path}: holds no relation fields: it is plain CounterFact under the name of the authors' data, as their "
            f"released loader saves it where the file is missing; delete it and {instead}"
        )
    bare = {fact.case_id: field for fact in facts if (field := _bare_field(fact))}
    if len(bare) + len(records) - len(facts) > MOST_ODD * len(records):
        case, field = next(iter(bare.items()), (0, ""))
        raise FactError(f"{path}: case {case} has no {field}, as {len(bare)} of {len(records)} records; {instead}")
    checked = [_odd_where_bare(one, bare.get(one.case_id)) for one in records]
    return data_of(checked, "CounterFact with the authors' relation data", sha256, note)


def _bare_field(fact: Fact) -> str:
    """The relation's field that is missing in a record; empty where none is."""
    if fact.relation is None:
        return "requested_rewrite.relation"
    return "" if fact.relation_paraphrases else "rel_prompts"


def _odd_where_bare(record: Fact | OddRecord, field: str | None) -> Fact | OddRecord:
    if field is None:
        return record
    reason = f"case {record.case_id}: {field} is missing or empty; give it a text"
    return OddRecord(record.case_id, reason, record.statement)


def _selection(records: Sequence[Fact | OddRecord], by_id: bool) -> tuple[list[Fact | OddRecord], str]:
    """The paper's cases, and what they are in words."""
    ordered, order = in_order(records, by_id), "by case_id" if by_id else "in the file's order"
    if len(ordered) < PAPER_CASES:
        return ordered, f"all {len(ordered):,} records of the file {order}, fewer than the paper's {PAPER_CASES:,}"
    return ordered[:PAPER_CASES], f"the first {PAPER_CASES:,} of {len(ordered):,} records {order}"


DATASET = DataSet(
    name="counterfact",
    load=counterfact,
    files={"authors": "rel_counterfact", "templates": "counterfact"},
    default_for=(PAPER,),
    evidence=True,
    traced="known",
    cases=PAPER_CASES,
)
