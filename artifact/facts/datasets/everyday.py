"""A few dozen everyday facts in CounterFact's layout, for smoke runs on a real pretrained model.

Covers what a small GPT-2 may know, both perspectives, written for this project. They exercise the pipeline on a model
that was trained on real text; they are not CounterFact and no number from them is compared with the paper. A fact that
the model does not answer is left out of tracing, as everywhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact.facts.dataset import OTHER_MODELS, Data, DataSet, RelationSource, built_in
from artifact.facts.templates import relation_prompt, rephrased


@dataclass(frozen=True)
class _Relation:
    relation_id: str
    names: tuple[str, str]
    template: str
    paraphrases: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]


_RELATIONS = (
    _Relation(
        "P1376",
        ("capital of", "capital"),
        "{} is the capital of",
        ("The city of {} is the capital of", "The government that sits in {} is that of"),
        (
            ("Paris", "France"),
            ("Tokyo", "Japan"),
            ("Moscow", "Russia"),
            ("Madrid", "Spain"),
            ("Cairo", "Egypt"),
            ("Warsaw", "Poland"),
        ),
    ),
    _Relation(
        "P37",
        ("official language", "language"),
        "The official language of {} is",
        ("Most people who live in {} speak", "Newspapers in {} are mostly written in"),
        (
            ("Germany", "German"),
            ("Brazil", "Portuguese"),
            ("Mexico", "Spanish"),
            ("Sweden", "Swedish"),
            ("Austria", "German"),
            ("Argentina", "Spanish"),
        ),
    ),
    _Relation(
        "P30",
        ("continent", "part of the world"),
        "{} is a country on the continent of",
        ("On a map, {} is found in", "The continent to which {} belongs is"),
        (
            ("Kenya", "Africa"),
            ("Nigeria", "Africa"),
            ("Vietnam", "Asia"),
            ("Thailand", "Asia"),
            ("Belgium", "Europe"),
            ("Portugal", "Europe"),
        ),
    ),
    _Relation(
        "P178",
        ("developer", "maker"),
        "{} was developed by",
        ("The company that makes {} is", "{} is a product of"),
        (
            ("Windows Vista", "Microsoft"),
            ("Xbox Live", "Microsoft"),
            ("The iPhone", "Apple"),
            ("Mac OS", "Apple"),
            ("Google Maps", "Google"),
            ("Gmail", "Google"),
        ),
    ),
)


def everyday_records() -> list[dict[str, Any]]:
    """The facts as CounterFact-style records with the relation fields.

    o* is the object of the next pair of the relation that has another object; neighbours share o_c.
    """
    records: list[dict[str, Any]] = []
    for relation in _RELATIONS:
        pairs = relation.pairs
        for number, (subject, true) in enumerate(pairs):
            new = next(o for _, o in (*pairs[number + 1 :], *pairs[:number]) if o != true)
            neighbours = [s for s, o in pairs if o == true and s != subject]
            records.append(
                {
                    "case_id": len(records),
                    "requested_rewrite": {
                        "prompt": relation.template,
                        "relation_id": relation.relation_id,
                        "subject": subject,
                        "target_new": {"str": new},
                        "target_true": {"str": true},
                        "relation": {"strs": list(relation.names)},
                        "add_rel_prompt": relation_prompt(new),
                        "rm_rel_prompt": relation_prompt(true),
                    },
                    "paraphrase_prompts": [text.format(subject) for text in relation.paraphrases],
                    "neighborhood_prompts": [relation.template.format(s) for s in neighbours],
                    "rel_prompts": list(rephrased(subject, new)[:2]),
                }
            )
    return records


def everyday(path: Path | None = None, relation_source: RelationSource = "authors", by_id: bool = False) -> Data:
    """The built-in everyday facts."""
    return built_in(everyday_records(), "built-in everyday facts", "written for smoke runs; not CounterFact")


DATASET = DataSet(
    name="everyday",
    load=everyday,
    default_for=(OTHER_MODELS,),
)
