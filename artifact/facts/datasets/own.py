"""The user's own file: CounterFact-style records, with relation fields or without, or known facts."""

from pathlib import Path

from artifact.facts.dataset import (
    TEMPLATES,
    Data,
    DataSet,
    RelationSource,
    data_of,
    in_order,
    read_records,
    with_relations,
)
from artifact.facts.datasets.known import known_data
from artifact.facts.fact import Fact
from artifact.facts.odd import parse_records
from artifact.facts.records import is_counterfact
from artifact.sizes import count_of

OWN_READING = (
    "deviation: the authors' rel_known_1000.json names words of the known facts alone, so relation traces corrupt all "
    "of the prompt but its subject"
)


def own(path: Path | None, relation_source: RelationSource = "authors", by_id: bool = False) -> Data:
    """The facts of the user's file.

    Relation fields of the file are kept. Those that are missing are built by rule with `templates`, and otherwise the
    relation perspective is absent. Raises FactError for a relation without a written name (relations.py), or a bad
    record.
    """
    assert path is not None
    raw, sha256 = read_records(path)
    if not is_counterfact(raw):
        return known_data(path, raw, sha256, "own known facts", relation_source == "templates", by_id)
    records = in_order(parse_records(raw, str(path)), by_id)
    facts = [one for one in records if isinstance(one, Fact)]
    bare = sum(fact.relation is None for fact in facts)
    source, note = "own facts", f"{count_of(len(facts), 'record')} of {path.name}"
    if bare and relation_source == "templates":
        records = with_relations(records, path, kept=True)
        source, note = f"{source}, {TEMPLATES}", f"{note}; relation prompts of {bare} built by rule"
    elif bare:
        note += f"; {bare} have no relation fields and so no relation perspective"
    return data_of(records, source, sha256, note, reconstructed=bool(bare) and relation_source == "templates")


DATASET = DataSet(
    name="own",
    load=own,
    own_reading=OWN_READING,
)
