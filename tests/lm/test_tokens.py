"""Texts to ids and spans, and the prompts that are refused."""

import pytest

from artifact.errors import PromptError
from artifact.lm.load import LanguageModel


def test_ids_and_spans(model: LanguageModel) -> None:
    encoded = model.tokens.encode("The capital of Saudi Arabia is")
    assert "".join(model.tokens.decode([i]) for i in encoded.ids) == encoded.text
    assert encoded.find("Saudi Arabia") == (3, 4)
    assert encoded.find("audi") == (3,)
    assert encoded.span(0, 0) == ()
    assert len(encoded.ids) == len(encoded.offsets)


def test_no_special_tokens_and_padding_on_the_right(model: LanguageModel) -> None:
    ids = model.tokens.ids("The capital of France is")
    assert model.tokens.end_id not in ids
    padded = model.tokens.pad([ids, ids[:2]], model.decoder.device).tolist()
    assert padded == [ids, ids[:2] + [model.tokens.end_id] * (len(ids) - 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        ("word " * 300, r"has \d+ tokens and the model 128 positions; shorten it"),
    ],
)
def test_refused_prompts(model: LanguageModel, text: str, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        model.tokens.encode(text)


def test_a_part_that_is_not_there(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="'Spain' is not in the prompt 'France'"):
        model.tokens.encode("France").find("Spain")
