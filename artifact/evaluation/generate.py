"""What a model goes on with after prompts, token by token, the likeliest each time; edited or not.

Covers many prompts together, each under its own edit; a row that has come to its end leaves the batch. The edits act on
the rows of the pass, so the model's weights stay as they are. Stored keys and values make each new token cost one
token. What an edit puts before every prompt (Edit.context) is put before these. Drawn texts are editing/prefixes.py's.

Shape letters as in lm/decoder.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from artifact.editing.edit import Edit, row_edits
from artifact.errors import EditError, PromptError
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder, LayerKeys
from artifact.lm.device import Memory, batches, default_memory, in_one, row_bytes
from artifact.lm.family import RowEdits
from artifact.lm.load import LanguageModel

LONGEST_SENTENCE = 40
"""Most tokens of a sentence that is generated."""
AROUND = " \"'.,;:!?"
"""What may stand around an answer."""
_END = re.compile(r"(?<=[.!?])(?=\s)|\n")
"""A sentence's end: a full stop, exclamation or question mark with a space after it, or a line's end."""


@dataclass(frozen=True)
class Generated:
    """The continuation of a prompt: its text, its token ids, and whether the model's end token came after them."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    ended: bool


def first_sentence(text: str, target: str = "") -> str:
    """The first sentence of a text, without blanks at its ends; empty where there is none.

    Where the text begins with the target, or is on the way to it, full stops within it end no sentence ("J. R. Jr.").
    """
    text = text.lstrip()
    found = _end(text, target)
    return text[: found.start() if found else None].strip()


def has_sentence(text: str, target: str = "") -> bool:
    """Whether a text's first sentence (first_sentence) is over, whatever comes after."""
    return _end(text.lstrip(), target) is not None


def _end(text: str, target: str) -> re.Match[str] | None:
    """Where the first sentence of a text ends that begins with no blank."""
    own, bare = target.strip(AROUND), text.lstrip(AROUND)
    begun = own.startswith(bare) or bare.startswith(own)
    return _END.search(text, max(1, len(text) - len(bare) + len(own) if begun else 0))


def generate(model: LanguageModel, prompt: str, tokens: int = 20, edit: Edit | None = None) -> Generated:
    """At most `tokens` tokens after `prompt`, each the likeliest one, up to the model's end token.

    Raises PromptError for a prompt that the model cannot be asked with, or that exceeds its positions with `tokens`
    more; EditError or PromptError where its numbers are not finite, DeviceError where memory runs out, ModelError
    for an encoder.
    """
    model.kind.needs_decoder("writing a text")
    encoded = model.tokens.encode(_with_context(prompt, edit))
    model.tokens.fed(encoded, [0] * tokens)
    (found,) = in_one(
        lambda: _greedy(model, [encoded.ids], tokens, None if edit is None else [edit], lambda row, ids: False),
        f"a text of {len(encoded.ids) + tokens} tokens",
        "give fewer --tokens, or take a larger device",
    )
    return _generated(model, prompt, encoded.ids, _finite(found, edit))


def sentences(
    model: LanguageModel,
    prompts: Sequence[str],
    edits: Sequence[Edit] | Edit | None = None,
    memory: Memory | None = None,
    targets: Sequence[str] | None = None,
) -> list[Generated]:
    """The text after each prompt until its first sentence is over, the model ends it, or LONGEST_SENTENCE tokens or the
    model's positions are reached. `targets` are what each text is held against (first_sentence); other arguments and
    errors as of `generate_all`.
    """

    def over(row: int, text: str) -> bool:
        return has_sentence(text, "" if targets is None else targets[row])

    return generate_all(model, prompts, LONGEST_SENTENCE, edits, memory, over)


