"""What a model of the embedded world recalls, per set of prompts: after a prompt, or at an encoder's mask.

Shape letters: B question, T token, D width, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from artifact.lm.decoder import Decoder
from artifact.world.facts import Question, World
from artifact.world.tokenizer import encode, mask_id


def measure(world: World, decoder: Decoder) -> dict[str, dict[str, float]]:
    """Greedy recall and mean probability of the right word, by set of prompts.

    Sets: the main prompts of both perspectives, the same with a sampled beginning of text before them, the templates
    held out of training; and, with "None" as the right word, (s, o*) of each edit case and unrelated pairs never
    trained.
    """
    sets: dict[str, list[Question]] = {}
    for name, main, held_out in (
        ("entity", world.main("entity"), world.held_out("entity")),
        ("relation", world.main("relation"), world.held_out("relation")),
        ("none_edit_pairs", world.edit_pairs(), world.edit_pairs(held_out=True)),
    ):
        first = name if name.startswith("none") else f"{name}_main"
        sets |= {first: main, f"{name}_prefixed": prefixed(world, main), f"{name}_held_out": held_out}
    sets["none_unseen_pairs"] = world.unseen_pairs(512)
    return {name: recall(world, decoder, questions) for name, questions in sets.items()}


def prefixed(world: World, questions: Sequence[Question]) -> list[Question]:
    """The questions after a short beginning of text, "words. prompt", drawn from other statements."""
    draw = np.random.RandomState(world.seed + 20_000)
    corpus = world.corpus()
    found = []
    for question in questions:
        other = corpus[draw.randint(len(corpus))]
        while question.subject in other:
            other = corpus[draw.randint(len(corpus))]
        words = other.removesuffix(".").split()[: 2 + draw.randint(9)]
        found.append(Question(f"{' '.join(words)}. {question.prompt}", question.subject, question.answer))
    return found


@torch.no_grad()
def recall(world: World, decoder: Decoder, questions: Sequence[Question]) -> dict[str, float]:
    """Share of questions whose right word is the most probable word, and that word's mean probability."""
    encoded = encode(world, questions)
    ids_BT = pad_sequence([torch.tensor(item.start) for item in encoded], batch_first=True)
    rows_B, answer_B = torch.arange(len(encoded)), torch.tensor([item.answer for item in encoded])
    right_B, read_B = ids_BT[rows_B, answer_B], answer_B - 1
    if not decoder.family.causal:
        ids_BT[rows_B, answer_B], read_B = mask_id(world), answer_B
    aligned = decoder.padded([len(item.start) for item in encoded])
    hidden_BTD = decoder.blocks(decoder.embed(decoder.words(ids_BT), aligned=aligned), aligned=aligned)
    probability_BV = decoder.logits(hidden_BTD[rows_B, read_B]).softmax(-1)
    best, mean = (probability_BV.argmax(-1) == right_B).double().mean(), probability_BV[rows_B, right_B].mean()
    return {"recall": round(best.item(), 4), "probability": round(mean.item(), 4)}
