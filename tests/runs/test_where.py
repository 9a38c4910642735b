"""The plan `where` on the embedded world, whose site is known: the MLP of early layers at the subject's last token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from artifact.editing.site import FACT_TOKENS, MODULES, PRINTED_MODULE, TOKEN_WORDS
from artifact.evaluation.metrics import VALUES, Column
from artifact.plans.unit import Plan, Unit
from artifact.plans.where import TOKENS, units
from artifact.reporting.equivalence import MARGIN
from artifact.reporting.findings.where import Site, _of_every_layer, measured, sites_of
from artifact.reporting.verdict import verdict_of
from artifact.runs.local import compute
from artifact.runs.resolve import Asked, prepare
from artifact.runs.store import begin, reading, writing
from artifact.runs.tasks.where import site_moments

FACTS, STEP = 2, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the entity's units on a few facts."""
    own = tuple(unit for unit in units(FACTS, batch=FACTS, step=STEP) if unit.perspective == "entity")
    plan = Plan("where", "a test", own)
    context, info = prepare(plan, Asked("world", device="cpu", memory="1GB"), lambda line: None)
    facts = context.inputs.edited.facts[:FACTS]
    folder = tmp_path_factory.mktemp("where") / "run"
    with writing(folder) as store:
        begin(store, info)
        for unit in own:
            for record in compute(unit, facts, context):
                assert record.status == "done", record.payload
                store.add(unit, record)
    assert context.model.weights_hash() == info.weights_sha256
    return folder


def test_the_worlds_known_site_comes_out(run: Path) -> None:
    """Of all sites only the MLP in the first half of the layers at the subject's last token is right in everything."""
    with reading(run) as store:
        sites = sites_of(store)
        assert {(module, token) for _, module, token in sites} == {(m, t) for m in MODULES for t in FACT_TOKENS}
        best = {key: site.whole("entity") for key, site in sites.items()}
        (known,) = [key for key, whole_L in best.items() if whole_L.max() == max(one.max() for one in best.values())]
        assert known == ("entity", "mlp", "subject_last")
        assert sites[known].best_layer("entity") < len(sites[known].layers) / 2
        last, shared = sites["entity", "mlp", "last"], sites["entity", "mlp", "relation_last"]
        assert shared.shared == FACTS
        np.testing.assert_array_equal(last.written_FL, shared.written_FL)
        assert np.isfinite(last.effects_FL).all() and np.abs(last.effects_FL).max() > 0


def test_the_questions_answer_what_was_run_and_change_no_exit_code(run: Path) -> None:
    with reading(run) as store:
        found = measured(store)
        assert found is not None and found.figure == "where"
        (chart,) = found.charts
        info = store.info()
        for panel in chart.panels:
            (effect,) = (line for line in panel.lines if line.name == "effect")
            last = effect.estimates[-1]
            if "subject" in panel.title:  # the last layer's output at the subject is read by nothing
                assert last is not None and last.low == last.mean == last.high == 0, "no share of facts"
            layers = {line.name: line.layers for line in panel.lines}
            assert layers["effect"] == tuple(range(info.layers)), "traced at every layer, edited at some"
            assert layers["reliability"] == tuple(range(0, info.layers, STEP))
        assert "the MLP of its own block reads the attention's output" in found.grids[0].caption
        tested = {(one.of, one.name): one for one in found.tests}
        assert len(tested) == len(found.tests) == 2 * len(found.grids[0].lines)
        for (perspective, module, token), site in sites_of(store).items():
            if site.shared < len(site.cases_F):
                of = f"{perspective}: {PRINTED_MODULE[module]}, {TOKEN_WORDS[token]}"
                gain = (site.written_FL - site.before_F[:, None]).mean()
                assert tested[of, "gain of edits"].estimate.mean == pytest.approx(gain)
                assert tested[of, "gain of edits"].margin == MARGIN
        verdict = verdict_of(store)
        (asked,) = [one for one in verdict.questions if one.question.id == "Q1"]
        assert [answer.answer for answer in asked.answers] == ["not run"]  # the relation's units were not asked for
        assert verdict.exit_code == 0
        assert all(line.cells for line in found.grids[0].lines)


def test_a_unit_names_its_site_and_its_tokens() -> None:
    every = units(5, batch=2, step=3)
    assert {(unit.option("site"), unit.perspective) for unit in every} == {
        (site, perspective) for site in MODULES for perspective in ("entity", "relation")
    }
    assert set(TOKENS.split()) == set(FACT_TOKENS) and every[0].option("step") == 3
    assert msgspec.json.decode(msgspec.json.encode(every[0]), type=Unit) == every[0]


def test_a_rewrite_score_is_the_share_of_what_was_left_to_gain() -> None:
    values = np.full((1, 2, len(VALUES)), np.nan)
    site = Site(np.array([1]), (0, 1), values, np.array([0.2]), np.array([[0.6, 0.2]]), np.zeros((1, 2)), 0, "")
    np.testing.assert_allclose(site.rewrite_FL, [[0.5, 0.0]])
    assert site.whole("entity").tolist() == [-1, -1]


def test_the_best_layer_is_chosen_without_neighbours_too() -> None:
    """By what the facts have prompts for: a file of one's own may have no neighbours."""
    values = np.full((1, 2, len(VALUES)), np.nan)
    for group, by_layer in (("reliability", (0.0, 1.0)), ("generality", (0.5, 0.5))):
        values[0, :, VALUES.index(("success", Column("entity", group)))] = by_layer
    effects_FA = np.arange(6.0)[None]
    site = Site(np.array([1]), (4, 5), values, np.array([0.2]), np.zeros((1, 2)), effects_FA, 0, "")
    assert site.whole("entity").tolist() == [0.25, 0.75] and site.best_layer("entity") == 1
    assert site.effects_FL.tolist() == [[4.0, 5.0]]


def test_a_journal_of_before_has_effects_of_edited_layers_alone() -> None:
    assert _of_every_layer([0.1, 0.2, 0.3], (0, 1, 2), 3) == [0.1, 0.2, 0.3]
    np.testing.assert_equal(_of_every_layer([0.1, 0.2], (0, 2), 4), [0.1, np.nan, 0.2, np.nan])
    np.testing.assert_equal(_of_every_layer([], (0, 2), 2), [np.nan, np.nan])


def test_second_moments_are_of_the_layers_that_are_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once for a module, and again where another task asks for more layers."""
    asked = []

    def computed(model: None, layers: list[int], memory: None, site: str, of_text: bool) -> object:
        asked.append((site, layers, of_text))
        return object()

    monkeypatch.setattr("artifact.runs.tasks.where.default_moments", computed)
    context: Any = SimpleNamespace(moments_folder=None, kept={}, model=None, memory=None, of_text=True)
    first = site_moments(context, "mlp", (3, 1))
    assert site_moments(context, "mlp", (1,)) is first and site_moments(context, "mlp", (5,)) is not first
    site_moments(context, "attn", (5,))
    assert asked == [("mlp", [1, 3], True), ("mlp", [1, 3, 5], True), ("attn", [5], True)]