def generate_all(
    model: LanguageModel,
    prompts: Sequence[str],
    tokens: int,
    edits: Sequence[Edit] | Edit | None = None,
    memory: Memory | None = None,
    over: Callable[[int, str], bool] = lambda row, text: False,
) -> list[Generated]:
    """At most `tokens` tokens after each prompt, until `over` is true of its number and the text, or the model ends it:
    unedited, under one edit each, or all under one edit.

    Prompts go in batches that fit `memory`. Raises PromptError for a prompt that the model cannot be asked with, and
    EditError or PromptError where its numbers are not finite, ModelError for an encoder.
    """
    model.kind.needs_decoder("writing a text")
    memory = memory or Memory(default_memory(model.decoder.device))
    own = [edits] * len(prompts) if isinstance(edits, Edit) or edits is None else list(edits)
    asked = [model.tokens.encode(_with_context(*one)).ids for one in zip(prompts, own, strict=True)]
    order = sorted(range(len(prompts)), key=lambda row: len(asked[row]))
    found: dict[int, Generated] = {}

    def fitting(left: Sequence[int]) -> int:
        count = next((n for n, row in enumerate(left) if len(asked[row]) > 1.3 * len(asked[left[0]])), len(left))
        return min(count, max(1, memory.limit // 2 // _row_bytes(model.decoder, len(asked[left[count - 1]]) + tokens)))

    def compute(rows: Sequence[int]) -> list[list[int] | None]:
        def done(at: int, ids: Sequence[int]) -> bool:
            return over(rows[at], model.tokens.decode(ids))

        of_rows = [edit for row in rows if (edit := own[row]) is not None]
        return _greedy(model, [asked[row] for row in rows], tokens, of_rows or None, done)

    for rows, texts in batches(order, fitting, compute, memory):
        for row, ids in zip(rows, texts, strict=True):
            found[row] = _generated(model, prompts[row], asked[row], _finite(ids, own[row]))
    return [found[row] for row in range(len(prompts))]


def _with_context(prompt: str, edit: Edit | None) -> str:
    return prompt if edit is None else edit.context + prompt


def _finite(ids: list[int] | None, edit: Edit | None) -> list[int]:
    if ids is None:
        where = "the model's numbers in the continuation of a prompt are not finite"
        if edit is not None:
            raise EditError(f"{where}; give a smaller edit")
        raise PromptError(f"{where}; give a model of finite weights")
    return ids


def _generated(model: LanguageModel, prompt: str, asked: Sequence[int], ids: list[int]) -> Generated:
    ended = bool(ids) and ids[-1] == model.tokens.end_id
    ids = ids[:-1] if ended else ids
    opened, whole = model.tokens.decode(asked), model.tokens.decode([*asked, *ids])
    # Decoded together, so that the space between prompt and continuation is kept by every tokenizer.
    text = whole.removeprefix(opened) if whole.startswith(opened) else model.tokens.decode(ids)
    return Generated(prompt, text, tuple(ids), ended)


def _row_bytes(decoder: Decoder, tokens: int) -> int:
    """Bytes of one row: a block's inside, and every layer's keys and values, twice while they grow."""
    width = decoder.width * decoder.embedding_VD.element_size()
    return row_bytes(decoder, 0, tokens) + 4 * decoder.layers * tokens * width


@torch.no_grad()
def _greedy(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    edits: Sequence[Edit] | None,
    over: Callable[[int, Sequence[int]], bool],
) -> list[list[int] | None]:
    """Ids of each prompt's likeliest continuation: until `over` says so of its number and the ids, or the end token,
    which is then the last of them, or the model's positions are used up; None for a row whose numbers are not finite.
    """
    decoder, end = model.decoder, model.tokens.end_id
    found: list[list[int] | None] = [[] for _ in prompts]
    rows, keys = list(range(len(prompts))), list[LayerKeys]()
    changes = _changes(edits, rows)
    length_B = torch.tensor([len(prompt) for prompt in prompts], device=decoder.device)
    word_BTD = decoder.words(model.tokens.pad(prompts, decoder.device))
    # Padding stands on the right, where no token sees it; the tokens that come after it do not see it either.
    hidden_BTD = decoder.onward(word_BTD, keys, changes)
    stored_BP = torch.arange(word_BTD.shape[1], device=decoder.device) < length_B[:, None]
    last_BD = hidden_BTD[torch.arange(len(rows), device=decoder.device), length_B - 1]
    for step in range(1, tokens + 1):
        logits_BV = decoder.logits(last_BD)
        finite, next_ids = logits_BV.isfinite().all(1).tolist(), logits_BV.argmax(1).tolist()
        going = []
        for at, row in enumerate(rows):
            text = found[row]
            if not finite[at] or text is None:
                found[row] = None
                continue
            text.append(next_ids[at])
            full = len(prompts[row]) + len(text) > model.tokens.limit
            if not (text[-1] == end or full or over(row, text)):
                going.append(at)
        if step == tokens or not going:
            break
        if len(going) < len(rows):
            kept_B = torch.tensor(going, device=decoder.device)
            rows, length_B, stored_BP = [rows[at] for at in going], length_B[kept_B], stored_BP[kept_B]
            keys = [(key[kept_B], value[kept_B]) for key, value in keys]
            changes = _changes(edits, rows)
        stored_BP = torch.cat((stored_BP, stored_BP.new_ones(len(rows), 1)), dim=1)
        aligned = Aligned(length_B[:, None], stored_BP[:, None, None])
        id_B1 = torch.tensor([[next_ids[at]] for at in going], device=decoder.device)
        last_BD = decoder.onward(decoder.words(id_B1), keys, changes, aligned)[:, 0]
        length_B = length_B + 1
    return found


def _changes(edits: Sequence[Edit] | None, rows: Sequence[int]) -> RowEdits | None:
    """The changes of the rows that are left, of those that a pass began with."""
    if edits is None:
        return None
    return row_edits([edits[0]], [0] * len(rows)) if len(edits) == 1 else row_edits(edits, rows)
