"""Questions beyond the paper: predicates over intervals, what a run answers, and the regression of where to edit."""

import json
from importlib import import_module

import msgspec
import numpy as np
import pytest

from artifact.errors import ExpectedError
from artifact.plans import PLANS
from artifact.plans.beyond import QUESTION_PLANS
from artifact.plans.paper import SMOKE
from artifact.plans.tasks import TASKS
from artifact.plans.unit import Plan
from artifact.reporting.cells import Scale
from artifact.reporting.elsewhere import claims_elsewhere
from artifact.reporting.equivalence import MARGIN
from artifact.reporting.expected import load_expected
from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.findings.real import measured
from artifact.reporting.findings.regression import explained
from artifact.reporting.intervals import Estimate
from artifact.reporting.questions import Condition, Question, answered, load_questions, questions_json
from artifact.reporting.verdict import measured_run, verdict_of


@pytest.mark.parametrize(
    ("condition", "low", "high", "answer"),
    [
        (Condition("q", above=0.0), 0.1, 0.2, "yes"),
        (Condition("q", above=0.0), -0.2, 0.0, "no"),
        (Condition("q", above=0.0), -0.1, 0.2, "undecided"),
        (Condition("q", below=0.5), 0.1, 0.4, "yes"),
        (Condition("q", below=0.5), 0.5, 0.6, "no"),
        (Condition("q", below=0.5), 0.4, 0.6, "undecided"),
        (Condition("q", within=0.05), -0.04, 0.04, "yes"),
        (Condition("q", within=0.05), 0.05, 0.2, "no"),
        (Condition("q", within=0.05), -0.3, -0.06, "no"),
        (Condition("q", within=0.05), -0.06, 0.04, "undecided"),
        (Condition("q", below=0.0, negligible=0.05), -0.04, -0.01, "no"),
        (Condition("q", below=0.0, negligible=0.05), -0.06, -0.01, "yes"),
        (Condition("q", above=0.0, negligible=0.05), 0.01, 0.04, "no"),
        (Condition("q", above=0.0, negligible=0.05), -0.06, 0.01, "undecided"),
    ],
)
def test_a_condition_is_read_off_the_interval(condition: Condition, low: float, high: float, answer: str) -> None:
    assert condition.answer(Quantity(Estimate((low + high) / 2, low, high, 9))) == answer


def test_a_question_is_answered_by_its_worst_condition() -> None:
    question = Question("Q", "Is it?", "p", "it is", (Condition("a", above=0), Condition("b", above=0)))
    high, mixed = Quantity(Estimate(1, 0.5, 2, 9)), Quantity(Estimate(1, -1, 2, 9))
    found = {
        "one": {"p": Findings({"a": high, "b": high})},
        "two": {"p": Findings({"a": high, "b": mixed})},
        "three": {"p": Findings({"a": high})},
        "four": {},
        "five": {"p": Findings({"a": Quantity(Estimate(-1, -2, -0.5, 9))})},
        "six": {"p": Findings({"a": high, "b": Quantity(Estimate(-1, -2, -0.5, 9), why="fewer than 10 facts")})},
    }
    (judged,) = answered([question], found)
    answers = {one.model: one.answer for one in judged.answers}
    assert answers == {"one": "yes", "two": "undecided", "three": "not run", "five": "no", "six": "undecided"}
    assert "(n = 9), undecided (fewer than 10 facts)" in judged.answers[-1].words
    (written,) = questions_json([judged])
    assert written["answers"][0]["conditions"][0]["measured"] == {"mean": 1, "low": 0.5, "high": 2, "n": 9}
    assert "was not measured" in judged.answers[2].words


def test_a_question_about_larger_models_is_asked_of_these_alone() -> None:
    question = Question("N", "Larger?", "real", "it is", (Condition("a", above=0),), larger_than=6_100_000_000)
    sizes = {"unsaid": 0, "small": 134_000_000, "large": 6_700_000_000}
    high = Quantity(Estimate(1, 0.5, 2, 9))
    found = {model: {"real": Findings({"a": high}, parameters=size)} for model, size in sizes.items()}
    (judged,) = answered([question], found)
    assert [(one.model, one.answer) for one in judged.answers] == [("large", "yes")]


WHOLE = Plan("real", "a test", tuple(unit for unit in SMOKE.units if unit.method in ("none", "rome")))
"""ROME from both perspectives, and every trace."""


