"""Context prefixes: short texts drawn from the model itself, before which a prompt is repeated.

Covers drawing them (top-5 sampling after the token that opens a document, seeded; docs/protocol.md) and reading given
ones. The authors drew theirs without a recorded seed, so these are of the same kind and not the same texts. ROME takes
a list; MEMIT takes groups, averaged within the group first: the bare prompt, and texts that open with given words.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from artifact.errors import PromptError, SettingError
from artifact.facts.fact import read_json
from artifact.lm.load import LanguageModel

BARE = "{}"
SEED = 2409
OPENERS = ("The", "Therefore", "Because", "I", "You")
OPENED_LENGTH = 10


def draw_prefixes(model: LanguageModel, lengths: Sequence[tuple[int, int]], seed: int = SEED) -> list[str]:
    """The bare prompt's template and, for each (most tokens, how many), that many templates "text. {}"."""
    templates = [BARE]
    for number, (most, count) in enumerate(lengths):
        for ids in sample(model, count, most, seed + number):
            templates.append(_template(model.tokens.decode(ids)))
    return templates


def _template(text: str) -> str:
    return text.strip().replace("{", " ").replace("}", " ") + ". {}"


def draw_groups(model: LanguageModel, seed: int = SEED) -> list[list[str]]:
    """MEMIT's groups of templates: the bare prompt alone, and a text of ten tokens opened with each of OPENERS.

    A text whose opener a small vocabulary cannot read is drawn freely instead.
    """
    return [[BARE], [_template(_opened(model, word, seed + number)) for number, word in enumerate(OPENERS)]]


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
    model: LanguageModel, count: int, most: int, seed: int, top: int = 5, start: Sequence[int] = ()
) -> list[list[int]]:
    """`count` texts of `most` token ids each, every token drawn from the `top` likeliest after `start`.

    Without `start` the token that opens a document stands before the text (Tokens.document_id); none that stands for
    no text is drawn. Drawn on the CPU from one seeded generator, so the device does not change the draws.
    """
    decoder, tokens = model.decoder, model.tokens
    generator = torch.Generator().manual_seed(seed)
    first = [*tokens.opening, *start] if start else [tokens.document_id]
    unwanted = list(tokens.special_ids)
    ids_BT = torch.tensor([first] * count, device=decoder.device)
    drawn: list[list[int]] = [[] for _ in range(count)]
    with torch.no_grad():
        run = decoder.run(decoder.words(ids_BT))
        keys, hidden_BTD = run.keys, run.states_LBTD[-1]
        for position in range(len(first), len(first) + most):
            logits_BV = decoder.logits(hidden_BTD[:, -1])
            logits_BV[:, unwanted] = -torch.inf  # a prefix has no end within it
            best = logits_BV.topk(top)
            pick = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(decoder.device)
            ids_BT = best.indices.gather(1, pick)
            for row, token in zip(drawn, ids_BT[:, 0].tolist(), strict=True):
                row.append(token)
            if position == len(first) + most - 1:
                break
            hidden_BTD = decoder.embed(decoder.words(ids_BT), position)
            for layer in range(decoder.layers):
                hidden_BTD, new = decoder.block(layer, hidden_BTD, past=keys[layer])
                keys[layer] = (torch.cat((keys[layer][0], new[0]), 2), torch.cat((keys[layer][1], new[1]), 2))
    return drawn


def read_prefixes(path: Path) -> list[str]:
    """Templates from a JSON list; each holds "{}" once, and the first is the bare prompt's.

    Raises SettingError for anything else; a list of lists is MEMIT's form (read_groups).
    """
    given = _read(path)
    if not _are_templates(given):
        raise SettingError(f'{path}: expected a JSON list of templates that hold "{{}}" once each; correct the file')
    return given


def read_groups(path: Path) -> list[list[str]]:
    """Groups of templates from a JSON list of lists; SettingError for anything else.

    A plain list of templates, as ROME takes it, is split as MEMIT's own prefixes are: the first alone, then the rest.
    """
    given = _read(path)
    if _are_templates(given):
        return [given[:1], given[1:]] if len(given) > 1 else [given]
    if not isinstance(given, list) or not given or not all(_are_templates(group) for group in given):
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


def _are_templates(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(t, str) and t.count("{}") == 1 for t in given)
