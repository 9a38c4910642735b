"""Both perspectives of a fact: each arm's edit is what its definition gives with explicit weights."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from artifact.editing.edit import Edit
from artifact.editing.editor import Editor
from artifact.editing.memit import memit
from artifact.editing.methods import METHODS
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.moments.sums import compute_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.evaluation.metrics import VALUES, Column
from artifact.facts.fact import fill
from artifact.facts.records import parse_facts
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, load_folder
from artifact.plans.both import late_layers
from artifact.reporting.expected import load_expected
from artifact.reporting.findings import Findings
from artifact.reporting.findings.both import MARGIN, Scored, _grid, _room_grid, interaction_tests, measured, outcome
from artifact.reporting.intervals import Estimate
from artifact.reporting.questions import answered, load_questions
from artifact.reporting.report import make_report
from artifact.runs.store import begin, reading, writing
from artifact.runs.tasks.both import ANY_KEYS, ARMS, arms

REFERENCE = Path(__file__).parent.parent / "reference"
FOLDER = REFERENCE / "models" / "tiny-gpt2"
PREFIXES = [["{}"], ["The report said. {}", "Yesterday, {}"]]
LAYER = 1


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_folder(FOLDER)


@pytest.fixture(scope="module")
def editor(model: LanguageModel) -> Editor:
    records = json.loads((REFERENCE / "facts.json").read_text())
    texts = [model.tokens.ids(text) for record in records for text in record["neighborhood_prompts"]]
    hparams = MemitHparams(
        layers=(LAYER,), v_loss_layer=model.decoder.layers - 1, v_num_grad_steps=4, mom2_update_weight=10.0
    )
    return Editor(
        model,
        METHODS["memit"],
        hparams,
        PROTOCOLS["released"],
        Memory(10**9),
        prefixes=PREFIXES,
        moments=compute_moments(model, texts, range(model.decoder.layers), "test", ridge=0.1),
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    (fact,) = parse_facts(json.loads((REFERENCE / "facts.json").read_text())[:1], "test")
    return fact.view("entity"), fact.view("relation")


@pytest.fixture(scope="module")
def made(editor: Editor, pair: tuple[Any, Any]) -> Any:
    return arms(editor, [pair])


def weight(model: LanguageModel, edit: object, layer: int = LAYER) -> torch.Tensor:
    assert isinstance(edit, Edit)
    return edit.tensors(model.decoder)[f"transformer.h.{layer}.mlp.c_proj.weight"]


@torch.no_grad()
def key_and_state(text: str, subject: str, model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection's input and the block's output at the subject's last token, in transformers' own model."""
    peer, seen = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval(), {}
    block = peer.transformer.h[LAYER]
    block.mlp.c_proj.register_forward_hook(lambda _, given, __: seen.update(key=given[0]))
    block.register_forward_hook(lambda _, __, output: seen.update(state=output))
    encoded = model.tokens.encode(text)
    start = text.index(subject)
    at = encoded.span(start, start + len(subject))[-1]
    peer(torch.tensor([encoded.ids]))
    state = seen["state"][0] if isinstance(seen["state"], tuple) else seen["state"]
    return seen["key"][0, at].double(), state[0, at].double()


def mean_key(view: Any, model: LanguageModel) -> torch.Tensor:
    texts = [[fill(t, fill(view.template, view.subject)) for t in group] for group in PREFIXES]
    groups = [torch.stack([key_and_state(text, view.subject, model)[0] for text in group]).mean(0) for group in texts]
    return torch.stack(groups).mean(0)


