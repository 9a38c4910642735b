"""Texts to token ids, and stretches of text to token positions, by character offsets.

Covers everything that asks a tokenizer: ids and attention never carry token_type_ids (GPT-2 and GPT-J would add an
embedding row to every position for them), and a subject that splits inside a character is found.

A prompt starts with the tokenizer's own special tokens, found by asking it: none for GPT-2, GPT-J and SmolLM2, the
begin token for Llama 3, which never saw a text without it. A special token after a text (an end token) is left out: a
prompt goes on.

An encoder's prompt keeps its closing tokens, and holds a mask where the answer stands: where the text has it, else
after the text and before a full stop. Its continuation is the one word piece that the mask stands for.

A continuation's ids are those that the tokenizer gives the text after another one. A tokenizer that puts a space of its
own before a text (sentence-piece, as Llama 2's) is asked with a sign before it, which is then cut off.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from artifact.errors import ModelError, PromptError
from artifact.terminal import short

_DOCUMENTS = "<|endoftext|>"
"""GPT-2's token between documents, which many later vocabularies keep (SmolLM2 among them)."""
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What transformers' clean-up of spaces writes without its spaces, one after the other in this order."""
_PROBES = (("a", " a"), ("is", " the a"), ("The capital of France is", " New Delhi"))
"""Texts and what may follow them: the ids of both are those of the whole, or the tokenizer is refused."""
_SIGNS = ("\n", ".", "1", "a")
"""What a continuation is put after, where a tokenizer would put a space before it: the first that stays a token."""
_BEGIN_TOKENS = ("<s>", "<|begin_of_text|>", "<bos>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>")
"""Begin tokens of pretraining; others, such as <|im_start|>, stand around a chat's turns."""


