"""The embedded world's tokenizer, and its statements as token ids.

Word-level: one token a word, which like GPT-2's carries the leading space. The masked twin's has a mask besides, as its
last token, which takes the space before it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from artifact.world.facts import END_OF_TEXT, UNKNOWN, Question, World


class Encoded(NamedTuple):
    """A statement as token ids: with its first word opening a text (`start`) or following a space (`inside`)."""

    start: list[int]
    inside: list[int]
    span: tuple[int, int]  # the subject's tokens, half open
    answer: int  # position of the answer's token


MASK = "[MASK]"


def mask_id(world: World) -> int:
    """The id of the masked twin's mask."""
    return len(world.vocabulary())


def build_tokenizer(world: World, masked: bool = False) -> Tokenizer:
    """The tokenizer over the world's vocabulary, of the masked twin with its mask; id 0 ends a text.

    A word outside the vocabulary becomes the token "<|unk|>"; no token is added at either end.
    """
    vocabulary = {token: index for index, token in enumerate(world.vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # Character offsets of a token leave its leading space out, as a span search expects.
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in (END_OF_TEXT, UNKNOWN)])
    if masked:
        tokenizer.add_special_tokens([AddedToken(MASK, lstrip=True, normalized=False, special=True)])
    return tokenizer


def encode(world: World, statements: Sequence[Question]) -> list[Encoded]:
    """Token ids, subject span and answer position of each statement; ValueError for a word outside the vocabulary."""
    tokenizer = build_tokenizer(world)
    unknown = tokenizer.token_to_id(UNKNOWN)
    encoded = []
    for statement in statements:
        start, inside = tokenizer.encode(statement.text), tokenizer.encode(" " + statement.text)
        if unknown in start.ids or unknown in inside.ids:
            raise ValueError(f"{statement.text!r} holds a word outside the vocabulary; the world's words are fixed")
        first = statement.text.index(statement.subject)
        last = first + len(statement.subject)
        inner = [t for t, (a, b) in enumerate(start.offsets) if a >= first and b <= last]
        encoded.append(Encoded(start.ids, inside.ids, (inner[0], inner[-1] + 1), len(start.ids) - 2))
    return encoded
