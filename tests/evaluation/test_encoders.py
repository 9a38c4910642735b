"""Scores of an encoder equal transformers' own model at the mask, one prompt at a time, edited and not."""

from typing import Any

import pytest
import torch
from family_models import ENCODERS, masked_model

from artifact.editing.edit import Edit, LowRank
from artifact.errors import PromptError
from artifact.evaluation.further import further_scores
from artifact.evaluation.score import cannot_be_asked, removals, score_cases
from artifact.facts.fact import Fact
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


def fact(case_id: int, subject: str, true: str, new: str) -> Fact:
    said = f"The relation of the {{}} and {new} is"
    return Fact(
        case_id,
        subject,
        "P36",
        "The capital of {} is",
        true,
        new,
        (f"The city of {subject}, the capital, is", f"{subject}. The capital is"),
        ("The capital of Spain is",),
        "capital",
        said,
        said.replace(new, true),
        (f"The {subject} is in {new}. The relation is",),
        "language",
    )


FACTS = [fact(0, "France", "Paris", "Rome"), fact(1, "Japan is in the city", "Tokyo", "Seattle")]


@pytest.fixture(scope="module", params=ENCODERS)
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    return masked_model(request.param, 2)


@pytest.mark.parametrize("memory", [1, 10**9])
@torch.no_grad()
def test_scores_are_those_at_the_mask(both: tuple[LanguageModel, Any], memory: int) -> None:
    model, module = both
    family = model.decoder.family
    name, width = family.name("mlp_down", 1), model.decoder.width
    torch.manual_seed(0)
    inner = module.get_submodule(name).weight.shape[1]
    edits = [Edit({name: LowRank(torch.randn(inner, 1), torch.randn(1, width))}) for _ in FACTS]
    for given in (None, edits):
        found = score_cases(model, FACTS, given, Memory(memory))
        for case, one in enumerate(found):
            weight = module.get_submodule(name).weight
            added = edits[case].tensors(model.decoder)[f"{name}.weight"] if given else torch.zeros_like(weight)
            weight += added
            for view in FACTS[case].views():
                prompts = one.views[view.perspective].prompts
                for group in ("reliability", "generality", "specificity"):
                    for prompt, score in zip(getattr(view, group), prompts[group], strict=True):
                        encoded = model.tokens.encode(prompt)
                        log_V = module(torch.tensor([encoded.ids])).logits[0, encoded.mask].log_softmax(-1)
                        ids = [model.tokens.continuation(text)[0] for text in (view.target, view.foil)]
                        assert score.target_new == pytest.approx(-float(log_V[ids[0]]), rel=1e-4)
                        assert score.target_true == pytest.approx(-float(log_V[ids[1]]), rel=1e-4)
                        assert score.new_right == (int(log_V.argmax()) == ids[0])
            weight -= added
    assert [one.target_new for one in removals(model, FACTS) if one] and found[0].views.keys() == {"entity", "relation"}


def test_what_has_several_pieces_is_said(both: tuple[LanguageModel, Any]) -> None:
    model, _ = both
    odd = fact(7, "France", "Paris", "Ouagadougou")
    assert "word pieces, and an encoder's mask stands for one" in cannot_be_asked(model, [odd])[7]
    with pytest.raises(PromptError, match="case 7: the text ' Ouagadougou' has"):
        score_cases(model, [odd])


def test_an_encoder_is_asked_for_no_text(both: tuple[LanguageModel, Any]) -> None:
    model, _ = both
    (one, _) = further_scores(model, FACTS)
    assert one.generation == {} and one.removal is not None