@dataclass(frozen=True)
class Encoded:
    """A text as token ids with the half-open range of characters each token stands for."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    opening: int = 0
    """How many tokens at the start stand for no character."""
    closing: int = 0
    """How many tokens at the end are not of the text that was given: special ones, an encoder's mask and full stop."""
    mask: int | None = None
    """Position of an encoder's mask."""

    @property
    def read(self) -> int:
        """The position where the answer is read: the mask, or the last token."""
        return len(self.ids) - 1 if self.mask is None else self.mask

    @property
    def words(self) -> tuple[int, ...]:
        """Positions of the tokens of the text that was given, but for a mask."""
        return tuple(i for i in range(self.opening, len(self.ids) - self.closing) if i != self.mask)

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

    `opening` are the ids that the tokenizer puts before every prompt, mostly none or one. `document_ids` open a text
    that has no prompt, as samples do: the opening where there is one, else `document_id`, the token between the
    documents of pretraining (a chat model's begin and end tokens stand around turns), else the begin or end token.
    `special_ids` are those that stand for no text, `special_texts` how they are written. `byte_level`: tokens are
    bytes of the text and its spaces, as those of GPT-2. `cleans_spaces`: whether transformers 4, which the released
    code ran on, cleans spaces when it decodes: as the tokenizer's files say, and yes where they say nothing. `notes`
    are lines for the user. `begin` is the begin token that the model's configuration names, where it means one;
    `limited_by` its key that allows fewer positions than the model has, such as sliding_window. `masked`: it is an
    encoder's, whose prompts also end in the `closing` ids and hold the mask once (`mask_id`, else None). `padding` is
    an id that the model gives no position of its own, and that no text may hold.

    Raises ModelError for a tokenizer without offsets, with no begin and no end token, with tokens of its own inside a
    text, for one whose ids of a continuation cannot be told, and for an encoder's without a mask token.
    """

    def __init__(
        self,
        tokenizer: Any,
        limit: int,
        rows: int | None = None,
        begin: int | None = None,
        limited_by: str = "",
        masked: bool = False,
        padding: int | None = None,
    ) -> None:
        self._tokenizer, self._padding = tokenizer, padding
        self.limit = limit
        self._positions = f"{limit} positions" + (f" ({limited_by})" if limited_by else "")
        self._rows = sys.maxsize if rows is None else rows
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError("the tokenizer tells no character offsets; give a model with a fast one (tokenizer.json)")
        self.opening, closing = self._frame()
        self.closing: tuple[int, ...] = closing if masked else ()
        if beyond := [token for token in self.opening if token >= self._rows]:
            raise ModelError(
                f"the tokenizer opens every text with the id {beyond[0]}, and the model has {self._rows} rows; give "
                "the tokenizer that came with the model"
            )
        self.mask_id: int | None = self._mask() if masked else None
        marked = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        marked = {text: number for text, number in marked.items() if number < self._rows}
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        begin_id, end = (None if number is not None and number >= self._rows else number for number in named)
        known = [at for at in (*self.opening, marked.get(_DOCUMENTS), begin_id, end) if at is not None]
        if not known:
            raise ModelError("the tokenizer has no begin and no end token; give a model with a tokenizer that has one")
        self.document_id: int = known[0]
        self.document_ids: tuple[int, ...] = self.opening or (self.document_id,)
        self.end_id: int = known[0] if end is None else end
        special = {*marked.values(), *self.opening, *self.closing, self.document_id, self.end_id}
        self.special_ids: tuple[int, ...] = tuple(sorted(special))
        self.special_texts: tuple[str, ...] = tuple(tokenizer.convert_ids_to_tokens(list(self.special_ids)))
        cleans = tokenizer.init_kwargs.get("clean_up_tokenization_spaces")
        self.cleans_spaces: bool = True if cleans is None else bool(cleans)
        unknown = tokenizer.unk_token_id
        # GPT-2's tokenizers name their end token as the unknown one; bytes leave nothing unknown there.
        self._unknown = None if unknown in (self.document_id, self.end_id) else unknown
        self._signs = self._how_to_continue()
        pieces = tokenizer.convert_ids_to_tokens(self._plain(" a"))
        self.byte_level: bool = self._signs == ("",) and bool(pieces) and pieces[0].startswith("\u0120")
        self.notes: tuple[str, ...] = self._begin_notes(begin)

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer puts before and after a text, as it does for every one of the probes."""
        frames: set[tuple[tuple[int, ...], tuple[int, ...]] | None] = set()
        for text, _ in _PROBES:
            plain, whole = self._plain(text), self._tokenizer(text, verbose=False)["input_ids"]
            places = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
            # Where a text has no token at all, what comes before it cannot be told from what comes after.
            told = places and (plain or not whole)
            frames.add((tuple(whole[: places[0]]), tuple(whole[places[0] + len(plain) :])) if told else None)
        (frame, *others) = frames
        if others or frame is None:
            raise ModelError(
                "the tokenizer does not put the same tokens before every text; expected special tokens before or "
                "after a text and its own tokens between them; give a model with such a tokenizer"
            )
        return frame

    def _mask(self) -> int:
        mask = self._tokenizer.mask_token_id
        if mask is None or mask >= self._rows:
            raise ModelError(
                "the tokenizer has no mask token that the model knows, and an encoder answers at one; give the "
                "tokenizer that came with the model"
            )
        return int(mask)

    def _how_to_continue(self) -> tuple[str, ...]:
        """The signs to put before a continuation, tried in order; an empty one where its ids are those of the text."""
        spaced = all(self._plain(text) == self._plain(f" {text}") for text, _ in _PROBES)
        for signs in (_SIGNS,) if spaced else (("",), _SIGNS):
            self._signs = signs
            try:
                if all([*self._plain(text), *self._after(more)] == self._plain(text + more) for text, more in _PROBES):
                    return signs
            except PromptError:
                pass
        raise ModelError(
            "the tokenizer gives a text other tokens where it stands after a prompt, so that a target cannot be told; "
            "expected byte-level BPE or sentence-piece, as GPT-2, Llama 2, Llama 3 and SmolLM2 have it; give such a "
            "model"
        )

    def _after(self, text: str) -> list[int]:
        """Ids of a text where it stands after another; PromptError where they cannot be told."""
        for sign in self._signs:
            before = self._plain(sign) if sign else []
            encoded = self._tokenizer(sign + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids, count = encoded["input_ids"], len(before)
            if (
                (before or not sign)
                and ids[:count] == before
                and (len(ids) == count or encoded["offset_mapping"][count][0] >= len(sign))
            ):
                return ids[count:]
        raise PromptError(f"the text {short(text)!r} has no tokens of its own after a prompt; give another")

    def _begin_notes(self, begin: int | None) -> tuple[str, ...]:
        """A line where the model's begin token is known and the tokenizer does not put it before a text."""
        if not isinstance(begin, int) or begin in self.opening or not 0 <= begin < len(self._tokenizer):
            return ()
        text = self._tokenizer.convert_ids_to_tokens(begin)
        if text not in _BEGIN_TOKENS and not self._tokenizer.init_kwargs.get("add_bos_token"):
            return ()
        return (
            f"the configuration names the begin token {text!r}, and the tokenizer does not put it before a text; if "
            "the model was trained with it, give the model's own tokenizer files",
        )

    def encode(self, text: str) -> Encoded:
        """A prompt as ids with offsets, its opening first; PromptError when it is empty, too long, not UTF-8, or has a
        word that the model does not know, and for an encoder's with several masks.
        """
        if self.mask_id is None:
            return self._framed(text)
        mask = self._tokenizer.convert_ids_to_tokens(self.mask_id)
        given = mask in text
        encoded = self._framed(text if given or not text.strip() else f"{text} {mask}.")
        at = [position for position, token in enumerate(encoded.ids) if token == self.mask_id]
        if len(at) != 1:
            raise PromptError(f"the prompt {short(text)!r} has {len(at)} masks ({mask}); give one, or none at its end")
        return replace(encoded, mask=at[0], closing=encoded.closing if given else len(encoded.ids) - at[0])

    def _framed(self, text: str) -> Encoded:
        """A text between the opening and the closing."""
        if not text.strip():
            raise PromptError("the prompt is empty; expected a text of at least one token")
        _check_text(text)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = (*self.opening, *encoded["input_ids"], *self.closing)
        none = (0, 0)
        own = (tuple(pair) for pair in encoded["offset_mapping"])
        offsets = (*(none for _ in self.opening), *own, *(none for _ in self.closing))
        if len(ids) > self.limit:
            raise PromptError(
                f"the prompt {short(text)!r} has {len(ids)} tokens and the model {self._positions}; shorten it"
            )
        if beyond := [at for at, token in enumerate(ids) if token >= self._rows]:
            start, stop = offsets[beyond[0]]
            raise self._is_beyond(text[start:stop], text, ids[beyond[0]])
        if self._padding is not None and self._padding in ids:
            start, stop = offsets[ids.index(self._padding)]
            raise PromptError(f"the prompt {short(text)!r} holds the padding token {text[start:stop]!r}; leave it out")
        if self._unknown is not None and self._unknown in ids:
            start, stop = offsets[ids.index(self._unknown)]
            raise self._is_unknown(text[start:stop], text)
        return Encoded(text, ids, offsets, len(self.opening), len(self.closing))

    def _is_beyond(self, word: str, text: str, token: int) -> PromptError:
        return PromptError(
            f"the word {word.strip()!r} in {short(text)!r} is the tokenizer's id {token}, and the model has "
            f"{self._rows} rows; leave it out, or give a model trained with it"
        )

    def _is_unknown(self, word: str, text: str) -> PromptError:
        return PromptError(
            f"the word {word.strip()!r} in {short(text)!r} is not in this model's vocabulary; "
            "use words of its fact file, or another model"
        )

    def ids(self, text: str) -> list[int]:
        """Ids of a text that stands alone, checked as `encode` checks them, without opening, closing and mask."""
        encoded = self._framed(text)
        return list(encoded.ids[encoded.opening : len(encoded.ids) - encoded.closing])

    def whole(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text between the opening and the closing: what the model read in its training."""
        return [*self.opening, *ids, *self.closing]

    def count(self, text: str) -> int:
        """How many ids a text has, however many they are."""
        return len(self.whole(self._plain(text)))

    def continuation(self, text: str) -> list[int]:
        """Ids of a text that goes on after another, as " Paris" after a prompt, or of an encoder's one word piece that
        stands at its mask; PromptError as `encode` raises it.
        """
        if not text.strip():
            raise PromptError("the text after a prompt is empty; expected a text of at least one token")
        _check_text(text)
        ids = self._after(text if self.mask_id is None else f" {text.strip()}")
        if self.mask_id is not None and len(ids) > 1:
            raise PromptError(
                f"the text {short(text)!r} has {len(ids)} word pieces, and an encoder's mask stands for one; give a "
                "text of one piece"
            )
        if not ids:
            raise PromptError(f"the text {short(text)!r} has no token in this model's vocabulary; give another")
        if beyond := [token for token in ids if token >= self._rows]:
            raise self._is_beyond(self.decode(beyond[:1]), text, beyond[0])
        if self._unknown is not None and self._unknown in ids:
            words = text.split()
            raise self._is_unknown(next((w for w in words if self._unknown in self._after(f" {w}")), text), text)
        return ids

    def fed(self, prompt: Encoded, target: Sequence[int]) -> tuple[int, ...]:
        """The ids of a prompt and of what follows it, but for the last, which is only read.

        PromptError when they are more than the model's positions.
        """
        ids = (*prompt.ids, *target[:-1])
        if len(ids) > self.limit:
            raise PromptError(
                f"the prompt {short(prompt.text)!r} of {len(prompt.ids)} tokens with the {len(target)} tokens after "
                f"it exceeds the model's {self._positions}; shorten one of them"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens as they are written, every space kept."""
        return self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def label(self, token: int) -> str:
        """The text of one token, to be read by people; the bytes of a part of a character as <0xE6>."""
        text = self.decode([token])
        if "\ufffd" not in text:
            return text
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not all(letter in _BYTES for letter in piece):
            return piece
        raw = bytes(_BYTES[letter] for letter in piece)
        return "".join(
            f"<0x{ord(letter) - 0xDC00:02X}>" if 0xDC80 <= ord(letter) <= 0xDCFF else letter
            for letter in raw.decode("utf-8", "surrogateescape")
        )

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

        PromptError when a row exceeds the model's positions; not so with `whole` False, for rows of several texts.
        """
        width = max(len(row) for row in rows)
        if whole and width > self.limit:
            raise PromptError(f"a text of {width} tokens exceeds the model's {self._positions}; shorten it")
        padded = [[*row, *[self.end_id] * (width - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=device)


def _check_text(text: str) -> None:
    """PromptError for what came from bytes that are not UTF-8, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"the text {short(text)!r} holds bytes that are not UTF-8; write it in UTF-8") from None


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte, and the byte: its own where it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()
