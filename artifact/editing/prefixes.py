"""Context prefixes: short texts drawn from the model itself, before which a prompt is repeated.

Covers drawing them (top-5 sampling, seeded; docs/protocol.md) and reading given ones. The authors drew theirs without a
recorded seed, so these are of the same kind and not the same texts. ROME takes a list; MEMIT takes groups, averaged
within the group first: the bare prompt, and texts that open with given words.

Two ways (Protocol.prefixes_as_released). As released, a length counts the token that opens the text, the end token may
be drawn, and the text is decoded, normalised (NFKD) and not stripped. Corrected, a length counts what is drawn, no end
token is drawn, and the text is stripped. Golden (as released): tests/reference/context_prefixes, equal.

Shape letters as in lm/decoder.py, and S the tokens to draw from.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifact.errors import DeviceError, PromptError, SettingError
from artifact.lm.decoder import Decoder, LayerKeys
from artifact.lm.device import Memory, batches, default_memory, full_precision, row_bytes
from artifact.lm.load import LanguageModel
from artifact.reading import read_json

BARE = "{}"
SEED = 2409
OPENERS = ("The", "Therefore", "Because", "I", "You")
OPENED_LENGTH = 10
_TOP = 5


@dataclass(frozen=True)
class Drawn:
    """Texts drawn together: `ids` of each with its prompt, and `picks`, by step and text the place of the draw among
    the likeliest tokens, likeliest first; a draw inside a prompt is thrown away and stands here all the same.
    """

    ids: list[list[int]]
    picks: list[list[int]]


def draw_prefixes(
    model: LanguageModel, lengths: Sequence[tuple[int, int]], seed: int = SEED, as_released: bool = True
) -> list[str]:
    """ROME's templates: the bare prompt's and, for each (length, how many), that many templates "text. {}".

    As released one generator goes on through all lengths, and a length counts the opening token. A text that a small
    vocabulary cannot read again is drawn anew without special tokens.
    """
    templates = [BARE]
    if not as_released:
        for number, (most, count) in enumerate(lengths):
            for ids in sample(model, count, most, seed + number):
                templates.append(_stripped(model.tokens.decode(ids)))
        return templates
    generator = torch.Generator().manual_seed(seed)
    for length, count in lengths:
        drawn = draw(model, [model.tokens.document_ids] * count, length, generator)
        templates += _written(model, drawn, length, seed + len(templates))
    return templates


def draw_groups(model: LanguageModel, seed: int = SEED, as_released: bool = True) -> list[list[str]]:
    """MEMIT's groups of templates: the bare prompt alone, and a text of ten tokens opened with each of OPENERS.

    As released the ten count the tokens of the opener (and of what the tokenizer puts in front), and all five are drawn
    together. A text whose opener a small vocabulary cannot read is drawn freely instead.
    """
    if not as_released:
        return [[BARE], [_stripped(_opened(model, word, seed + number)) for number, word in enumerate(OPENERS)]]
    drawn = draw(model, [_prompt(model, word) for word in OPENERS], OPENED_LENGTH, torch.Generator().manual_seed(seed))
    return [[BARE], _written(model, drawn, OPENED_LENGTH, seed)]


def _prompt(model: LanguageModel, opener: str) -> list[int]:
    try:
        return [*model.tokens.opening, *model.tokens.ids(opener)]
    except PromptError:
        return [*model.tokens.document_ids]


def _written(model: LanguageModel, drawn: Drawn, length: int, seed: int) -> list[str]:
    """The templates of drawn texts, as released; what cannot be read again is drawn anew, each by a seed of its own."""
    templates = []
    for number, ids in enumerate(drawn.ids):
        template = _as_released(model, ids)
        try:
            model.tokens.ids(template.removesuffix(" {}"))
        except PromptError:
            (again,) = sample(model, 1, length - 1, seed + number)
            template = _stripped(model.tokens.decode(again))
        templates.append(template)
    return templates


def _as_released(model: LanguageModel, ids: Sequence[int]) -> str:
    """A drawn text as the released code writes it, in its order; nothing is stripped.

    Braces become spaces, which it does for MEMIT alone: ROME's would end in a KeyError.
    """
    text = unicodedata.normalize("NFKD", model.tokens.decode_as_released(ids)).replace("\n\n", " ")
    for special in model.tokens.special_texts:
        text = text.replace(special, "")
    return _template(text)


def _stripped(text: str) -> str:
    return _template(text.strip())


def _template(text: str) -> str:
    return text.replace("{", " ").replace("}", " ") + ". {}"


def _opened(model: LanguageModel, word: str, seed: int) -> str:
    try:
        start = model.tokens.ids(word)
        (drawn,) = sample(model, 1, OPENED_LENGTH - len(start), seed, start=start)
        text = model.tokens.decode([*start, *drawn])
        model.tokens.ids(text)
    except PromptError:
        (drawn,) = sample(model, 1, OPENED_LENGTH, seed)
        text = model.tokens.decode(drawn)
    return text


def sample(
    model: LanguageModel, count: int, most: int, seed: int, top: int = _TOP, start: Sequence[int] = ()
) -> list[list[int]]:
    """`count` texts of `most` token ids each, every token drawn from the `top` likeliest after `start`.

    Without `start` the tokens that open a document stand before the text (Tokens.document_ids); none that stands for
    no text is drawn.
    """
    first = [*model.tokens.opening, *start] if start else [*model.tokens.document_ids]
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(model, [first] * count, len(first) + most, generator, top, model.tokens.special_ids)
    return [ids[len(first) :] for ids in drawn.ids]


def draw(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    length: int,
    generator: torch.Generator,
    top: int = _TOP,
    unwanted: Sequence[int] = (),
    memory: Memory | None = None,
) -> Drawn:
    """Texts of `length` token ids that go on from prompts (ids, counted in the length).

    Each token is drawn from the `top` likeliest, in proportion to their probabilities; ids of `unwanted` never are. A
    step draws for every row, a row that is still inside its prompt keeps the prompt's token. As in the released code
    nothing is drawn where the longest prompt is `length` long already. Drawn on the CPU from float32 probabilities,
    with TF32 off, so that the device does not change the texts. Rows that do not fit `memory` together run one part
    after the other, each with the random numbers that it has among all rows.

    Raises DeviceError when one text does not fit the device's memory, SettingError for more tokens than the model has
    positions, ModelError for an encoder.
    """
    model.kind.needs_decoder("drawing a text")
    if max(map(len, prompts)) >= length:
        return Drawn([list(ids) for ids in prompts], [])
    if length > model.tokens.limit:
        raise SettingError(
            f"a drawn prefix of {length} tokens: {model.name} reads {model.tokens.limit} at most; give fewer in "
            "context_template_length_params"
        )
    memory = memory or Memory(default_memory(model.decoder.device))
    start = generator.get_state()

    def compute(rows: Sequence[int]) -> Drawn:
        generator.set_state(start)
        return _draw(model, prompts, rows, length, generator, top, unwanted)

    def alone(row: int) -> Drawn:
        raise DeviceError(
            f"drawing one text of {length} tokens does not fit the device's memory; free some, or take a larger device"
        )

    each = _row_bytes(model.decoder, length, min(map(len, prompts)))
    rows = range(len(prompts))
    parts = [part for _, part in batches(rows, lambda _: memory.limit // each, compute, memory, alone)]
    steps = zip(*(part.picks for part in parts), strict=True)
    return Drawn([ids for part in parts for ids in part.ids], [list(chain(*step)) for step in steps])


@torch.no_grad()
def _draw(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    length: int,
    generator: torch.Generator,
    top: int,
    unwanted: Sequence[int],
) -> Drawn:
    """What `draw` gives for some of its rows; random numbers are drawn for all of them."""
    decoder, shortest = model.decoder, min(map(len, prompts))
    texts, picks = [list(prompts[row]) for row in rows], []
    chances_BS = torch.ones(len(prompts), top)
    own = slice(rows[0], rows[-1] + 1)
    with full_precision():
        keys: list[LayerKeys] = []
        ids_BT = torch.tensor([ids[:shortest] for ids in texts], device=decoder.device)
        for position in range(shortest, length):
            logits_BV = decoder.logits(decoder.onward(decoder.words(ids_BT), keys)[:, -1]).float()
            logits_BV[:, list(unwanted)] = -torch.inf
            best = logits_BV.topk(top)
            chances_BS[own] = best.values.softmax(-1).cpu()
            pick_B1 = torch.multinomial(chances_BS, 1, generator=generator)[own]
            picks.append(pick_B1[:, 0].tolist())
            for row, token in zip(texts, _tokens(best.indices, pick_B1), strict=True):
                if len(row) == position:
                    row.append(token)
            ids_BT = torch.tensor([[row[position]] for row in texts], device=decoder.device)
    return Drawn(texts, picks)


def _row_bytes(decoder: Decoder, length: int, prompt: int) -> int:
    """Bytes of a row: keys and values of all layers (of one twice, while they grow), a block's inside, the logits."""
    kept = 2 * (decoder.layers + 1) * length
    inside = max(row_bytes(decoder, 0, prompt), row_bytes(decoder, length, 1))
    return kept * decoder.width * decoder.embedding_VD.element_size() + inside + 3 * 4 * len(decoder.head_VD)


