"""Scores against the golden NLLs (1e-4), and the metrics' definitions."""

import json
import math
from pathlib import Path

import pytest

from artifact.errors import PromptError
from artifact.evaluation.metrics import PromptScore, view_score
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact

KEYS = {
    ("entity", "reliability"): "rewrite_prompts_probs",
    ("entity", "generality"): "paraphrase_prompts_probs",
    ("entity", "specificity"): "neighborhood_prompts_probs",
    ("relation", "reliability"): "addR_prompts_probs",
    ("relation", "generality"): "paraphraseR_prompts_probs",
}
GOLDEN = sorted((Path(__file__).parent.parent / "reference" / "eval").glob("*_unedited.json"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_unedited(file: Path, tiny, facts) -> None:
    scores = score_cases(tiny(file.stem.removesuffix("_unedited")), list(facts.values()))
    records = json.loads(file.read_text())
    assert [score.case_id for score in scores] == [record["case_id"] for record in records]
    for score, record in zip(scores, records, strict=True):
        for (view, group), key in KEYS.items():
            for ours, theirs in zip(score.views[view].prompts[group], record[key], strict=True):
                assert ours.target_new == pytest.approx(theirs["target_new"], abs=1e-4)
                assert ours.target_true == pytest.approx(theirs["target_true"], abs=1e-4)


def prompt(new: float, true: float, new_right: bool = False, true_right: bool = False) -> PromptScore:
    return PromptScore("p", new, true, new_right, true_right)


def test_metrics() -> None:
    found = view_score(
        {
            "reliability": [prompt(0.5, 2.0, new_right=True)],
            "generality": [prompt(0.5, 2.0, new_right=True), prompt(3.0, 1.0)],
            "specificity": [prompt(2.0, 1.0, true_right=True), prompt(1.0, 2.0), prompt(2.0, 1.0)],
        }
    ).metrics
    assert found["reliability"] == {"success": 1.0, "accuracy": 1.0, "magnitude": math.exp(-0.5) - math.exp(-2)}
    assert found["generality"]["success"] == 0.5
    assert found["generality"]["accuracy"] == 0.5
    assert found["specificity"]["success"] == pytest.approx(2 / 3)
    assert found["specificity"]["accuracy"] == pytest.approx(1 / 3)
    expected = (2 * (math.exp(-1) - math.exp(-2)) + (math.exp(-2) - math.exp(-1))) / 3
    assert found["specificity"]["magnitude"] == pytest.approx(expected)


def test_generality_needs_the_edited_prompt_to_be_right() -> None:
    found = view_score({"reliability": [prompt(0.5, 2.0)], "generality": [prompt(0.5, 2.0, new_right=True)]}).metrics
    assert found["generality"]["accuracy"] == 0.0
    assert found["generality"]["success"] == 1.0
    assert found["specificity"] == {"success": None, "accuracy": None, "magnitude": None}


def test_equal_nll_is_no_success() -> None:
    found = view_score({"reliability": [PromptScore("p", 1.0, 1.0, False, False, 1.0)]}, "another relation")
    assert found.metrics["reliability"]["success"] == found.another["reliability"]["success"] == 0.0


def test_one_case_or_many_score_alike(model, facts) -> None:
    chosen: list[Fact] = [facts[case] for case in (0, 10, 26)]
    together = score_cases(model, chosen)
    for fact, score in zip(chosen, together, strict=True):
        (alone,) = score_cases(model, [fact])
        for view, found in alone.views.items():
            for group, prompts in found.prompts.items():
                for one, other in zip(prompts, score.views[view].prompts[group], strict=True):
                    assert one.target_new == pytest.approx(other.target_new, abs=1e-5)
                    assert one.new_right == other.new_right


def test_a_prompt_beyond_the_models_positions(model, facts) -> None:
    from dataclasses import replace

    long = replace(facts[0], paraphrases=("word " * 200,))
    with pytest.raises(PromptError, match="128 positions"):
        score_cases(model, [long])
