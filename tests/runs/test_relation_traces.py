"""What relation traces corrupt, and with which noise: the authors' file where it is there, else a named deviation."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from artifact.editing.protocol import PROTOCOLS
from artifact.errors import FactError, PromptError
from artifact.facts.datasets.known import OUR_READING
from artifact.facts.datasets.own import OWN_READING
from artifact.facts.datasets.world import world
from artifact.facts.fact import Statement
from artifact.lm.load import load
from artifact.plans import find_plans
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Plan, Unit
from artifact.progress import Display
from artifact.runs.context import Context
from artifact.runs.inputs import Given, run_inputs
from artifact.runs.local import compute
from artifact.runs.merge import merge
from artifact.runs.noise import readable
from artifact.runs.resolve import Asked, prepare
from artifact.runs.runner import run_plan
from artifact.runs.tasks import where
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PLAIN_SOURCES, WORLD
from artifact.sources.fetch import path_of
from artifact.sources.lock import entry_of, record

RELEASED, CORRECTED = PROTOCOLS["released"], PROTOCOLS["corrected"]
RECORDS = json.loads((WORLD / "facts.json").read_text())[:3]
KNOWN = [
    {
        "known_id": number,
        "subject": one["requested_rewrite"]["subject"],
        "attribute": one["requested_rewrite"]["target_true"]["str"],
        "template": one["requested_rewrite"]["prompt"],
        "prompt": one["requested_rewrite"]["prompt"].replace("{}", one["requested_rewrite"]["subject"]),
        "relation_id": "P36",
    }
    for number, one in enumerate(RECORDS)
]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that holds the known facts, without the authors' file; returns where that file belongs."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "known.json"
    path.write_text(json.dumps(KNOWN))
    monkeypatch.setattr("artifact.runs.inputs.path_of", lambda name: path if name == "known" else path_of(name))
    folder = source_folder(PLAIN_SOURCES["relation"])
    folder.mkdir(parents=True)
    return folder / "rel_known_1000.json"


def words(number: int) -> str:
    return KNOWN[number]["template"].partition("{}")[2].strip() or KNOWN[number]["template"].partition("{}")[0].strip()


def put(path: Path, numbers: range) -> None:
    path.write_text(json.dumps([KNOWN[n] | {"subject": words(n)} for n in numbers]))


@pytest.mark.parametrize("plan", [SMOKE, *find_plans("gpt2-xl")], ids=lambda plan: plan.name)
def test_known_facts_follow_the_authors_file_under_every_plan(plan, cache: Path) -> None:
    given = Given(facts="known")
    absent = run_inputs(plan, "gpt2-xl", given, RELEASED)
    assert absent.traced.note.endswith(OUR_READING) and not absent.relation_words
    put(cache, range(2))
    found = run_inputs(plan, "gpt2-xl", given, RELEASED)
    assert [one.relation_words for one in found.traced.statements] == [words(0), words(1), None]
    assert list(found.relation_words) == [words(0), words(1)] and "deviation" not in found.traced.note
    corrected = run_inputs(plan, "gpt2-xl", given, CORRECTED)
    assert not corrected.relation_words and "rel_known" not in corrected.traced.note
    assert all(one.relation_words is None for one in corrected.traced.statements)


def test_the_plain_known_facts_under_its_name_corrupt_no_subject_as_a_relation(cache: Path) -> None:
    cache.write_text(json.dumps(KNOWN))
    found = run_inputs(find_plans("gpt2-xl")[0], "gpt2-xl", Given(facts="known"), RELEASED)
    assert not found.relation_words and all(one.relation_words is None for one in found.traced.statements)
    assert "rel_known_1000.json holds each statement's subject" in found.traced.note
    assert found.traced.note.endswith(OUR_READING)


def test_words_that_the_model_cannot_read_are_left_out_of_the_noise() -> None:
    """A trace that needs one of them fails alone, with its reason."""
    model, lines = load("world"), []
    word = KNOWN[0]["subject"]
    assert readable(model, [word, "quux", word], "relation words", lines.append) == [word, word]
    assert lines[0].startswith("noise level: 1 of 3 relation words left out (the first: ") and "quux" in lines[0]
    assert readable(model, [], "relation words", lines.append) == [] and len(lines) == 1
    with pytest.raises(PromptError, match="quux"):
        readable(model, ["quux"], "relation words", lines.append)


def test_a_damaged_file_is_refused_and_not_called_missing(cache: Path) -> None:
    put(cache, range(3))
    record("relation/rel_known_1000.json", entry_of(cache))
    cache.write_bytes(cache.read_bytes()[:-9])
    with pytest.raises(FactError, match="expected .* bytes, got .*; run kloc fetch relation"):
        run_inputs(SMOKE, "gpt2", Given(facts="known"), RELEASED)


def test_own_facts_name_the_deviation(cache: Path, tmp_path: Path) -> None:
    own = Given(facts=str(tmp_path / "known.json"))
    assert run_inputs(SMOKE, "gpt2", own, RELEASED).traced.note.endswith(OWN_READING)
    assert "deviation" not in run_inputs(SMOKE, "gpt2", own, CORRECTED).traced.note


def traced(context: Context, perspective: str, statements: list[Statement]) -> dict[int, tuple[str, dict]]:
    unit = next(unit for unit in SMOKE.units if unit.name == f"trace-hidden-{perspective}")
    return {one.case_id: (one.status, one.payload) for one in compute(unit, statements, context)}


def test_relation_units_take_its_noise_and_leave_out_what_it_does_not_hold() -> None:
    context, info = prepare(SMOKE, Asked("world", limit=1), lambda line: None)
    assert info.relation_noise_level is None
    statements = [
        Statement(n, one["prompt"], one["subject"], one["template"], one["attribute"]) for n, one in enumerate(KNOWN)
    ]
    named = [
        replace(statements[0], relation_words=words(0)),
        statements[1],
        replace(statements[2], relation_words="zz"),
    ]
    ours, other = traced(context, "relation", statements), replace(context, relation_noise_level=0.01)
    found = traced(other, "relation", named)
    assert [found[n][0] for n in range(3)] == ["done", "excluded", "excluded"]
    assert "does not hold this statement" in found[1][1]["reason"]
    assert "'zz' are 0 times in the prompt, expected once" in found[2][1]["reason"]
    # Hardly any noise: the corrupted run says what the clean one says. Entity traces keep theirs.
    clean = found[0][1]["clean"]
    assert abs(found[0][1]["corrupted"] - clean) < 0.01 < abs(ours[0][1]["corrupted"] - clean)
    assert traced(other, "entity", named) == traced(context, "entity", named)


def test_the_plan_where_takes_the_noise_of_the_tokens_that_it_corrupts() -> None:
    """All but the subject's, whatever words the authors' file has for other traces."""
    context, _ = prepare(SMOKE, Asked("world", limit=1), lambda line: None)
    settings, unit = where._Settings("mlp", ("last",), (0,)), Unit("where", "task", 1, perspective="relation")
    own, others = (
        where._effects(unit, world().facts[:2], settings, replace(context, relation_noise_level=level))
        for level in (None, 0.01)
    )
    assert own == others and all(own)


UNITS = tuple(Unit(f"trace-{one}", "trace", 1, perspective=one) for one in ("relation", "entity"))
TRACES = Plan("traces", "relation and entity traces of three statements, one a batch", UNITS)


def run_of(folder: Path, shard: tuple[int, int] | None = None) -> Path:
    return run_plan(TRACES, Asked("world", given=Given(facts="known"), shard=shard), show=Display(), out=folder)


def rows_of(folder: Path) -> list[tuple]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        return connection.execute(
            "select unit, case_id, status, payload from records order by unit, case_id"
        ).fetchall()


def test_a_file_out_of_order_gives_the_same_records_however_it_is_run(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and in reverse, killed in the middle and resumed, in shards that are merged."""
    facts = json.loads((WORLD / "facts.json").read_text())
    asked = [one["requested_rewrite"] for one in facts if one["requested_rewrite"]["prompt"].startswith("The ")][:3]
    known = [
        {
            "known_id": 7 - number,
            "subject": one["subject"],
            "attribute": one["target_true"]["str"],
            "prompt": one["prompt"].replace("{}", one["subject"]),
            "relation_id": "P36",
        }
        for number, one in enumerate(asked)
    ]
    # The world knows no other words than a text's first without a space before them.
    leads = [one["prompt"].partition(" {}")[0] for one in asked]
    words = [one | {"subject": lead} for one, lead in zip(known, leads, strict=True)]
    (tmp_path / "known.json").write_text(json.dumps(known))
    cache.write_text(json.dumps(words))
    expected = rows_of(run_of(tmp_path / "in-order"))
    assert len(expected) == 6 and {status for _, _, status, _ in expected} == {"done"}
    cache.write_text(json.dumps(json.loads(cache.read_text())[::-1]))
    assert rows_of(run_of(tmp_path / "whole")) == expected

    class Killed(BaseException):
        pass

    made: list[object] = []

    def until_killed(*given: object) -> object:
        if len(made) == 2:
            raise Killed
        made.append(given)
        return compute(*given)

    with monkeypatch.context() as patched:
        patched.setattr("artifact.runs.local.compute", until_killed)
        with pytest.raises(Killed):
            run_of(tmp_path / "killed")
    assert len(rows_of(tmp_path / "killed")) == 2
    assert rows_of(run_of(tmp_path / "killed")) == expected
    merge([run_of(tmp_path / f"part{number}", (number, 2)) for number in (2, 1)], tmp_path / "merged")
    assert rows_of(tmp_path / "merged") == expected
