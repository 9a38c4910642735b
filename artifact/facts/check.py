"""What can be used of a fact file, and every fault of its records: field, record and remedy in a line each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from artifact.errors import FactError
from artifact.facts.datasets.known import edit_cases
from artifact.facts.fact import PERSPECTIVES, Fact, Perspective, Statement
from artifact.facts.joint import refuse_conflicts
from artifact.facts.odd import OddRecord, each, look_at
from artifact.facts.records import is_counterfact, parse_statement, repeats
from artifact.facts.relations import table_of


@dataclass(frozen=True)
class Checked:
    """A file's records looked at one by one: the facts that edits and scores can use, what tracing can ask, and the
    faults, by the record's place (from 0). `note` says what becomes of known facts, empty for CounterFact-style ones.
    """

    records: int
    facts: list[Fact]
    statements: list[Statement]
    places: dict[int, int]
    """The place of each case id's (first) record."""
    faults: dict[int, list[str]]
    note: str = ""

    def lines(self) -> list[str]:
        """Every fault in a line, in the file's order."""
        cases = {place: f", case {case}" for case, place in self.places.items()}
        return [
            f"record {place}{cases.get(place, '')}: {fault}"
            for place in sorted(self.faults)
            for fault in self.faults[place]
        ]

    def also(self, faults: Mapping[int, str]) -> "Checked":
        """With a further fault of some records, by case id; these cannot be used."""
        found = self.faults | {
            place: [*self.faults.get(place, ()), faults[case]] for case, place in self.places.items() if case in faults
        }
        facts = [fact for fact in self.facts if fact.case_id not in faults]
        statements = [statement for statement in self.statements if statement.case_id not in faults]
        return replace(self, facts=facts, statements=statements, faults=found)


def check_records(raw: object, source: str) -> Checked:
    """Every record of a decoded file, CounterFact-style or known facts, as the commands that take it read it.

    Raises FactError for what has no records at all, and for another project's layout.
    """
    known = not is_counterfact(raw)
    records: Sequence[Fact | Statement | OddRecord] = (
        each(raw, source, parse_statement) if known else look_at(raw, source)
    )
    faults: dict[int, list[str]] = {}
    for place, one in enumerate(records):
        if isinstance(one, OddRecord):
            faults[place] = [text.removeprefix(f"record {place}: ") for text in (one.reason, *one.others)]
    ids = [one.case_id for one in records]
    for place, earlier in repeats(ids).items():
        name = "known_id" if known else "case_id"
        faults.setdefault(place, []).append(f"{name} {ids[place]} is that of record {earlier}, too; give each its own")
    good = [one for place, one in enumerate(records) if place not in faults]
    facts = [one for one in good if isinstance(one, Fact)]
    statements = [
        one if isinstance(one, Statement) else one.statement for one in good if not isinstance(one, OddRecord)
    ]
    note = ""
    if known:
        built = edit_cases(statements, source, relation_view=False)
        reasons = "".join(f"; {count} left out ({why})" for why, count in built.left_out.items())
        facts, note = built.facts, f"known facts: `kloc run` builds edit cases from them{reasons}"
    places = {case: place for place, case in reversed(list(enumerate(ids)))}
    return Checked(len(records), facts, statements, places, faults, note)


def uses(checked: Checked, methods: str, joint: str) -> Iterator[str]:
    """What each perspective, tracing, the `methods` and the `joint` ones (their names) can use, in words."""
    facts = checked.facts
    related = [fact for fact in facts if fact.relation is not None]
    if checked.note:
        yield checked.note
    yield (
        f"entity perspective: {len(facts)} of {checked.records} records, {_count(one.paraphrases for one in facts)} "
        f"with rephrasings (generality), {_count(one.neighbourhood for one in facts)} with neighbours (specificity)"
    )
    yield (
        f"relation perspective: {len(related)} of {checked.records} records, "
        f"{_count(one.relation_paraphrases for one in related)} with rephrasings (generality), "
        f"{_count(one.another_relation for one in related)} with a harder foil"
    )
    if len(facts) > len(related):
        built = _count(fact.relation is None and table_of(fact.relation_id) is not None for fact in facts)
        yield (
            f"without relation fields: {len(facts) - len(related)}; --relation-source templates can build them for "
            f"{built} in `kloc run`"
        )
    yield f"traces: {len(checked.statements)} prompts"
    yield f"one record an edit: {methods}"
    for perspective in PERSPECTIVES:
        of_view = facts if perspective == "entity" else related
        if len(of_view) > 1:
            yield f"all records in one edit, {perspective} perspective: {_together(of_view, perspective, joint)}"


def _together(facts: Sequence[Fact], perspective: Perspective, joint: str) -> str:
    """The methods that can write all of the facts into one edit, or why none can."""
    try:
        refuse_conflicts([f.view(perspective) for f in facts], [f"case {f.case_id}" for f in facts], "none")
    except FactError as error:
        return str(error)
    return joint


def _count(found: Iterable[object]) -> int:
    return sum(map(bool, found))
