"""Texts to token ids, and stretches of text to token positions, by character offsets.

Covers everything that asks a tokenizer: ids and attention never carry token_type_ids (GPT-2 and GPT-J would add an
embedding row to every position for them), and a subject that splits inside a character is found. It does not know
models.

Special tokens: nothing is added behind a text. In front of a prompt stands what the tokenizer itself puts there:
nothing for GPT-2, GPT-J and SmolLM2, the begin token for Llama 3, which never saw a text without it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from artifact.errors import ModelError, PromptError

_DOCUMENTS = "<|endoftext|>"
"""GPT-2's token between documents, which many later vocabularies keep (SmolLM2 among them)."""
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What transformers' clean-up of spaces writes without its spaces, one after the other in this order."""


@dataclass(frozen=True)
class Encoded:
    """A text as token ids with the half-open range of characters each token stands for."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    opening: int = 0
    """How many tokens in front stand for no character."""

    def span(self, start: int, stop: int) -> tuple[int, ...]:
        """Positions of the tokens that hold any of the characters start..stop-1."""
        return tuple(i for i, (a, b) in enumerate(self.offsets) if a < stop and b > start)

    def find(self, part: str) -> tuple[int, ...]:
        """Positions of the tokens of the first occurrence of `part`; PromptError where it does not occur."""
        at = self.text.find(part) if part else -1
        if at < 0:
            raise PromptError(f"{part!r} is not in the prompt {self.text!r}; give a text that the prompt contains")
        return self.span(at, at + len(part))


class Tokens:
    """A transformers tokenizer, asked for ids and offsets only. `limit` is the model's number of positions, `rows`
    that of its embedding's rows: an id beyond them, as of a token that was added to the tokenizer alone, is never used.

    `opening` are the ids that the tokenizer puts in front of every prompt, none or one. `document_id` opens a text that
    has no prompt, as samples do: the opening where there is one, else the token between the documents of pretraining
    (a chat model's begin and end tokens stand around turns), else the begin or end token. `special_ids` are those that
    stand for no text, `special_texts` how they are written. `cleans_spaces`: whether transformers 4, which the released
    code ran on, cleans spaces when it decodes: as the tokenizer's files say, and yes where they say nothing. Raises
    ModelError for a tokenizer that puts a space of its own in front of every text.
    """

    def __init__(self, tokenizer: Any, limit: int, rows: int | None = None) -> None:
        self._tokenizer = tokenizer
        self.limit = limit
        self._rows = sys.maxsize if rows is None else rows
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.opening: tuple[int, ...] = (begin,) if begin is not None and begin in tokenizer("")["input_ids"] else ()
        marked = {token.content: one for one, token in tokenizer.added_tokens_decoder.items() if token.special}
        marked = {text: one for text, one in marked.items() if one < self._rows}
        if beyond := [one for one in self.opening if one >= self._rows]:
            raise ModelError(
                f"the tokenizer opens every text with the id {beyond[0]}, and the model has {self._rows} rows; give "
                "the tokenizer that came with the model"
            )
        begin, end = (None if one is not None and one >= self._rows else one for one in (begin, end))
        known = [one for one in (*self.opening, marked.get(_DOCUMENTS), begin, end) if one is not None]
        if not known:
            raise ModelError("the tokenizer has no begin and no end token; give a model with a tokenizer that has one")
        self.document_id: int = known[0]
        self.end_id: int = known[0] if end is None else end
        self.special_ids: tuple[int, ...] = tuple(sorted({*marked.values(), self.document_id, self.end_id}))
        self.special_texts: tuple[str, ...] = tuple(tokenizer.convert_ids_to_tokens(list(self.special_ids)))
        asked = tokenizer.init_kwargs.get("clean_up_tokenization_spaces")
        self.cleans_spaces: bool = True if asked is None else bool(asked)
        unknown = tokenizer.unk_token_id
        # GPT-2's tokenizers name their end token as the unknown one; bytes leave nothing unknown there.
        self._unknown = None if unknown in (self.document_id, self.end_id) else unknown
        if [*self._plain("a"), *self._plain(" a")] != self._plain("a a"):
            raise ModelError(
                "the tokenizer puts a space of its own in front of a text, so that a target cannot be set behind a "
                "prompt; expected byte-level BPE, as GPT-2, Llama 3 and SmolLM2 have it; give such a model"
            )

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode(self, text: str) -> Encoded:
        """A prompt as ids with offsets, its opening first; PromptError when it is empty, too long, or has a word that
        the model does not know.
        """
        if not text.strip():
            raise PromptError("the prompt is empty; expected a text of at least one token")
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = (*self.opening, *found["input_ids"])
        offsets = (*((0, 0) for _ in self.opening), *(tuple(pair) for pair in found["offset_mapping"]))
        if len(ids) > self.limit:
            raise PromptError(
                f"the prompt {_short(text)!r} has {len(ids)} tokens and the model {self.limit} positions; shorten it"
            )
        if beyond := [at for at, one in enumerate(ids) if one >= self._rows]:
            start, stop = offsets[beyond[0]]
            raise PromptError(
                f"the word {text[start:stop].strip()!r} in {_short(text)!r} is the tokenizer's id {ids[beyond[0]]}, "
                f"and the model has {self._rows} rows; leave it out, or give a model trained with it"
            )
        if self._unknown is not None and self._unknown in ids:
            start, stop = offsets[ids.index(self._unknown)]
            raise PromptError(
                f"the word {text[start:stop].strip()!r} in {_short(text)!r} is not in this model's vocabulary; "
                "use words of its fact file, or another model"
            )
        return Encoded(text, ids, offsets, len(self.opening))

    def ids(self, text: str) -> list[int]:
        """Ids of a text that continues another, as targets do: checked as `encode` checks them, without opening."""
        return list(self.encode(text).ids[len(self.opening) :])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens as they are written, every space kept."""
        return self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def decode_as_released(self, ids: Sequence[int]) -> str:
        """`decode`, with the spaces cleaned up where `cleans_spaces` says so.

        transformers 5 has this for no byte-level BPE any more, so it is done here.
        """
        text = self.decode(ids)
        if self.cleans_spaces:
            for written in _CLEANED:
                text = text.replace(written, written.strip(" "))
        return text

    def pad(self, rows: Sequence[Sequence[int]], device: torch.device, whole: bool = True) -> Tensor:
        """Rows of ids as one (B, T) tensor, padded on the right with the end token; a causal model never sees it.

        PromptError when a row exceeds the model's positions; with `whole` False a row is no one text and may.
        """
        width = max(len(row) for row in rows)
        if whole and width > self.limit:
            raise PromptError(f"a text of {width} tokens exceeds the model's {self.limit} positions; shorten it")
        padded = [[*row, *[self.end_id] * (width - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=device)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
