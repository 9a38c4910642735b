"""Facts of a file in which a few records are odd: these become failed cases, and the others go on.

Covers what a data set of many records may hold: an odd record now and then, numbers written as text. A
record without the rephrasings that nearly all others have is odd, too. A file in which more than one record in twenty
is odd is refused, so that a small file is read as strictly as records.py reads a request.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from artifact.errors import FactError
from artifact.facts.fact import Fact, Statement
from artifact.facts.records import parse_fact, refuse_repeats, rows_of, with_foils
from artifact.reading import whole_number

_T = TypeVar("_T")
MOST_ODD = 1 / 20
"""Most records of a file that may be odd."""


@dataclass(frozen=True)
class OddRecord:
    """A record that cannot be used: its case id, and why in words, with its place in the file and the field.

    `statement` is what tracing can ask all the same, where the record holds it whole; `others` are further reasons.
    """

    case_id: int
    reason: str
    statement: Statement | None = None
    others: tuple[str, ...] = ()


def parse_records(raw: object, source: str, every: bool = False) -> list[Fact | OddRecord]:
    """Every record as a fact or an odd one, in order, as `look_at` tells them.

    Raises FactError when more than MOST_ODD of them are odd: with the one reason, or their number and the commonest
    ones; and when two records have one case id.
    """
    records = look_at(raw, source, every)
    reasons = [one.reason for one in records if isinstance(one, OddRecord)]
    if len(reasons) == 1 and len(reasons) > MOST_ODD * len(records):
        raise FactError(f"{source}: {reasons[0]}")
    if len(reasons) > MOST_ODD * len(records):
        counted = Counter(reason.partition(": ")[2] for reason in reasons)
        common = "; ".join(f"{count} times: {text[:120]}" for text, count in counted.most_common(2))
        raise FactError(
            f"{source}: {len(reasons)} of {len(records)} records are odd, more than one in twenty ({common}; the "
            f"first: {reasons[0][:160]}); correct the file"
        )
    refuse_repeats([one.case_id for one in records], "case_id", source)
    return records


def look_at(raw: object, source: str, every: bool = False) -> list[Fact | OddRecord]:
    """Every record as a fact or an odd one, in order, however many are odd; FactError for a file without records.

    A record without rephrasings for a perspective that it carries is odd where at most MOST_ODD of the file are. A file
    with more of them has no such column for these records, as the user's own may. With `every`, for CounterFact, each
    record needs those of its entity perspective; the relation's fields are checked where they are asked for.
    """
    records = each(raw, source, parse_fact)
    for number, odd in _without_rephrasings(records, every).items():
        records[number] = odd
    facts = iter(with_foils([one for one in records if isinstance(one, Fact)]))
    return [next(facts) if isinstance(one, Fact) else one for one in records]


def each(raw: object, source: str, parse: Callable[[object, int, str], _T]) -> list[_T | OddRecord]:
    """Every record as `parse` reads it (parse_fact, parse_statement), or as an odd one."""
    records: list[_T | OddRecord] = []
    for number, row in enumerate(rows_of(raw, source)):
        try:
            records.append(parse(row, number, source))
        except FactError as error:
            reason = str(error).removeprefix(f"{source}: ")
            records.append(OddRecord(_id_of(row, number), reason, others=error.others))
    return records


def _without_rephrasings(records: Sequence[Fact | OddRecord], every: bool) -> dict[int, OddRecord]:
    """The records, by place, without rephrasings for a perspective they carry, where nearly all or `every` one has."""
    facts = [(number, one) for number, one in enumerate(records) if isinstance(one, Fact)]
    bare = {"paraphrase_prompts": [(number, fact) for number, fact in facts if not fact.paraphrases]}
    if not every:
        bare["rel_prompts"] = [(at, fact) for at, fact in facts if fact.relation and not fact.relation_paraphrases]
    odd: dict[int, OddRecord] = {}
    for field, missing in bare.items():
        if every or len(missing) <= MOST_ODD * len(records):
            for number, fact in missing:
                reason = f"record {number}: {field} is missing or empty; give it a rephrasing"
                odd.setdefault(number, OddRecord(fact.case_id, reason, fact.statement))
    return odd


def _id_of(row: object, number: int) -> int:
    own = whole_number(str(row.get("case_id", row.get("known_id")))) if isinstance(row, dict) else None
    return number if own is None else own
