"""LRE's relations as edit cases: what is built of an excerpt, fetched from loopback, and what is refused in a line."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filehost import FileHost, hosting

from artifact.cli import call
from artifact.evaluation.score import score_cases
from artifact.facts.datasets.lre import OTHERS, cases_of, lre, parse_relation
from artifact.facts.fact import Fact
from artifact.facts.records import parse_facts
from artifact.facts.relations import LRE_RELATIONS
from artifact.lm.load import load
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import LRE_COMMIT, PLAIN_SOURCES, PlainSource
from artifact.sources.fetch import fetch_source, path_of

TINY = Path(__file__).parents[1] / "reference" / "models" / "tiny-gpt2"
CAPITAL = {
    "name": "country capital city",
    "prompt_templates": ["The capital city of {} is", "The capital of {} is"],
    "prompt_templates_zs": ["What is the capital of {}? It is", "The capital of {} is the city of"],
    "properties": {"relation_type": "factual"},
    "samples": [
        {"subject": "Canada", "object": "Ottawa"},
        {"subject": "Japan ", "object": "Tokyo"},
        {"subject": "Peru", "object": "Lima"},
        {"subject": "Canada", "object": "Toronto"},
        {"subject": "capital", "object": "Rome"},
    ],
}
LANGUAGE = {
    "name": "country language",
    "prompt_templates": ["People in {} speak"],
    "samples": [
        {"subject": "Canada", "object": "English"},
        {"subject": "Japan", "object": "Japanese"},
        {"subject": "Chad", "object": "French"},
    ],
}
FILES = {"country_capital_city.json": CAPITAL, "country_language.json": LANGUAGE}


def kloc(*words: str) -> int:
    return call(list(words))


@pytest.fixture
def source(monkeypatch, tmp_path) -> PlainSource:
    """The source `lre` with the excerpt's files."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    first, made = PLAIN_SOURCES["lre"].files[0], []
    for name, content in FILES.items():
        raw = json.dumps(content).encode()
        url = first.urls[0].replace(first.name, name)
        made.append(replace(first, name=name, urls=(url,), size=len(raw), sha256=hashlib.sha256(raw).hexdigest()))
    short = replace(PLAIN_SOURCES["lre"], files=tuple(made))
    monkeypatch.setitem(PLAIN_SOURCES, "lre", short)
    return short


@pytest.fixture
def host(source, monkeypatch) -> Iterator[FileHost]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hosting() as serving:
        monkeypatch.setenv("KLOC_MIRROR", serving.url)
        for file in source.files:
            url = urlsplit(file.urls[0])
            serving.files[f"/{url.netloc}{url.path}"] = json.dumps(FILES[file.name]).encode()
        yield serving


def fetched(source: PlainSource) -> Path:
    folder = source_folder(source)
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content))
    return path_of("lre")


def by_case(folder: Path) -> dict[int, Fact]:
    return {fact.case_id: fact for fact in lre(folder).facts}


def test_the_catalogue_names_a_written_relation_for_every_file() -> None:
    files = PLAIN_SOURCES["lre"].files
    assert [file.name.removesuffix(".json") for file in files] == list(LRE_RELATIONS) and len(files) == 26
    assert all(f"/{LRE_COMMIT}/" in file.urls[0] and file.exact and file.sha256 for file in files)


def test_fetched_from_its_commit_it_is_one_folder(host, source) -> None:
    with pytest.raises(Exception, match=r"lre: country_capital_city.json is not in the cache; run kloc fetch lre"):
        path_of("lre")
    fetch_source(source, lambda line: None, lambda *_: None)
    assert path_of("lre") == source_folder(source) and len(host.asked) == 2
    assert len(lre(path_of("lre")).facts) == 6


def test_a_case_of_both_perspectives(source) -> None:
    facts = by_case(fetched(source))
    canada = facts[10_000]
    assert canada.template == "The capital of {} is the city of" and canada.object_true == "Ottawa"
    assert canada.paraphrases == ("The capital city of Canada is", "The capital of Canada is"), "questions come last"
    assert canada.object_new in ("Tokyo", "Lima", "Rome"), "Toronto is in the file for Canada, too"
    view = canada.view("relation")
    assert (view.target, view.template) == ("capital", f"The relation between {{}} and {canada.object_new} is")
    assert view.removal == "The relation between {} and Ottawa is" and len(view.generality) == 5
    assert canada.another_relation in {kind.name for kind in LRE_RELATIONS.values()} - {"capital"}
    assert facts[10_001].subject == "Japan", "blanks at the ends are not a part of the name"
    assert facts[11_002].other_relations == () and facts[11_002].relation == "language"


def test_two_specificities_each_with_its_own_answers(source) -> None:
    for fact in by_case(fetched(source)).values():
        view = fact.view("entity")
        assert view.specificity == tuple(one.prompt for one in fact.other_subjects) and view.specificity
        for question in (*fact.other_subjects, *fact.other_relations):
            assert question.answer != fact.object_new and view.truth(question.prompt) == question.answer
        assert all(fact.subject not in one.prompt for one in fact.other_subjects)
        assert all(fact.subject in one.prompt for one in fact.other_relations)
        assert len(fact.other_subjects) <= OTHERS
    japan = by_case(path_of("lre"))[10_001]
    assert [tuple(one) for one in japan.other_relations] == [("People in Japan speak", "Japanese")]


