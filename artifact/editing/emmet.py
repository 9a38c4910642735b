"""EMMET: ROME's equality constraint for a batch of facts, written into one or more layers.

Covers both perspectives, with MEMIT's values, keys and sharing out over layers (memit.py). Per layer, in float64:
A = w C + update_norm_lambda I, D = K^T A^-1 K (and emmet_lambda I when the group has more than one fact), change =
residual times (A^-1 K D^-1)^T, so that a single fact's residual is written in full.
Source: arXiv 2403.14236; golden numbers: tests/reference/{emmet,emmet_multi}, 1e-4 relative.

Shape letters as in memit.py.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from artifact.editing.memit import MemitEdit, memit
from artifact.editing.methods.emmet import EmmetHparams
from artifact.editing.moments.files import Moments, key_width
from artifact.editing.protocol import Protocol
from artifact.errors import EditError
from artifact.facts.fact import View
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


def emmet(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: EmmetHparams,
    templates: Sequence[Sequence[str]],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
) -> list[MemitEdit | EditError]:
    """An edit for each group of views, as `memit` makes them."""
    weight = hparams.mom2_update_weight
    ridge = hparams.update_norm_lambda / weight
    if ridge:
        moments = moments.with_added(("ridge", ridge), partial(_ridge, ridge))

    def adjust(layer: int, key_FM: Tensor, sizes: Sequence[int]) -> Tensor:
        key_FM = key_FM.double()
        solved_FM = moments.solve(model.decoder, layer, key_FM) / weight
        if set(sizes) == {1}:
            return solved_FM / (solved_FM * key_FM).sum(1, keepdim=True)
        parts = zip(key_FM.split(list(sizes)), solved_FM.split(list(sizes)), strict=True)
        return torch.cat([_adjusted(key_NM, solved_NM, hparams.emmet_lambda) for key_NM, solved_NM in parts])

    return memit(model, groups, hparams, templates, moments, protocol, memory, adjust)


def _ridge(ridge: float, decoder: Decoder, layer: int) -> Tensor:
    width = key_width(decoder, layer)
    return ridge * torch.eye(width, dtype=torch.float64, device=decoder.device)


def _adjusted(key_NM: Tensor, solved_NM: Tensor, added: float) -> Tensor:
    """A^-1 K D^-1 of one group, (N, M), from K and A^-1 K."""
    overlap_NN = key_NM @ solved_NM.t()
    if len(key_NM) > 1:
        overlap_NN.diagonal().add_(added)
    inverse_NN, failed = torch.linalg.inv_ex(overlap_NN)
    if int(failed) != 0:  # facts with one key and no emmet_lambda
        inverse_NN = torch.linalg.pinv(overlap_NN)
    return inverse_NN.t() @ solved_NM
