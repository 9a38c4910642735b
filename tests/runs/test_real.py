"""The plan real: facts that the model answers, none of them set aside, in rounds; a real text's second moments."""

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from artifact.cli import call
from artifact.editing.texts import documentation
from artifact.evaluation.metrics import Column
from artifact.facts.aside import is_aside, without_aside
from artifact.facts.datasets import DATASETS
from artifact.facts.datasets.world import world
from artifact.facts.fact import PERSPECTIVES
from artifact.lm.load import load
from artifact.plans import PLANS, narrowed, narrowing_of
from artifact.plans.paper import PAPER_METHODS
from artifact.plans.real import EDITED, REAL, TRACED
from artifact.reporting.by_relation import relation_grids
from artifact.reporting.tables import scored_cases
from artifact.reporting.verdict import measured_run
from artifact.runs.answered import only_answered
from artifact.runs.editors import default_moments
from artifact.runs.inputs import Given
from artifact.runs.resolve import Asked, prepare
from artifact.runs.store import Store, reading
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


def test_windows_are_the_paper_s_share_of_the_depth() -> None:
    for layers, window in ((48, 10), (30, 6), (12, 3), (1, 1)):
        units = REAL.at_depth(layers).units
        assert {unit.window for unit in units if unit.does == "trace"} == {window}
        assert [unit.name for unit in units] == [unit.name for unit in REAL.units]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 40])
@pytest.mark.parametrize("name", ["real", "where", "multiverse", "modern"])
def test_rounds_take_every_batch_once_and_in_order(name: str, count: int) -> None:
    """The plans that take hours are computed in rounds, so that an early stop leaves a part of everything."""
    ((plan,), batches) = PLANS[name], list(range(count))
    assert plan.rounds > 1
    for unit in plan.units:
        parts = [plan.part(unit, batches, number) for number in range(plan.rounds)]
        assert [batch for part in parts for batch in part] == batches
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        if count:  # the unedited model's only batch is needed from the first on, a hundred edits in one model are not
            assert parts[-1 if unit.does == "task" and count == 1 else 0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of a part of the plan on the world's facts, and its lines."""
    folder, said = tmp_path_factory.mktemp("real") / "run", io.StringIO()
    words = f"run real --model world --facts world --methods ft --only table2 --limit 5 --out {folder}"
    with redirect_stdout(said):
        assert call(words.split()) == 0
    return folder, said.getvalue().splitlines()


def test_a_run_takes_what_the_model_answers_and_nothing_that_is_set_aside(ran) -> None:
    """In rounds, and the same facts in every unit."""
    folder, lines = ran
    with reading(folder) as store:
        info = store.info()
        first = [fact.case_id for fact in world().facts if not is_aside(fact)][:5]
        assert info.cases == info.traced.cases == first
        assert all(store.done(unit) == set(first) for unit in info.plan.units)
        assert "are answered by world, the first 5 taken" in info.data_note
    begun = [number for number, line in enumerate(lines) if line.startswith("ft-entity: ")]
    assert len(begun) > 1 and any(line.startswith("unedited: ") for line in lines[begun[0] : begun[-1]])


@pytest.mark.parametrize("name", ["both", "mechanism"])
def test_another_plan_on_real_facts_takes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the plan real: what the model answers, nothing set aside, and second moments of a real text."""
    monkeypatch.setitem(DATASETS, "world", replace(DATASETS["world"], answered=True))
    assert DATASETS["real"].answered and DATASETS["lre"].answered and not DATASETS["known"].answered
    (plan,) = PLANS[name]
    context, info = prepare(plan, Asked("world", given=Given(facts="world"), limit=5), lambda line: None)
    assert info.cases == [fact.case_id for fact in world().facts if not is_aside(fact)][:5]
    assert "are answered by world, the first 5 taken" in info.data_note and context.of_text
    few = only_answered(context.model, context.inputs, plan, 9, context.memory)
    assert few.edited.note.endswith("of the first 5, 5 are answered by world, all taken")
    monkeypatch.undo()
    whole, _ = prepare(plan, Asked("world", limit=5), lambda line: None)
    assert len(whole.inputs.edited.facts) > 5 and not whole.of_text


def test_methods_and_controls_read_all_the_data_however_few_facts_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """RETS sums over the keys of all facts, IKE shows others, a control takes the next: a limit changes none of it."""
    monkeypatch.setitem(DATASETS, "world", replace(DATASETS["world"], answered=True))
    (plan,) = PLANS["modern"]
    found = {}
    for limit in (1, 5):
        asked = Asked("world", given=Given(facts="world"), limit=limit, methods=("rets",))
        context, info = prepare(narrowed(plan, [], ["rets"]), asked, lambda line: None)
        fact = context.inputs.edited.facts[0]
        assert len(info.cases) == limit and len(context.editor("rets").facts) == len(without_aside(world()).facts) > 100
        found[limit] = context.editor("rets").facts_source, context.following(fact)
    assert found[1] == found[5]


def test_numbers_are_shown_by_relation_where_the_data_are(ran, monkeypatch) -> None:
    """A table an edited perspective, as asked from both, a line a relation with enough facts; none for data without
    relations. Traces by their total effects."""
    assert DATASETS["real"].by_relation and DATASETS["lre"].by_relation and not DATASETS["world"].by_relation
    with reading(ran[0]) as store:
        assert relation_grids(measured_run(store)) == []
        cases = store.info().cases
        of = {"many (a)": cases[:3], "few (b)": cases[3:]}
        shown = msgspec.structs.replace(store.info(), relations=of, traced_relations=of, by_relation=True)
        monkeypatch.setattr(Store, "info", lambda self: shown)
        run = measured_run(store)
        (grid,) = relation_grids(run)
        (unit,) = (one for one in shown.plan.units if one.method == "ft" and one.perspective == "entity")
        scored = scored_cases(store, unit)
        cases_F, whole_F = np.array(cases), np.array([0.1, 0.2, 0.6, 0.0, 0.0])
        traces = SimpleNamespace(cases_F=cases_F, clean_F=whole_F + 0.1, corrupted_F=np.full(5, 0.1))
        traced = replace(run, traced=replace(run.traced, traces={("mlp", "relation"): traces}))
        (_, effects) = relation_grids(traced)
    assert (grid.name, grid.columns) == ("by-relation-entity", ("FT", "facts"))
    assert [line.heads for line in grid.lines] == [
        ("entity perspective", "many (a)"), ("relation perspective", "many (a)"),
    ]  # fmt: skip
    for line, asked in zip(grid.lines, PERSPECTIVES, strict=True):
        series = scored["success", Column(asked, "reliability")].among(np.array(cases[:3]))
        assert line.cells[0].mean == pytest.approx(series.values_N.mean()) and line.cells[0].n == 3
        assert str(line.cells[1].number) == "3"
    assert effects.columns == ("relation corrupted", "facts") and effects.lines[0].heads[1] == "many (a)"
    assert effects.lines[0].cells[0].mean == pytest.approx(0.3)


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


def test_relations_are_named_and_told_apart() -> None:
    named = [("P36", "capital"), ("b", "capital"), ("P17", "country"), ("b", "capital"), ("d", None)]
    facts = [
        replace(world().facts[0], case_id=number, relation_id=kind, relation=name)
        for number, (kind, name) in enumerate(named)
    ]
    found = replace(world(), facts=facts).relations()
    assert found == {"capital (P36)": [0], "capital (b)": [1, 3], "country": [2], "d": [4]}
