"""What stands before a text and what follows a prompt, for the kinds of tokenizers that models have.

Each kind is made here over one vocabulary: byte-level BPE with and without a space of its own, sentence-piece as
Llama 2 has it (a space before the first word, by a normaliser or by the pre-tokenizer), and one that reads over spaces.
"""

from typing import Any

import pytest
import torch
from pieces import pieces
from tiny_llama import SPECIAL, VOCABULARY, byte_tokenizer
from tokenizers import pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from artifact.errors import ModelError, PromptError
from artifact.lm.tokens import Tokens


def spaced_bytes() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a space before a text."""
    made = byte_tokenizer()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


KINDS: dict[str, Any] = {
    "bytes": byte_tokenizer,
    "bytes with a space": spaced_bytes,
    "pieces, first": lambda: pieces("first"),
    "pieces, always": lambda: pieces("always"),
    "pieces, never": lambda: pieces("never"),
    "pieces, by the normaliser": lambda: pieces(None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_and_its_continuation_are_the_ids_of_the_whole(kind: str) -> None:
    made = KINDS[kind]()
    tokens = Tokens(made, 64)
    prompt = "The capital of France is"
    for target in ("New Delhi", "Tokyo", "東京", "the city, of Île", "None"):
        whole = made(f"{prompt} {target}", add_special_tokens=False)["input_ids"]
        assert [*tokens.encode(prompt).ids[len(tokens.opening) :], *tokens.continuation(f" {target}")] == whole
    # Without its space a text is not the word, but what follows a letter.
    glued = tokens.continuation("None")
    assert glued != tokens.continuation(" None") and "".join(map(tokens.label, glued)).strip() == "None"
    assert "▁" not in made.convert_ids_to_tokens(glued)[0] and "Ġ" not in made.convert_ids_to_tokens(glued)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_is_the_subjects(kind: str) -> None:
    tokens = Tokens(KINDS[kind](), 64)
    encoded = tokens.encode("The capital of Saudi Arabia, 東京, is")
    for subject in ("Saudi Arabia", "東京"):
        span = encoded.find(subject)
        assert tokens.decode([encoded.ids[i] for i in span]).strip() == subject


def test_text_stands_for_ids_in_bytes_alone() -> None:
    assert {kind: Tokens(made(), 64).byte_level for kind, made in KINDS.items()} == {
        kind: kind == "bytes" for kind in KINDS
    }


def test_a_label_is_never_a_part_of_a_character() -> None:
    for made in KINDS.values():
        tokens = Tokens(made(), 64)
        labels = [tokens.label(one) for one in tokens.encode("In 東京 it is").ids]
        assert "\ufffd" not in "".join(labels) and "<0xE6>" in "".join(labels)


def test_a_tokenizer_that_reads_over_spaces_is_refused() -> None:
    """What it makes of a target depends on the prompt, so there are no ids to append."""
    with pytest.raises(ModelError, match="other tokens where it stands after a prompt.*expected byte-level BPE or"):
        Tokens(pieces(None, over_spaces=True), 64)


def template(single: str) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, made.convert_tokens_to_ids(name)) for name in SPECIAL]
    )
    return made


@pytest.mark.parametrize(
    ("single", "opening"),
    [
        ("$A", ()),
        ("<|im_start|> $A", (1,)),
        ("<|endoftext|> <|im_start|> $A", (0, 1)),
        ("<|im_start|> $A <|im_end|>", (1,)),
        ("$A <|im_end|>", ()),
    ],
)
def test_the_opening_is_what_the_tokenizer_puts_there(single: str, opening: tuple[int, ...]) -> None:
    """Whatever the configuration calls the begin token; what it would put after a text is left out."""
    made = template(single)
    made.bos_token = None
    tokens, plain = Tokens(made, 64), Tokens(template("$A"), 64)
    encoded = tokens.encode("The capital")
    assert tokens.opening == opening and encoded.ids == (*opening, *plain.encode("The capital").ids)
    assert encoded.opening == len(opening) and encoded.find("The") == (len(opening),)
    assert tokens.document_ids == (opening or (0,))
    assert tokens.continuation(" capital") == plain.continuation(" capital") and set(opening) <= set(tokens.special_ids)


class Odd:
    """A tokenizer that puts its own token into a text."""

    is_fast, bos_token_id, eos_token_id = True, 1, 2

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [5, 6, 7]
        return {"input_ids": [5, 1, 6, 7] if add_special_tokens else ids}


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ModelError, match="does not put the same tokens before every text"):
        Tokens(Odd(), 64)
    with pytest.raises(ModelError, match="tells no character offsets; give a model with a fast one"):
        Tokens(object(), 64)


def test_a_begin_token_that_the_model_knows_and_the_tokenizer_leaves_out() -> None:
    made = pieces("first")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    (line,) = Tokens(made, 64, begin=1).notes
    assert "names the begin token '<s>', and the tokenizer does not put it before a text" in line
    assert Tokens(made, 64).notes == () and Tokens(pieces("first"), 64, begin=1).notes == ()
    # A chat's begin of a turn, as SmolLM2's, never stood before the texts of its pretraining.
    assert Tokens(byte_tokenizer(), 64, begin=1).notes == () and Tokens(made, 64, begin=VOCABULARY * 9).notes == ()


def test_texts_that_cannot_follow_a_prompt() -> None:
    tokens = Tokens(byte_tokenizer(), 8)
    with pytest.raises(PromptError, match="the text after a prompt is empty"):
        tokens.continuation(" ")
    for ask in (tokens.encode, tokens.continuation):
        with pytest.raises(PromptError, match="holds bytes that are not UTF-8"):
            ask(" \udcff")
    prompt = tokens.encode("The city of")
    target = tokens.continuation(" Seattle is the city of Paris, and the capital")
    fits = target[: 8 - len(prompt.ids) + 1]
    assert tokens.fed(prompt, fits) == (*prompt.ids, *fits[:-1]) and len(tokens.fed(prompt, fits)) == 8
    with pytest.raises(PromptError, match="tokens with the .* tokens after it exceeds the model's 8 positions"):
        tokens.fed(prompt, [*fits, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_at_the_start_and_after_a_space_is_found_whole(kind: str) -> None:
    """Peers take one token too few or too many where the subject opens the prompt, or stands after a space."""
    tokens = Tokens(KINDS[kind](), 64)
    for text in ("New Delhi is in", "The city of New Delhi is in", "In New Delhi"):
        encoded = tokens.encode(text)
        span = encoded.find("New Delhi")
        assert tokens.decode([encoded.ids[at] for at in span]).strip() == "New Delhi"
        before = tokens.encode(text[: text.index("New Delhi")].strip() or "New Delhi")
        first = len(before.ids) if text.index("New Delhi") else encoded.opening
        assert span[0] == first and encoded.offsets[span[-1]][1] == text.index("New Delhi") + len("New Delhi")


def test_a_token_that_merges_the_subjects_end_with_what_follows_is_its_last() -> None:
    """Sentence-piece writes `Tokyo.` as one piece: the subject's last token is that piece, not the one before it."""
    tokens = Tokens(pieces("first"), 64)
    encoded = tokens.encode("The capital of Japan is Tokyo.")
    span = encoded.find("Tokyo")
    start, stop = encoded.offsets[span[-1]]
    assert encoded.text[start:stop].endswith("Tokyo.") and span[-1] == len(encoded.ids) - 1
    assert tokens.encode("The capital of Japan is Tokyo").find("Tokyo")[0] == span[0]


def test_a_begin_token_moves_every_place_by_one() -> None:
    opened, plain = Tokens(byte_tokenizer(begins=True), 64), Tokens(byte_tokenizer(), 64)
    for text in ("France is", "The capital of France is"):
        places = opened.encode(text).find("France"), plain.encode(text).find("France")
        assert places[0] == tuple(at + 1 for at in places[1])


def test_a_missing_pad_token_is_not_needed() -> None:
    made = byte_tokenizer()
    assert made.pad_token_id is None
    tokens = Tokens(made, 64)
    rows = [tokens.ids("The capital"), tokens.ids("The capital of France is")]
    padded = tokens.pad(rows, torch.device("cpu"))
    assert padded.shape == (2, len(rows[1])) and padded[0, : len(rows[0])].tolist() == rows[0]
