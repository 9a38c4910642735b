"""The plan real: facts that the model answers, none of them set aside, in rounds; a real text's second moments."""

from pathlib import Path

import pytest

from artifact.cli import call
from artifact.editing.texts import documentation
from artifact.facts.aside import is_aside
from artifact.facts.datasets.world import world
from artifact.lm.load import load
from artifact.plans import PLANS, narrowing_of
from artifact.plans.paper import PAPER_METHODS
from artifact.plans.real import EDITED, REAL, TRACED
from artifact.runs.editors import default_moments
from artifact.runs.store import reading
from artifact.tracing.kinds import TRACE_KINDS

TINY = Path(__file__).parents[1] / "reference" / "models" / "tiny-gpt2"


def test_it_has_every_row_and_every_trace_of_the_paper_s_tables_and_figures() -> None:
    assert PLANS["real"] == (REAL,) and not REAL.of_the_paper and narrowing_of(REAL) == ((), ())
    edits = {(unit.method, unit.perspective) for unit in REAL.units if unit.does == "edit"}
    assert edits == {(name, one) for name in PAPER_METHODS["gpt2-xl"] for one in ("entity", "relation")}
    traces = {(unit.trace_kind.name, unit.perspective) for unit in REAL.units if unit.does == "trace"}
    assert traces == {(k.name, one) for k in TRACE_KINDS.values() if k.figures for one in ("entity", "relation")}
    assert {unit.most for unit in REAL.units if unit.does != "trace"} == {EDITED} and EDITED >= 150
    assert {unit.most for unit in REAL.units if unit.does == "trace"} == {TRACED} and TRACED >= 60


@pytest.mark.parametrize("count", [0, 1, 7, 8, 40])
def test_rounds_take_every_batch_once_and_in_order(count: int) -> None:
    batches = list(range(count))
    parts = [REAL.part(batches, number) for number in range(REAL.rounds)]
    assert [batch for part in parts for batch in part] == batches
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_run_takes_what_the_model_answers_and_nothing_that_is_set_aside(tmp_path, monkeypatch, capsys) -> None:
    """In rounds, with windows of the paper's share of six layers, and the same facts in every unit."""
    monkeypatch.chdir(tmp_path)
    words = "run real --model world --facts world --methods ft --only table2 --only figure2 --limit 5 --out run"
    assert call(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    with reading(Path("run")) as store:
        info = store.info()
        first = [fact.case_id for fact in world().facts if not is_aside(fact)][:5]
        assert info.cases == info.traced.cases == first
        assert {unit.window for unit in info.plan.units if unit.does == "trace"} == {1}
        assert all(store.done(unit) == set(first) for unit in info.plan.units)
        assert "are answered by world, the first 5 taken" in info.data_note
    begun = [number for number, line in enumerate(lines) if line.startswith("ft-entity: ")]
    assert len(begun) > 1 and any(line.startswith("trace-") for line in lines[begun[0] : begun[-1]])


def test_a_model_that_answers_nothing_is_refused_in_a_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["run", "real", "--model", str(TINY), "--facts", "everyday", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "answers none of" in error and not Path("run/run.sqlite").exists()


def test_second_moments_of_a_real_text() -> None:
    paragraphs, words = documentation()
    assert len(paragraphs) == len(set(paragraphs)) > 500 and "documentation" in words
    assert all(len(text.split()) >= 12 and "::" not in text for text in paragraphs)
    moments = default_moments(load(str(TINY), "cpu"), [0], of_text=True)
    assert moments.source.startswith("the first ") and words in moments.source
    assert moments.texts_sha256 != default_moments(load(str(TINY), "cpu"), [0]).texts_sha256
