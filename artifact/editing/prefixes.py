"""Context prefixes: short texts drawn from the model itself, before which a prompt is repeated.

Covers drawing them (top-5 sampling after the end-of-text token, seeded; PROTOCOL section 4) and reading given ones. The
authors drew theirs without a recorded seed, so these are of the same kind and not the same texts. MEMIT's grouped
prefixes are not covered.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from artifact.errors import SettingError
from artifact.facts.fact import read_json
from artifact.lm.load import LanguageModel

BARE = "{}"
SEED = 2409


def draw_prefixes(model: LanguageModel, lengths: Sequence[tuple[int, int]], seed: int = SEED) -> list[str]:
    """The bare prompt's template and, for each (most tokens, how many), that many templates "text. {}"."""
    templates = [BARE]
    for number, (most, count) in enumerate(lengths):
        for ids in sample(model, count, most, seed + number):
            text = model.tokens.decode(ids).strip()
            templates.append(text.replace("{", " ").replace("}", " ") + ". {}")
    return templates


def sample(model: LanguageModel, count: int, most: int, seed: int, top: int = 5) -> list[list[int]]:
    """`count` texts of `most` token ids each, every token drawn from the `top` likeliest after the end-of-text token.

    Drawn on the CPU from one seeded generator, so the device does not change the draws.
    """
    decoder, end = model.decoder, model.tokens.end_id
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.full((count, 1), end, device=decoder.device)
    drawn: list[list[int]] = [[] for _ in range(count)]
    with torch.no_grad():
        run = decoder.run(decoder.words(ids_BT))
        keys, hidden_BTD = run.keys, run.states_LBTD[-1]
        for position in range(1, most + 1):
            logits_BV = decoder.logits(hidden_BTD[:, -1])
            logits_BV[:, end] = -torch.inf  # a prefix has no end within it
            best = logits_BV.topk(top)
            pick = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(decoder.device)
            ids_BT = best.indices.gather(1, pick)
            for row, token in zip(drawn, ids_BT[:, 0].tolist(), strict=True):
                row.append(token)
            if position == most:
                break
            hidden_BTD = decoder.embed(decoder.words(ids_BT), position)
            for layer in range(decoder.layers):
                hidden_BTD, new = decoder.block(layer, hidden_BTD, past=keys[layer])
                keys[layer] = (torch.cat((keys[layer][0], new[0]), 2), torch.cat((keys[layer][1], new[1]), 2))
    return drawn


def read_prefixes(path: Path) -> list[str]:
    """Templates from a JSON list; each holds "{}" once, and the first is the bare prompt's.

    Raises SettingError for anything else; a list of lists is MEMIT's form and refused here.
    """
    given = read_json(path)
    if isinstance(given, dict) and isinstance(given.get("templates"), list):
        given = given["templates"]
    if not isinstance(given, list) or not given or not all(isinstance(t, str) and t.count("{}") == 1 for t in given):
        raise SettingError(f'{path}: expected a JSON list of templates that hold "{{}}" once each; correct the file')
    return given