@pytest.mark.parametrize(("arm", "first", "then"), [("E then R", 0, 1), ("R then E", 1, 0)])
def test_then_is_an_edit_of_a_model_whose_files_hold_the_first(
    arm: str, first: int, then: int, made: Any, editor: Editor, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    model = editor.model
    before = weight(model, made.edits[ARMS[first]][0])
    peer = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    peer.transformer.h[LAYER].mlp.c_proj.weight.data += before
    peer.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((FOLDER / file).read_bytes())
    edited = load_folder(tmp_path)
    assert editor.moments is not None
    (second,) = memit(edited, [[pair[then]]], editor.hparams, PREFIXES, editor.moments, editor.protocol)
    torch.testing.assert_close(
        weight(model, made.edits[arm][0]), before + weight(edited, second.edit), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("arm", ["joint", "merged"])
def test_together_is_the_solution_with_explicit_matrices(
    arm: str, made: Any, editor: Editor, pair: tuple[Any, Any]
) -> None:
    """(lambda C + K K^T)^-1 K times what the values are away from the states: two columns, or their mean as one."""
    model, moments = editor.model, editor.moments
    assert moments is not None
    merge = ANY_KEYS if arm == "merged" else None
    (found,) = memit(model, [list(pair)], editor.hparams, PREFIXES, moments, editor.protocol, merge=merge)
    keys = torch.stack([mean_key(view, model) for view in pair], 1)
    states = torch.stack([key_and_state(fill(v.template, v.subject), v.subject, model)[1] for v in pair], 1)
    if arm == "merged":
        keys, states = keys.mean(1, keepdim=True), states.mean(1, keepdim=True)
    assert found.values_ND.shape[0] == keys.shape[1]
    matrix = editor.hparams.mom2_update_weight * moments.matrix(model.decoder, LAYER) + keys @ keys.t()
    expected = torch.linalg.solve(matrix, keys) @ (found.values_ND.double().t() - states).t()
    torch.testing.assert_close(weight(model, made.edits[arm][0]).double(), expected, rtol=1e-3, atol=1e-6)


def test_split_is_the_sum_of_an_early_and_a_late_edit(made: Any, editor: Editor) -> None:
    (split,) = made.edits["split"]
    (late,) = late_layers(editor.model.decoder.layers, len(editor.hparams.layers))
    assert late > LAYER
    torch.testing.assert_close(weight(editor.model, split), weight(editor.model, made.edits["E"][0]))
    assert weight(editor.model, split, late).norm() > 0
    assert set(made.edits) == set(ARMS) and made.cosines[0]["keys"] <= 1


def test_an_interaction_is_the_change_of_both_minus_the_sum_of_the_single_changes() -> None:
    at, column = VALUES.index(("magnitude", Column("entity", "reliability"))), Column("entity", "reliability")

    def facts(*values: float) -> np.ndarray:
        found = np.full((len(values), len(VALUES)), np.nan)
        found[:, at] = values
        return found

    arms_of = {"E": facts(0.5, 0.6, np.nan), "R": facts(0.2, 0.1, 0.3), "joint": facts(0.4, 0.9, 0.1)}
    scored = Scored(np.array([1, 2, 3]), facts(0.1, 0.0, 0.0), arms_of, {})
    found = scored.interaction("joint", "magnitude", column)
    assert found.cases_N.tolist() == [1, 2]  # the third has no entity edit
    np.testing.assert_allclose(found.values_N, [0.3 - 0.4 - 0.1, 0.9 - 0.6 - 0.1])
    np.testing.assert_allclose(scored.over_the_better("joint", "magnitude", column).values_N, [-0.1, 0.3])
    for low, high, word in ((-0.04, 0.04, "additive"), (-0.4, -0.1, "interfering"), (0.1, 0.2, "synergistic")):
        assert outcome(Estimate((low + high) / 2, low, high, 9)) == word
    assert outcome(Estimate(0.0, -2 * MARGIN, MARGIN / 2, 9)) == "undecided"


def test_the_tables_have_both_metrics_and_say_whose_keys_would_be_merged() -> None:
    draw = np.random.default_rng(1)
    before_FV = np.full((40, len(VALUES)), 0.4)
    numbers = {arm: 0.4 + 0.6 * draw.uniform(size=(40, len(VALUES))) for arm in ("E", "R", "joint")}
    keys_F = np.concatenate([np.full(30, 0.5), np.full(10, 0.995)])
    scored = Scored(np.arange(40), before_FV, numbers, {"keys": keys_F})
    grid, room = _grid(scored), _room_grid(scored)
    assert len(grid.columns) == 6 and all(len(line.cells) == 6 for line in grid.lines)
    assert "0.99 or more, which 10 of 40 facts have" in grid.caption
    lines = {line.heads: line.cells for line in grid.lines}
    assert lines["entity reliability", "joint"][-1] == "interfering"
    assert [str(cell.number) for cell in lines["entity reliability", "unedited"][:2]] == ["40.0", "0.400"]
    at = VALUES.index(("success", Column("entity", "reliability")))
    e, r, joint = (numbers[arm][:, at] - 0.4 for arm in ("E", "R", "joint"))
    (cells,) = (line.cells for line in room.lines if line.heads == ("entity reliability", "joint"))
    means = dict(zip(room.columns, (cell.mean for cell in cells), strict=True))
    assert means["I, sum capped, success"] == pytest.approx((joint - np.minimum(e + r, 0.6)).mean())
    assert means["over the better, success"] == pytest.approx((joint - np.maximum(e, r)).mean())


def test_edits_that_do_next_to_nothing_are_not_called_additive() -> None:
    none, large = Estimate(-0.02, -0.03, -0.01, 100), Estimate(0.5, 0.4, 0.6, 100)
    assert outcome(none, little=True) == "too small to tell" and outcome(none) == "additive"
    assert outcome(large, little=True) == "synergistic", "together they do much more than alone"
    draw = np.random.default_rng(0)
    numbers = {arm: 0.01 * draw.normal(size=(40, len(VALUES))) for arm in ("E", "R", "joint")}
    scored = Scored(np.arange(40), np.zeros((40, len(VALUES))), numbers, {"keys": np.zeros(40)})
    assert scored.little("magnitude", Column("entity", "reliability")) and interaction_tests(scored, {}) == ()
    joint = [line.cells[-2:] for line in _grid(scored).lines if line.heads[1] == "joint"]
    assert set(joint) == {("too small to tell", "too small to tell")}, "by success and by magnitude"


def test_weak_single_edits_that_do_much_together_are_synergistic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain no to the prediction that they interfere, and no quantity that was not measured."""
    draw = np.random.default_rng(0)
    means = {"E": 0.0, "R": 0.0, "joint": 0.6}
    numbers = {arm: mean + 0.01 * draw.normal(size=(40, len(VALUES))) for arm, mean in means.items()}

    def found(joint: np.ndarray) -> Findings:
        arms_of = {**numbers, "joint": joint}
        scored = Scored(np.arange(40), np.zeros((40, len(VALUES))), arms_of, {"keys": np.zeros(40)})
        monkeypatch.setattr("artifact.reporting.findings.both.scored_facts", lambda store: scored)
        store: Any = SimpleNamespace(info=lambda: SimpleNamespace(relations={}, model="m"))
        made = measured(store)
        assert made is not None
        return made

    (question,) = (one for one in load_questions() if one.id == "N2")
    strong, none = found(numbers["joint"]), found(numbers["E"])
    assert {one.outcome for one in strong.tests} == {"different"} and len(strong.tests) == 8
    for findings, answer in ((strong, "no"), (none, "undecided")):
        (judged,) = answered([question], {"m": {"both": findings}})
        assert judged.answers[0].answer == answer and "was not measured" not in judged.answers[0].words


def test_interactions_are_held_against_zero_with_the_margin() -> None:
    """Additive is equivalence by two one-sided tests; few facts decide nothing."""
    draw, places = np.random.default_rng(0), [VALUES.index(("magnitude", Column("entity", "reliability")))]

    def of(interaction: float, facts: int) -> Scored:
        def numbers(mean: float) -> np.ndarray:
            found = np.full((facts, len(VALUES)), np.nan)
            found[:, places] = mean + 0.02 * draw.normal(size=(facts, 1))
            return found

        arms_of = {"E": numbers(0.4), "R": numbers(0.1), "joint": numbers(0.5 + interaction)}
        return Scored(np.arange(facts), numbers(0.0), arms_of, {})

    for interaction, facts, outcome_of in ((0.0, 20, "equivalent"), (-0.3, 20, "different"), (-0.3, 4, "undecided")):
        (found,) = interaction_tests(of(interaction, facts), {})
        assert (found.of, found.name, found.outcome) == ("joint", "I, entity reliability, magnitude", outcome_of)
    assert outcome(Estimate(0.0, 0.0, 0.0, 29)) == "undecided: fewer than 30 facts, all alike"


def test_edits_that_fail_within_a_case_are_counted_with_their_reasons(tmp_path: Path) -> None:
    """No case failed, and yet not every number is over every fact: the page says both."""
    folder = Path(shutil.copytree(REFERENCE.parents[1] / "results" / "smollm2-both", tmp_path / "run"))
    with reading(folder) as store:
        info, (unit,) = store.info(), store.info().plan.units
        records = store.records(unit)
    (folder / "run.sqlite").unlink()
    (folder / "run.json").unlink()
    with writing(folder) as store:
        begin(store, info)
        for number, record in enumerate(records):
            if number % 5:
                record.payload["arms"]["joint"] = {"reason": "the change of the weights is zero"}
            store.add(unit, record)
        page = make_report([store], load_expected(), tmp_path / "page").files["report.md"].decode()
    assert "no case failed as a whole, 80 parts of cases did, for the reasons below" in page
    assert "- 80 failed within cases: the change of the weights is zero (both 80;" in page
    assert "Facts whose edit could be computed, where not all could: joint 20." in page
