"""Removal and generation of many cases are what single prompts under single edits give."""

from dataclasses import replace

import pytest
import torch

from artifact.editing.edit import Edit, LowRank
from artifact.errors import EditError
from artifact.evaluation.further import further_json, further_scores
from artifact.evaluation.generate import first_sentence, generate, has_sentence, sentences
from artifact.evaluation.score import removals, score_cases
from artifact.lm.device import Memory

CASES = (0, 10, 7, 15)


def edits_of(model, count: int) -> list[Edit]:
    """A strong change of rank one for each case, each of its own."""
    generator = torch.Generator().manual_seed(0)
    name, width = model.decoder.family.name("mlp_down", 1), model.decoder.width

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [Edit({name: LowRank(normal(4 * width, 1), 0.5 * normal(1, width))}) for _ in range(count)]


@pytest.mark.parametrize("edited", [False, True])
def test_texts_together_are_texts_alone(model, facts, edited: bool) -> None:
    """Prompts of different lengths, each under its own edit, in batches of any size."""
    prompts = [facts[case].view(view).reliability[0] for case in CASES for view in ("entity", "relation")]
    edits = edits_of(model, len(prompts)) if edited else None
    together = sentences(model, prompts, edits, Memory(10**9))
    assert together == sentences(model, prompts, edits, Memory(1))
    for row, text in enumerate(together):
        alone = generate(model, prompts[row], max(1, len(text.ids)), edits[row] if edits else None)
        assert alone.ids == text.ids and alone.text == text.text
        assert text.ended or has_sentence(text.text) or len(text.ids) == 40


def test_one_edit_for_all_is_each_under_it(model, facts) -> None:
    (edit,) = edits_of(model, 1)
    prompts = [facts[case].prompt for case in CASES]
    assert sentences(model, prompts, edit) == sentences(model, prompts, [edit] * len(prompts))


@pytest.mark.parametrize(
    ("text", "first", "over"),
    [
        (" Rome. The", "Rome.", True),
        (" Rome.", "Rome.", False),
        ("\n Rome\nParis", "Rome", True),
        (" 3.5 km", "3.5 km", False),
        ("", "", False),
        (" no end", "no end", False),
    ],
)
def test_sentences(text: str, first: str, over: bool) -> None:
    assert first_sentence(text) == first and has_sentence(text) == over


@pytest.mark.parametrize(
    ("text", "target", "first", "over"),
    [
        (" H. Lawrence Culp Jr. He", "H. Lawrence Culp Jr.", "H. Lawrence Culp Jr.", True),
        (" H. Lawrence", "H. Lawrence Culp Jr.", "H. Lawrence", False),
        (" H. Smith. He", "H. Lawrence Culp Jr.", "H.", True),
        (" St. Louis, which. It", "St. Louis", "St. Louis, which.", True),
        (' "St. Louis". It', "St. Louis", '"St. Louis".', True),
        ("", "St. Louis", "", False),
    ],
)
def test_full_stops_within_the_target_end_no_sentence(text: str, target: str, first: str, over: bool) -> None:
    """Of 'H.' and 'St.' nothing could ever be exact."""
    assert first_sentence(text, target) == first and has_sentence(text, target) == over


def test_removal_and_generation_of_cases(tiny, facts) -> None:
    model, chosen = tiny("tiny-gpt2"), [facts[case] for case in CASES]
    edits = edits_of(model, len(chosen))
    scores = further_scores(model, chosen, edits)
    for fact, edit, found in zip(chosen, edits, scores, strict=True):
        (alone,) = further_scores(model, [fact], edit)
        assert further_json(alone)["generation"] == further_json(found)["generation"]
        assert found.removal is not None and alone.removal is not None
        assert found.removal.target_new == pytest.approx(alone.removal.target_new, abs=1e-4)
        assert found.removed == (found.removal.target_new < found.removal.target_true)
        # The "rm" prompt with "None" and the relation, as the relation view's own prompts are scored.
        other = fact.__class__(**{**vars(fact), "add_template": fact.removal_template})
        (scored,) = score_cases(model, [other], edit)
        (asked,) = scored.views["relation"].prompts["reliability"]
        assert found.removal.target_true == pytest.approx(asked.target_new, abs=1e-4)
        assert found.removal.target_new == pytest.approx(asked.target_true, abs=1e-4)
        assert set(found.generation) == {"entity", "relation"}
        written = found.generation["entity"]
        assert written.exact == (first_sentence(written.text).strip(" .") == fact.object_new)


def test_a_removal_that_is_not_finite_is_an_error_as_a_score_is(tiny, facts) -> None:
    model = tiny("tiny-gpt2")
    (edit,) = edits_of(model, 1)
    (name, change), *_ = edit.changes.items()
    broken = replace(edit, changes={name: LowRank(change.left_IR * float("nan"), change.right_RO)})
    for ask in (removals, score_cases):
        with pytest.raises(EditError, match=f"case {CASES[0]}: the loss of a text under its edit is nan, not finite"):
            ask(model, [facts[CASES[0]]], broken)


def test_what_the_model_says_is_exact(tiny, facts) -> None:
    """Asked for its own sentence, the unedited model writes the target."""
    model, fact = tiny("tiny-gptj"), facts[0]
    (text,) = sentences(model, [fact.prompt])
    own = fact.__class__(**{**vars(fact), "object_new": first_sentence(text.text).rstrip(".")})
    (found,) = further_scores(model, [own])
    assert found.generation["entity"].exact and not further_scores(model, [fact])[0].generation["entity"].exact