def test_the_paper_s_differences_are_asked_of_other_models_and_data(build, shares) -> None:
    like = {"plan": WHOLE, "cases": 40, "odd_cases": False, "shares": shares}
    store = build(**like, model="smollm2")
    found = measured(store)
    name = "T3, entity reliability after entity minus after relation edits, ROME"
    estimate = found.quantities[name].estimate
    assert estimate.mean == pytest.approx(1.0 - 0.275) and estimate.n == 40
    claims = {claim.id: claim for claim in load_expected().claims if claim.effects}
    assert set(found.quantities) == {name, *(f"{one}, smallest difference" for one in claims)}
    for cases in (8, 40):
        other = build(**(like | {"cases": cases}), model="smollm2")
        quantities = measured(other).quantities
        for one in claims_elsewhere(tuple(claims.values()), measured_run(other)):
            quantity = quantities[f"{one.claim.id}, smallest difference"]
            answer = Condition("a", above=0.0).answer(quantity)
            assert {"holds": "yes", "does not hold": "no"}.get(one.state, "undecided") == answer, "as on the same page"
            assert cases > 8 or quantity.doubt == "fewer than 10 facts" or quantity.estimate is None
    (judged,) = [one for one in verdict_of(store).questions if one.question.id == "Q2"]
    states = {one.quantity: answer for one, _, answer in judged.answers[0].conditions}
    assert states[name] == "yes" and states[name.replace("ROME", "MEMIT")] == "not run"
    asked = {one.quantity for question in load_questions() if question.plan == "real" for one in question.conditions}
    assert asked == set(states)
    # The paper's own models on its data have the verdict, and the embedded world proves nothing.
    papers = like | {"plan": msgspec.structs.replace(WHOLE, models=("gpt2-xl",))}
    assert measured(build(**like, model="world")) is measured(build(**papers, model="gpt2-xl")) is None
    assert measured(build(**like, model="gpt2-xl")) is not None, "the paper's model on other facts"
    edits_alone = Plan("tables", "a test", tuple(unit for unit in WHOLE.units if unit.does != "trace"))
    assert measured(build(**(like | {"plan": edits_alone}), model="smollm2")) is None, "F1 to F4 could not be answered"


def test_the_questions_name_plans_and_a_bad_file_its_field(tmp_path) -> None:
    questions = load_questions()
    assert {question.id for question in questions} >= {"Q1", "N2"}
    assert all(question.conditions for question in questions)
    (interacting,) = [question for question in questions if question.id == "N2"]
    assert {one.negligible for one in interacting.conditions} == {MARGIN}, "an additive interaction is a no"
    words = interacting.conditions[0].words(Scale(2, signed=True))
    assert words.endswith("below 0.00 and not within 0.05 of zero"), "a margin has no sign"
    file = tmp_path / "questions.json"
    content = {"id": "Q", "sentence": "?", "plan": "p", "prediction": "so", "conditions": [{"quantity": "a"}]}
    both = {"quantity": "a", "within": 0.1, "negligible": 0.1}
    for bad, says in ((content, "needs one of above"), (content | {"conditions": [both]}, "within and negligible")):
        file.write_text(json.dumps({"questions": [bad]}))
        with pytest.raises(ExpectedError, match=says):
            load_questions(tmp_path)
    file.write_text(json.dumps({"questions": [content | {"conditions": []}] * 2}))
    with pytest.raises(ExpectedError, match="stands twice"):
        load_questions(tmp_path)


def test_every_task_of_a_plan_is_known_and_beyond_has_every_questions_plan() -> None:
    units = [unit for plans in PLANS.values() for plan in plans for unit in plan.units if unit.does == "task"]
    assert units and {unit.task for unit in units} <= set(TASKS)
    asked = {question.plan for question in load_questions()} & set(PLANS)
    assert asked - {"real"} <= set(QUESTION_PLANS), "the plan real is for pretrained models"
    (beyond,) = PLANS["beyond"]
    assert all(set(import_module(f"artifact.plans.{name}").BEYOND) <= set(beyond.units) for name in QUESTION_PLANS)
    assert len({unit.name for unit in beyond.units}) == len(beyond.units)


def test_the_regression_is_that_of_least_squares() -> None:
    """R squared of layer dummies, and with the effect beside them, are those of numpy's least squares."""
    draw = np.random.default_rng(0)
    effect_FL = draw.normal(size=(12, 4))
    score_FL = draw.normal(size=4) + 0.7 * effect_FL + draw.normal(size=(12, 4))
    found = explained(score_FL, effect_FL)
    assert found is not None and found.rho is not None
    layer = np.tile(np.eye(4), (12, 1))

    def r_squared(design: np.ndarray) -> float:
        y = score_FL.ravel()
        left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        return float(1 - (left**2).sum() / ((y - y.mean()) ** 2).sum())

    alone, both = r_squared(layer), r_squared(np.column_stack([layer, effect_FL.ravel()]))
    assert found.of_layer.mean == pytest.approx(alone)
    assert found.gained.mean == pytest.approx(both - alone)
    assert found.gained.low <= found.gained.mean <= found.gained.high
    from scipy.stats import spearmanr

    rhos = [spearmanr(score_FL[:, at], effect_FL[:, at]).statistic for at in range(4)]
    assert found.rho.mean == pytest.approx(np.mean(rhos))
    assert explained(score_FL[:2], effect_FL[:2]) is None
