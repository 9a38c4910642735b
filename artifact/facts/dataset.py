"""What a data set is: what was read of it (Data), its entry in the table (DataSet), and how its records are read.

The table is datasets/, one file a data set. A loader takes the path of a file that is there; sources/ fetches it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from artifact.errors import FactError
from artifact.facts.fact import Fact, Statement
from artifact.facts.layouts import decode_records
from artifact.facts.odd import OddRecord
from artifact.facts.records import parse_facts
from artifact.facts.templates import with_relation
from artifact.reading import read_bytes

RelationSource = Literal["authors", "templates"]
TEMPLATES = "relation prompts from templates"
"""What the source of reconstructed data says."""
PAPER, OTHER_MODELS = "the paper's plans", "other models"


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

    def relations(self) -> dict[str, list[int]]:
        """The case ids of each relation by its name, with its id where two have that name, in alphabetical order."""
        related = [fact for fact in self.facts if fact.relation_id]
        names = {fact.relation_id: fact.relation or fact.relation_id for fact in related}
        often = Counter(names.values())
        found: dict[str, list[int]] = {}
        for fact in related:
            name = names[fact.relation_id]
            found.setdefault(f"{name} ({fact.relation_id})" if often[name] > 1 else name, []).append(fact.case_id)
        return dict(sorted(found.items()))

    def statement_relations(self) -> dict[str, list[int]]:
        """The case ids of the statements of each relation by its id; statements without one are left out."""
        found: dict[str, list[int]] = {}
        for one in self.statements:
            if one.relation_id:
                found.setdefault(one.relation_id, []).append(one.case_id)
        return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set: its name for `--facts`, how it is read, what must be fetched for it, and what it may be used for.

    `load` takes the path of its file (a tuple of several, None without one), where relation prompts come from, and
    whether the records are taken by case id instead of in the file's order; it raises FactError for a file that cannot
    be used.
    """

    name: str
    load: Callable[[Any, RelationSource, bool], Data]
    files: Mapping[RelationSource, str | tuple[str, ...]] = field(default_factory=dict)
    """The fetched file that is read (its key in sources/catalogue.py), or several, by the source of the relation
    prompts; empty for what needs none."""
    default_for: tuple[str, ...] = ()
    """What takes it without `--facts`: PAPER, models' names, or OTHER_MODELS."""
    evidence: bool = False
    """Whether a run on it may be held against the paper."""
    traced: str = ""
    """The data set whose statements are traced instead (default: its own)."""
    relation_words: str = ""
    """The fetched file, if there is one, that names the words that relation traces corrupt."""
    own_reading: str = ""
    """What is noted of relation traces whose words no file names, where the paper's traces have such a file."""
    selected: bool = False
    """Whether the statements were chosen for what one model answers: a small plan takes the first that its own does."""
    answered: bool = False
    """Whether a run takes only facts that its model answers, none of them set aside."""
    by_relation: bool = False
    """Whether a run's page shows its edits by relation, too."""
    cases: int | None = None
    """How many cases the paper's plans take."""

    def keys(self, relation_source: RelationSource) -> tuple[str, ...]:
        """The fetched files that are read, by their keys in sources/catalogue.py."""
        keys = self.files.get(relation_source, ())
        return (keys,) if isinstance(keys, str) else keys


def read_records(path: Path) -> tuple[object, str]:
    """The decoded records of a file, and the sha256 of its bytes; FactError when it cannot be read."""
    content = read_bytes(path)
    return decode_records(content, str(path)), hashlib.sha256(content).hexdigest()


def built_in(records: object, source: str, note: str) -> Data:
    """Data that comes with the package, from CounterFact-style records."""
    digest = hashlib.sha256(msgspec.json.encode(records, order="sorted")).hexdigest()
    return data_of(parse_facts(records, source), source, digest, note)


def data_of(
    records: Sequence[Fact | OddRecord], source: str, sha256: str, note: str, reconstructed: bool = False
) -> Data:
    """Data whose statements are the facts' own prompts; odd records are counted in the note."""
    facts = [one for one in records if isinstance(one, Fact)]
    odd = tuple(one for one in records if isinstance(one, OddRecord))
    if odd:
        note += f"; {len(odd)} odd records are failed cases"
    cases = tuple(one.case_id for one in records) if odd else ()
    statements = [one.statement for one in records if one.statement is not None]
    return Data(facts, statements, source, sha256, note, odd, cases, reconstructed)


def in_order(records: Sequence[Fact | OddRecord], by_id: bool) -> list[Fact | OddRecord]:
    """The records by case id, or as they stand."""
    return sorted(records, key=lambda record: record.case_id) if by_id else list(records)


def with_relations(records: Sequence[Fact | OddRecord], path: Path, kept: bool = False) -> list[Fact | OddRecord]:
    """The records with relation prompts by rule; `kept` leaves those that have some. FactError names `path`."""
    try:
        return [
            with_relation(one) if isinstance(one, Fact) and not (kept and one.relation is not None) else one
            for one in records
        ]
    except FactError as error:
        raise FactError(f"{path}: {error}") from None
