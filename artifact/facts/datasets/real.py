"""Real facts: the known facts and LRE's, one of each in turn, both perspectives."""

import hashlib
from itertools import chain, zip_longest
from pathlib import Path

from artifact.facts.dataset import TEMPLATES, Data, DataSet, RelationSource
from artifact.facts.datasets.known import known
from artifact.facts.datasets.lre import lre
from artifact.facts.datasets.own import OWN_READING


def real(paths: tuple[Path, Path] | None, relation_source: RelationSource = "templates", by_id: bool = False) -> Data:
    """The facts of both, whose case ids differ, and their prompts as statements; FactError for what is not there."""
    files = paths or (None, None)
    parts = [known(files[0], "templates", by_id), lre(files[1], "templates", by_id)]
    facts = [fact for fact in chain(*zip_longest(*(part.facts for part in parts))) if fact is not None]
    if by_id:
        facts = sorted(facts, key=lambda fact: fact.case_id)
    return Data(
        facts,
        [fact.statement for fact in facts],
        f"known facts and LRE, edit cases built from them, {TEMPLATES}",
        hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest(),
        "; ".join(part.note for part in parts),
        reconstructed=True,
    )


DATASET = DataSet(
    name="real",
    load=real,
    files={"authors": ("known", "lre"), "templates": ("known", "lre")},
    own_reading=OWN_READING,
    answered=True,
    by_relation=True,
)
