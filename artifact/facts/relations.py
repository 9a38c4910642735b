"""The relations of CounterFact, the known facts and LRE: written names, aliases and subject types, by relation id.

Covers the 34 Wikidata properties of the first two, the 26 files of LRE, and the harder foil of the relation
perspective: another relation that the same kind of subject has, of the same table. Names and aliases of properties are
Wikidata's labels, shortened where the label explains itself; those of LRE's files are ours. A type is what most of a
relation's subjects are, our reading. Prompts are templates.py's.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TABLE = """
place
    P17 country; nation, state
    P30 continent; part of the world
    P36 capital; capital city, seat of government
    P37 official language; state language
    P131 located in; administrative region, administrative territory
    P190 twin city; sister city, partner city
    P276 location; place, venue
person
    P19 place of birth; birthplace, birth city
    P20 place of death; deathplace, place where the person died
    P27 country of citizenship; citizenship, nationality
    P39 position held; office held, public office
    P101 field of work; area of study, specialism
    P103 native language; mother tongue, first language
    P106 occupation; profession, job
    P108 employer; workplace, company
    P136 genre; style, kind of music
    P140 religion; faith, religion or worldview
    P264 record label; label, music label
    P413 position played; playing position, role in the team
    P463 member of; membership, organization joined
    P641 sport; game played, discipline
    P937 work location; place of work, city of work
    P1303 instrument; musical instrument, instrument played
    P1412 languages spoken; language used, working language
organization
    P127 owned by; owner, parent company
    P159 headquarters location; headquarters, head office
    P740 location of formation; place of founding, place of origin
work
    P138 named after; namesake, source of the name
    P176 manufacturer; maker, producer
    P178 developer; developed by, software maker
    P364 original language; language of the original, language of the film
    P407 language; language of the work, language of the name
    P449 original broadcaster; original network, first shown on
    P495 country of origin; origin, country where it was made
"""

_LRE = """
place
    city_in_country country; nation, state
    country_capital_city capital; capital city, seat of government
    country_currency currency; money, official currency
    country_language language; official language, language spoken
    country_largest_city largest city; biggest city, most populous city
    landmark_in_country country; nation, location
    landmark_on_continent continent; part of the world
person
    person_band_lead_singer band; group, lead singer of
    person_father father; dad, male parent
    person_mother mother; mom, female parent
    person_native_language native language; mother tongue, first language
    person_occupation occupation; profession, job
    person_plays_instrument instrument; musical instrument, instrument played
    person_plays_position_in_sport position played; playing position, role in the team
    person_plays_pro_sport sport; game played, discipline
    person_university university; alma mater, place of study
    presidents_birth_year year of birth; birth year
    presidents_election_year year of election; election year
organization
    company_ceo chief executive; CEO, head of the company
    company_hq headquarters location; headquarters, head office
thing
    food_from_country country of origin; origin, country it comes from
    product_by_company maker; manufacturer, developer
star
    star_constellation constellation; group of stars
character
    pokemon_evolutions evolution; evolved form
    superhero_archnemesis archenemy; nemesis, rival
    superhero_person secret identity; real name, alter ego
"""


@dataclass(frozen=True)
class Kind:
    """A relation's written name, further surface forms, and what kind of subject it has."""

    name: str
    aliases: tuple[str, ...]
    subject_type: str


def _read(table: str) -> dict[str, Kind]:
    kinds, subject_type = {}, ""
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            subject_type = line
            continue
        relation_id, words = line.split(maxsplit=1)
        name, aliases = words.split("; ")
        kinds[relation_id] = Kind(name, tuple(aliases.split(", ")), subject_type)
    return kinds


RELATIONS = _read(_TABLE)
"""Wikidata property -> its relation, for the 34 of CounterFact."""
LRE_RELATIONS = dict(sorted(_read(_LRE).items()))
"""LRE's file -> its relation, for the 26 files."""


def table_of(relation_id: str) -> Mapping[str, Kind] | None:
    """The table that has a relation of that id; None for one without a written name."""
    return next((table for table in (RELATIONS, LRE_RELATIONS) if relation_id in table), None)


def kinds_among(triples: Iterable[tuple[str, str, str]]) -> dict[str, Kind]:
    """The kinds of a file's own relations, from (relation id, name, subject), for those that RELATIONS does not have.

    Relations that share a subject are of the same kind, and so are all that are linked through such pairs: their
    subjects are of one type. A relation whose subjects no other has is left out.
    """
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    first: dict[str, str] = {}
    for relation_id, name, subject in triples:
        names.setdefault(relation_id, name)
        kinds.setdefault(relation_id, relation_id)
        here, there = kinds[relation_id], kinds[first.setdefault(subject, relation_id)]
        if here != there:
            kinds = {other: there if kind == here else kind for other, kind in kinds.items()}
    shared = Counter(kinds.values())
    return {other: Kind(names[other], (), kind) for other, kind in kinds.items() if shared[kind] > 1}


def another_relation(case_id: int, relation_id: str, name: str, kinds: Mapping[str, Kind]) -> str | None:
    """Name of another relation that the same kind of subject has, drawn by the case's own seed; None without one.

    `kinds` are the relations to draw from; without the case's own among them there is none. The draw depends on the
    case and its relation alone, never on the order or number of cases.
    """
    own = kinds.get(relation_id)
    names = sorted(
        {
            kind.name
            for kind in kinds.values()
            if own is not None and kind.name not in (own.name, name) and kind.subject_type == own.subject_type
        }
    )
    if not names:
        return None
    digest = hashlib.sha256(f"another relation/{case_id}/{relation_id}/{name}".encode()).digest()
    return names[int.from_bytes(digest[:8]) % len(names)]
