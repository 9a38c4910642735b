"""What a model goes on with after a prompt, token by token, the likeliest each time; edited or not.

The edit acts on the one row of the pass, so the model's weights stay as they are. Stored keys and values make each new
token cost one token. Drawn texts are editing/prefixes.py's.
"""

from dataclasses import dataclass

import torch

from artifact.editing.edit import Edit, row_edits
from artifact.errors import EditError, PromptError
from artifact.lm.decoder import LayerKeys
from artifact.lm.device import in_one
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class Generated:
    """The continuation of a prompt: its text, its token ids, and whether the model's end token came after them."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    ended: bool


def generate(model: LanguageModel, prompt: str, tokens: int = 20, edit: Edit | None = None) -> Generated:
    """At most `tokens` tokens after `prompt`, each the likeliest one, up to the model's end token.

    Raises PromptError for a prompt that the model cannot be asked with, or that exceeds its positions with `tokens`
    more; EditError or PromptError where its numbers are not finite, DeviceError where memory runs out.
    """
    encoded = model.tokens.encode(prompt)
    model.tokens.fed(encoded, [0] * tokens)
    ids = in_one(
        lambda: _greedy(model, encoded.ids, tokens, edit),
        f"a text of {len(encoded.ids) + tokens} tokens",
        "give fewer --tokens, or take a larger device",
    )
    ended = bool(ids) and ids[-1] == model.tokens.end_id
    ids = ids[:-1] if ended else ids
    opened, whole = model.tokens.decode(encoded.ids), model.tokens.decode([*encoded.ids, *ids])
    # Decoded together, so that the space between prompt and continuation is kept by every tokenizer.
    text = whole.removeprefix(opened) if whole.startswith(opened) else model.tokens.decode(ids)
    return Generated(prompt, text, tuple(ids), ended)


@torch.no_grad()
def _greedy(model: LanguageModel, prompt: tuple[int, ...], tokens: int, edit: Edit | None) -> list[int]:
    """Ids of the likeliest continuation; the end token is the last of them where it comes."""
    decoder, changes = model.decoder, None if edit is None else row_edits([edit], [0])
    keys: list[LayerKeys] = []
    fed, found = list(prompt), list[int]()
    while len(found) < tokens and found[-1:] != [model.tokens.end_id]:
        hidden_BTD = decoder.onward(decoder.words(torch.tensor([fed], device=decoder.device)), keys, changes)
        (logits_V,) = decoder.logits(hidden_BTD[:, -1])
        if not bool(logits_V.isfinite().all()):
            where = f"the model's numbers after {len(found)} tokens of the continuation are not finite"
            if edit is not None:
                raise EditError(f"{where}; give a smaller edit")
            raise PromptError(f"{where}; give a model of finite weights")
        fed = [int(logits_V.argmax())]
        found += fed
    return found
