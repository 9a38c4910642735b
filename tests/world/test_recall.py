"""What the committed model recalls: by transformers' own pass, and as world.json says."""

import json
from collections.abc import Sequence

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from artifact.lm.load import load_folder
from artifact.sources.catalogue import WORLD
from artifact.world.facts import DEFAULT_SEED, Question, generate
from artifact.world.recall import measure


def probabilities(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast], questions: Sequence[Question]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per question, the probability of the right word and whether it is the most probable one."""
    model, tokenizer = committed
    rows = [tokenizer(question.prompt)["input_ids"] for question in questions]
    ids_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)  # padding comes after the position that is read
    rows_B, last_B = torch.arange(len(rows)), torch.tensor([len(ids) - 1 for ids in rows])
    answer_B = torch.tensor([tokenizer(" " + question.answer)["input_ids"] for question in questions]).squeeze(1)
    with torch.no_grad():
        probability_BV = model(ids_BT).logits[rows_B, last_B].softmax(-1)
    return probability_BV[rows_B, answer_B], (probability_BV.argmax(-1) == answer_B).double()


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_committed_model_recalls_held_out_templates(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast], perspective: str
) -> None:
    world = generate(DEFAULT_SEED)
    _, best = probabilities(committed, world.held_out(perspective))
    right, _ = probabilities(committed, world.main(perspective))
    assert best.mean() > 0.98
    assert right.mean() > 0.93


def test_committed_model_says_none_for_unrelated_pairs(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    world = generate(DEFAULT_SEED)
    _, best = probabilities(committed, world.edit_pairs())
    assert best.mean() > 0.9
    _, unseen = probabilities(committed, world.unseen_pairs(200))
    assert unseen.mean() > 0.9


def test_measured_figures_are_those_of_the_stored_model() -> None:
    stored = json.loads((WORLD / "world.json").read_text(encoding="ascii"))["measured"]
    measured = measure(generate(DEFAULT_SEED), load_folder(WORLD).decoder)
    assert list(measured) == list(stored)
    for name, figures in stored.items():  # of four decimals, the last may be rounded the other way
        assert measured[name] == pytest.approx(figures, abs=1.01e-4), name