def _tokens(best_BS: Tensor, pick_B1: Tensor) -> list[int]:
    return best_BS.cpu().gather(1, pick_B1)[:, 0].tolist()


def read_prefixes(path: Path) -> list[str]:
    """Templates from a JSON list; each holds "{}" once.

    Raises SettingError for anything else; a list of lists is MEMIT's form (read_groups).
    """
    given = _read(path)
    if not are_templates(given):
        raise SettingError(f'{path}: expected a JSON list of templates that hold "{{}}" once each; correct the file')
    return given


def read_groups(path: Path) -> list[list[str]]:
    """Groups of templates from a JSON list of lists; SettingError for anything else.

    A plain list of templates, as ROME takes it, is split as MEMIT's own prefixes are: the first alone, then the rest.
    """
    given = _read(path)
    if are_templates(given):
        return [given[:1], given[1:]] if len(given) > 1 else [given]
    if not are_groups(given):
        raise SettingError(
            f'{path}: expected a JSON list of lists of templates that hold "{{}}" once each; correct the file'
        )
    return given


def _read(path: Path) -> Any:
    given = read_json(path)
    for key in ("templates", "context_templates"):
        if isinstance(given, dict) and key in given:
            return given[key]
    return given


def are_groups(given: object) -> bool:
    """Whether `given` is a list of lists of templates."""
    return isinstance(given, list) and bool(given) and all(are_templates(group) for group in given)


def are_templates(given: object) -> bool:
    """Whether `given` is a list of texts that hold "{}" once each."""
    return isinstance(given, list) and bool(given) and all(isinstance(t, str) and t.count("{}") == 1 for t in given)
