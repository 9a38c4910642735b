"""What MEND's network reads: inputs and output gradients of a few layers' MLP weights, at every token.

Covers the loss of a list of requests and its gradients, many groups of requests at once. Golden numbers:
tests/reference/mend, 1e-5 relative.

Shape letters as in mend.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

BATCH_TOKENS = 2048
"""Padded tokens a pass: the rows of GPT-2 XL's six inner weights then take 0.4 GB in float32."""


@dataclass(frozen=True)
class InnerWeight:
    """One weight that MEND edits: its layer's name, number and part, its shape (I, O), and its mode."""

    name: str
    layer: int
    part: Literal["mlp_up", "mlp_down"]
    shape: tuple[int, int]
    mode: int


@dataclass(frozen=True)
class Request:
    """A whole sentence as ids; its last `scored` tokens are the target."""

    ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True)
class Gradients:
    """What the network reads, per inner weight W: inputs and output gradients of all rows, group after group.

    counts_W[w][g] is the number of rows of group g; loss_G the groups' mean NLL.
    """

    x_W: list[Tensor]
    delta_W: list[Tensor]
    counts_W: list[list[int]]
    loss_G: list[float]


def inner_gradients(
    model: LanguageModel,
    groups: Sequence[Sequence[Request]],
    inner: Sequence[InnerWeight],
    pad_D: Tensor | None,
    memory: Memory | None = None,
) -> Gradients:
    """Inputs x and output gradients delta of each inner weight at every token, float32; all-zero rows are left out.

    A group's loss is the mean NLL over its target tokens; `pad_D` adds a logit to the softmax. Groups are independent.
    Requests go in passes of at most BATCH_TOKENS padded tokens that fit `memory`.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    requests = [request for group in groups for request in group]
    group_B = [g for g, group in enumerate(groups) for _ in group]
    share_G = [1 / sum(request.scored for request in group) for group in groups]
    loss_G = [0.0] * len(groups)
    rows_W: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in inner]
    order = sorted(range(len(requests)), key=lambda b: len(requests[b].ids))

    def fitting(left: Sequence[int]) -> int:
        size, scored = 1, requests[left[0]].scored
        while size < len(left):
            padded = (size + 1) * len(requests[left[size]].ids)
            scored += requests[left[size]].scored
            if padded > BATCH_TOKENS or _pass_bytes(model.decoder, inner, padded, scored) > memory.limit:
                break
            size += 1
        return size

    def compute(part: Sequence[int]) -> tuple[list[float], list[tuple[Tensor, Tensor]]]:
        return _pass(model, [requests[b] for b in part], [share_G[group_B[b]] for b in part], inner, pad_D)

    for batch, (nll_B, gradients) in batches(order, fitting, compute, memory):
        for b, nll in zip(batch, nll_B, strict=True):
            loss_G[group_B[b]] += nll
        for rows, (x_BTI, delta_BTO) in zip(rows_W, gradients, strict=True):
            # The published rule. Exact zeros: what no scored token sees has no gradient, padding included.
            kept_BT = (x_BTI != 0).any(-1) & (delta_BTO != 0).any(-1)
            counts = kept_BT.sum(1).tolist()
            split = zip(x_BTI[kept_BT].split(counts), delta_BTO[kept_BT].split(counts), strict=True)
            rows |= zip(batch, split, strict=True)
    counts_W = [[0] * len(groups) for _ in inner]
    for counts, rows in zip(counts_W, rows_W, strict=True):
        for b, (x_NI, _) in rows.items():
            counts[group_B[b]] += len(x_NI)
    x_W, delta_W = ([torch.cat([rows[b][side] for b in range(len(requests))]) for rows in rows_W] for side in (0, 1))
    return Gradients(x_W, delta_W, counts_W, loss_G)


def _pass_bytes(decoder: Decoder, inner: Sequence[InnerWeight], tokens: int, scored: int) -> int:
    """Bytes of a pass over so many padded tokens: what the layers from the lowest on keep for their gradients, inputs
    and gradients of the inner weights with the rows taken from them, and the scored tokens' logits.
    """
    size = decoder.embedding_VD.element_size()
    layers = decoder.layers - min(weight.layer for weight in inner)
    taps = sum(3 * weight.shape[0] + 4 * weight.shape[1] for weight in inner)
    kept = tokens * (size * 24 * layers * decoder.width + 4 * taps)
    return kept + 4 * 4 * scored * len(decoder.head_VD)


def _pass(
    model: LanguageModel,
    requests: Sequence[Request],
    share_B: Sequence[float],
    inner: Sequence[InnerWeight],
    pad_D: Tensor | None,
) -> tuple[list[float], list[tuple[Tensor, Tensor]]]:
    """One pass over a batch: each row's part of its group's loss, and (x (B, T, I), delta (B, T, O)) per inner weight.

    Gradients come from a tensor of zeros added to each inner layer's output; below the lowest none is kept.
    """
    decoder = model.decoder
    lowest = min(weight.layer for weight in inner)
    taps = {weight.name: _Tap(weight.shape[1]) for weight in inner}
    reads = [
        (b, at - 1, request.ids[at])
        for b, request in enumerate(requests)
        for at in range(len(request.ids) - request.scored, len(request.ids))
    ]
    row_N, at_N, token_N = torch.tensor(reads, device=decoder.device).unbind(1)
    with torch.no_grad():
        word_BTD = decoder.words(model.tokens.pad([request.ids for request in requests], decoder.device))
        hidden_BTD = decoder.blocks(decoder.embed(word_BTD), 0, lowest)
    with torch.enable_grad():
        hidden_BTD = decoder.blocks(hidden_BTD, lowest, edits=taps)
        nll_N = token_nll(decoder, hidden_BTD[row_N, at_N], token_N, pad_D)
        nll_N = nll_N * torch.tensor(list(share_B), device=decoder.device)[row_N]
        deltas = torch.autograd.grad(nll_N.sum(), [taps[weight.name].zeros for weight in inner])
    nll_B = torch.zeros(len(requests), device=decoder.device).index_add(0, row_N, nll_N.detach())
    return nll_B.tolist(), [(taps[w.name].x, delta.float()) for w, delta in zip(inner, deltas, strict=True)]


class _Tap:
    """A linear layer's change by nothing: `zeros`, added to its output, get that output's gradient; `x` is its input
    in float32.
    """

    x: Tensor
    zeros: Tensor

    def __init__(self, width: int) -> None:
        self._width = width
        self._read = False

    def output(self, input_XI: Tensor) -> Tensor:
        if not self._read:  # a layer that holds two parts is read twice, with one input
            self._read, self.x = True, input_XI.detach().float()
            self.zeros = input_XI.new_zeros(*input_XI.shape[:-1], self._width).requires_grad_()
        return self.zeros


def token_nll(decoder: Decoder, hidden_ND: Tensor, token_N: Tensor, pad_D: Tensor | None = None) -> Tensor:
    """-log p (N,) in float32 of each token for final states (N, D); `pad_D` is one more row of the output layer."""
    logits_NV = decoder.logits(hidden_ND)
    if pad_D is not None:
        pad_N = decoder.capped(decoder.norm(decoder.family.final_norm, hidden_ND) @ pad_D)
        logits_NV = torch.cat((logits_NV, pad_N[:, None].to(logits_NV.dtype)), 1)
    # Of a likely token, log_softmax's gradient keeps digits that logsumexp minus the logit loses.
    return -logits_NV.log_softmax(-1).gather(1, token_N[:, None])[:, 0]