def test_it_depends_on_no_order_of_the_files_and_takes_relations_in_turn(source) -> None:
    data = lre(fetched(source))
    assert [fact.relation_id for fact in data.facts[:4]] == ["country_capital_city", "country_language"] * 2
    assert lre(path_of("lre")).facts == data.facts and data.reconstructed and len(data.statements) == len(data.facts)
    assert [fact.case_id for fact in lre(path_of("lre"), by_id=True).facts] == sorted(f.case_id for f in data.facts)
    assert "6 edit cases from 8 pairs of 2 relations" in data.note
    assert "1 left out (the subject stands in an earlier pair of its relation, too)" in data.note
    assert "1 left out (the subject does not stand once and as a word in its prompt)" in data.note


def test_scores_hold_what_is_true_of_each_prompt(source) -> None:
    """Specificity compares each prompt's own answer with o*, and a case without other relations has no such group."""
    facts = by_case(fetched(source))
    japan, chad = score_cases(load(str(TINY), "cpu"), [facts[10_001], facts[11_002]])
    (asked,) = japan.views["entity"].prompts["other_relations"]
    assert asked.prompt == "People in Japan speak" and asked.target_new != asked.target_true
    won = japan.views["entity"].metrics["other_relations"]["success"]
    assert won == float(asked.target_true < asked.target_new)
    assert "other_relations" not in chad.views["entity"].metrics
    truths = {one.target_true for one in chad.views["entity"].prompts["specificity"]}
    assert len(truths) == len(facts[11_002].other_subjects), "another answer for each"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt_templates": ["People speak"], "prompt_templates_zs": []}, "no template of 'country language' holds"),
        ({"samples": [{"subject": "Chad"}]}, "missing required field `object`"),
        ({"samples": None}, "Expected `array`"),
    ],
)
def test_a_relation_that_cannot_be_used_is_named_in_a_line(change, says, source) -> None:
    folder = fetched(source)
    with pytest.raises(Exception, match=says) as refused:
        parse_relation(LANGUAGE | change, "file.json", "country_language", 0)
    assert str(refused.value).startswith("file.json: ") and "\n" not in str(refused.value)
    (folder / "country_language.json").write_text(json.dumps(LANGUAGE | change))
    with pytest.raises(Exception, match=f"is not the file of commit {LRE_COMMIT[:7]} .*`kloc fetch lre`"):
        lre(folder)


def test_only_what_has_another_object_is_a_case() -> None:
    one = parse_relation(LANGUAGE | {"samples": LANGUAGE["samples"][:1]}, "f", "country_language", 0)
    assert cases_of([one]).left_out == {0: "the relation has no other object that suits the prompt"}


def test_a_file_of_one_s_own_is_converted(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("country_language.json").write_text(json.dumps(LANGUAGE))
    Path("own.json").write_text(json.dumps([LANGUAGE | {"name": "tongue"}, CAPITAL]))
    assert kloc("facts", "check", "own.json") == 2
    assert "`kloc facts convert FILE --from lre --out NEW`" in capsys.readouterr().err
    assert kloc("facts", "convert", "country_language.json", "--from", "lre", "--out", "a.json") == 0
    said = capsys.readouterr().out
    assert (
        "3 of 3 records converted" in said
        and "relation perspective: 3 of 3 records, with prompts from templates" in said
    )
    assert kloc("facts", "check", "a.json") == 0
    assert kloc("facts", "convert", "own.json", "--from", "lre", "--out", "b.json") == 0
    said = capsys.readouterr().out
    assert "6 of 8 records converted" in said and "relation perspective: 3 of 6" in said, (
        "our names are of LRE's relations"
    )
    facts = parse_facts(json.loads(Path("b.json").read_text()), "b.json")
    assert [fact.case_id for fact in facts] == [0, 1, 2, 3, 4, 5]
    Path("bad.json").write_text(json.dumps(LANGUAGE | {"prompt_templates": []}))
    assert kloc("facts", "convert", "bad.json", "--from", "lre", "--out", "c.json") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no template" in error and not Path("c.json").exists()


def test_a_blank_pair_costs_no_other_its_record() -> None:
    """It is neither the object that another one is to get nor asked of another subject."""
    pairs = [("", "Lima"), ("Cuzco", ""), ("Norge", "Oslo"), ("Italia", "Roma"), ("  ", " ")]
    samples = [{"subject": subject, "object": obj} for subject, obj in pairs]
    relation = parse_relation({"name": "n", "prompt_templates": ["{} is of"], "samples": samples}, "file", "r", 0)
    cases = cases_of([relation])
    assert {case: str(reason) for case, reason in cases.left_out.items()} == dict.fromkeys(
        (0, 1, 4), "the subject or the object is blank"
    )
    written = {
        one["requested_rewrite"]["subject"]: one["requested_rewrite"]["target_new"]["str"] for one in cases.records
    }
    assert written == {"Norge": "Roma", "Italia": "Oslo"}
    assert all(asked["answer"].strip() for one in cases.records for asked in one["other_subject_prompts"])
