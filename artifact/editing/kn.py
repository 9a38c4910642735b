"""Knowledge Neurons: neurons that the answer's probability depends on, and a write to their output weights.

Covers integrated gradients over every layer's neurons at the prompt's last token, the choice of neurons for one prompt
or over several, and the edit of the chosen neurons' rows of the down-projection. The released code undoes the edit
before scoring (protocol.kn_undone).
Source: docs/protocol.md; golden numbers: tests/reference/{kn_rake,kn_eleuther}, 1e-4 relative, neuron lists equal.

Only the last token is computed again. One unedited pass stores the tokens before it; then one row for each point of the
integral and each layer joins the batch after its layer, and one backward pass serves all of them. In an encoder the
neurons are those of the mask, after the activation function, and rows carry all tokens.

Shape letters as in lm/decoder.py, where B is a point of a prompt's integral and L*B the rows that reach the output,
F prompt, and J token of a target.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm
from artifact.editing.methods.kn import KnHparams
from artifact.editing.protocol import Protocol
from artifact.errors import EditError
from artifact.facts.fact import View, fill
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder, LayerKeys, Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded

Neuron = tuple[int, int]
"""Layer and index among the layer's M neurons."""
_HEAD_ROWS = 128
"""Rows whose logits are held at once."""


NO_NEURON = "no neuron's attribution is above the threshold"


@dataclass(frozen=True, kw_only=True)
class KnEdit(Edited):
    """An edit and the neurons it writes to, (layer, index), in the reference's order.

    Without a neuron (Protocol.kn_without_neuron_scored) it changes nothing, and its record says so.
    """

    neurons: tuple[Neuron, ...]

    def told(self) -> dict[str, Any]:
        """The figures of a record."""
        record = super().told() | {"neurons": len(self.neurons)}
        return record if self.neurons else record | {"unedited": True, "unedited_reason": NO_NEURON}


def kn(
    model: LanguageModel, views: Sequence[View], hparams: KnHparams, protocol: Protocol, memory: Memory | None = None
) -> list[KnEdit | EditError]:
    """An edit for each view, as if each were the only one; an EditError in the place of one that cannot be computed.
    Raises PromptError for a text that the model cannot be asked.

    Neurons are those of the view's own prompt; with `hparams.refine`, those that more than p of its prompts (its own
    and its rephrasings) share. Each one's row of the down-projection changes by the sum of the embeddings of the
    target's tokens (in an encoder twice that of its one token) less twice that of the model's own next token. A view
    that has no neuron is an EditError or, under protocol.kn_without_neuron_scored, an edit that changes nothing.
    """
    decoder, space = model.decoder, "" if protocol.kn_without_space else " "
    own = [fill(view.template, view.subject) for view in views]
    prompts_of = [
        [prompt, *(view.generality if hparams.refine else ())] for prompt, view in zip(own, views, strict=True)
    ]
    truths = [model.tokens.continuation(space + view.foil) for view in views]
    targets = [model.tokens.continuation(space + view.target) for view in views]
    attributed = _attribute(
        model,
        [prompt for prompts in prompts_of for prompt in prompts],
        [truth for prompts, truth in zip(prompts_of, truths, strict=True) for _ in prompts],
        hparams.steps,
        memory or Memory(default_memory(decoder.device)),
    )
    results: list[KnEdit | EditError] = []
    first = 0
    for prompts, target in zip(prompts_of, targets, strict=True):
        part = attributed[first : first + len(prompts)]
        first += len(prompts)
        try:
            coarse = [neurons_above(scores_LM, hparams.adaptive_threshold) for scores_LM, _ in part]
            neurons = refined(coarse, hparams.p) if hparams.refine else coarse[0]
            if not neurons and protocol.kn_without_neuron_scored:
                results.append(KnEdit(edit=Edit({}), norm=0.0, neurons=()))
                continue
            scores_LM, greedy = part[0]
            edit = _edit(decoder, neurons, scores_LM.shape[1], greedy, target)
            results.append(KnEdit(edit=edit, norm=checked_norm(edit), neurons=tuple(neurons)))
        except EditError as error:
            results.append(error)
    return results


def attributions(
    model: LanguageModel, prompts: Sequence[str], targets: Sequence[Sequence[int]], steps: int, memory: Memory
) -> list[Tensor]:
    """Attribution scores (L, M) in float32 of every neuron, for each prompt with its target ids.

    scores[l, m] = a/steps * sum over the points x of dp/d(a x): a is the output m of layer l's up-projection, before
    the activation function, at the prompt's last token, where a x replaces it; x runs from 0 to 1, both among them.
    In an encoder a is the activation function's output at the mask.
    In a gated MLP (Llama) a is the gate projection's output, and the up-projection it is multiplied with stays as it
    is: at 0 the neuron is silent, at 1 as it was, and its row of the down-projection is what an edit writes to.
    p is the mean of the target tokens' probabilities, each as the prompt's next token.
    Golden: `scores`. Raises PromptError for a prompt that the model cannot be asked with.
    """
    return [scores_LM for scores_LM, _ in _attribute(model, prompts, targets, steps, memory)]


def neurons_above(scores_LM: Tensor, share: float) -> list[Neuron]:
    """Neurons whose score is above `share` of the largest, by layer and index; EditError when scores are not finite.

    Golden: `coarse_adaptive0.2`.
    """
    if not bool(scores_LM.isfinite().all()):
        raise EditError("the attributions are not finite; give a model of finite weights, or a wider dtype")
    chosen_NX = (scores_LM > scores_LM.max().item() * share).nonzero()
    return [(layer, index) for layer, index in chosen_NX.tolist()]


def refined(coarse: Sequence[Sequence[Neuron]], p: float) -> list[Neuron]:
    """Neurons that are in more than p of the lists, in the order of their first occurrence.

    Golden: `refined_3prompts_p0.4`; with p = 0, the union, `refined_3prompts_norefine`.
    """
    counts = Counter(neuron for neurons in coarse for neuron in neurons)
    return [neuron for neuron, count in counts.items() if count > len(coarse) * p]


def _edit(decoder: Decoder, neurons: Sequence[Neuron], width: int, greedy: int, target: Sequence[int]) -> Edit:
    """The same vector added to the row of every neuron: one change of rank one for each layer that has any."""
    if not neurons:
        raise EditError(f"{NO_NEURON}; give a lower adaptive_threshold or p")
    embedding_VD = decoder.embedding_VD
    # As the published code of each kind of model has it.
    times = 1 if decoder.family.causal else 2
    vector_D = times * embedding_VD[list(target)].float().sum(0) - 2 * embedding_VD[greedy].float()
    by_layer: dict[int, list[int]] = {}
    for layer, index in neurons:
        by_layer.setdefault(layer, []).append(index)
    changes = {}
    for layer in sorted(by_layer):
        name = decoder.family.name("mlp_down", layer)
        left_M1 = embedding_VD.new_zeros(width, 1)
        left_M1[by_layer[layer]] = 1
        changes[name] = LowRank(left_M1, vector_D.to(decoder.dtype)[None])
    return Edit(changes)


def _attribute(
    model: LanguageModel, prompts: Sequence[str], targets: Sequence[Sequence[int]], steps: int, memory: Memory
) -> list[tuple[Tensor, int]]:
    """Scores (L, M) and the model's own next token for each prompt: as many at once as memory allows."""
    asked = [model.tokens.encode(prompt) for prompt in prompts]
    attributed: dict[int, tuple[Tensor, int]] = {}
    # Prompts of like lengths go together, so that little is padded.
    order = sorted(range(len(asked)), key=lambda f: len(asked[f].ids))

    def fitting(left: Sequence[int]) -> int:
        return memory.facts(model.decoder, len(asked[left[-1]].ids), samples=0)

    def compute(part: Sequence[int]) -> list[tuple[Tensor, int]]:
        stored = _store(model, [asked[f] for f in part])
        scores_FLM = _integrate(model.decoder, stored, [targets[f] for f in part], steps, memory)
        return list(zip(scores_FLM, stored.greedy_F, strict=True))

    for part, scores in batches(order, fitting, compute, memory):
        attributed |= dict(zip(part, scores, strict=True))
    return [attributed[f] for f in range(len(asked))]


@dataclass(frozen=True)
class _Stored:
    """What one unedited pass over F prompts stores for their last tokens, or an encoder's masks, by layer.

    neurons_LFM: their activations (Family.neurons), normed_LFD: what the MLP read; rest_LFD: what the block adds the
    MLP's output to. left: keys and values of the tokens before the last, padded on the right. In an encoder there are
    none, and after_LFTD are the states after the block, of all tokens, among which a mask is at at_F. `aligned` says
    which tokens are real.
    """

    neurons_LFM: list[Tensor]
    normed_LFD: list[Tensor]
    rest_LFD: list[Tensor]
    left: list[LayerKeys]
    after_LFTD: list[Tensor]
    at_F: Tensor
    aligned: Aligned
    greedy_F: list[int]

    def joining(self, layer: int, prompt_B: Tensor, state_BD: Tensor) -> Tensor:
        """Rows (B, T, D) of the tokens that are computed again, with these states after the block."""
        if not self.after_LFTD:
            return state_BD[:, None]
        row_B = torch.arange(len(prompt_B), device=prompt_B.device)
        return self.after_LFTD[layer][prompt_B].index_put((row_B, self.at_F[prompt_B]), state_BD)

    def onward(self, decoder: Decoder, layer: int, rows_NTD: Tensor, prompt_N: Tensor) -> Tensor:
        """The rows after a block."""
        position_XT, seen_N1TK = self.aligned.position_BT, self.aligned.seen_B1TK[prompt_N]
        past: LayerKeys | None = None
        if self.left:
            key_FHTK, value_FHTK = self.left[layer]
            at_N = prompt_N.to(key_FHTK.device)
            past, position_XT = (key_FHTK[at_N], value_FHTK[at_N]), position_XT[prompt_N]
        return decoder.block(layer, rows_NTD, past=past, aligned=Aligned(position_XT, seen_N1TK))[0]


@torch.no_grad()
def _store(model: LanguageModel, asked: Sequence[Encoded]) -> _Stored:
    decoder, ids = model.decoder, [one.ids for one in asked]
    every_F = torch.arange(len(ids), device=decoder.device)
    read_F = torch.tensor([one.read for one in asked], device=decoder.device)
    neurons_LFM: list[Tensor] = []
    normed_LFD: list[Tensor] = []
    rest_LFD: list[Tensor] = []
    left: list[LayerKeys] = []
    after_LFTD: list[Tensor] = []

    padded = decoder.padded([len(row) for row in ids])
    hidden_FTD = decoder.embed(decoder.words(model.tokens.pad(ids, decoder.device)), aligned=padded)
    for layer in range(decoder.layers):
        entering_FD = hidden_FTD[every_F, read_F]

        def read(site: Site, layer: int, value_FTX: Tensor, entering_FD: Tensor = entering_FD) -> None:
            if site == "attn":
                rest_LFD.append(decoder.summed("attn", layer, entering_FD, value_FTX[every_F, read_F]))
            elif site == "normed":
                normed_LFD.append(value_FTX[every_F, read_F])
            elif site == decoder.family.neurons:
                neurons_LFM.append(value_FTX[every_F, read_F])

        hidden_FTD, (key_FHTK, value_FHTK) = decoder.block(layer, hidden_FTD, aligned=padded, at_site=read)
        if padded is None:
            left.append((key_FHTK[:, :, :-1], value_FHTK[:, :, :-1]))
        else:
            after_LFTD.append(hidden_FTD)
    greedy_F = decoder.logits(hidden_FTD[every_F, read_F]).argmax(-1).tolist()
    if padded is None:
        tokens_T = torch.arange(hidden_FTD.shape[1] - 1, device=decoder.device)
        # The last column is the row's own key.
        seen_FK = F.pad(tokens_T < read_F[:, None], (0, 1), value=True)
        padded, read_F = Aligned(read_F[:, None], seen_FK[:, None, None]), torch.zeros_like(read_F)
    return _Stored(neurons_LFM, normed_LFD, rest_LFD, left, after_LFTD, read_F, padded, greedy_F)


def _integrate(
    decoder: Decoder, stored: _Stored, targets: Sequence[Sequence[int]], steps: int, memory: Memory
) -> Tensor:
    """Scores (F, L, M) in float32. A point of a prompt's integral is one unit of work, at all layers."""
    sum_FLM = torch.zeros(
        len(targets), decoder.layers, stored.neurons_LFM[0].shape[1], dtype=torch.float32, device=decoder.device
    )
    x_S = torch.linspace(0, 1, steps, device=decoder.device)
    every_B = torch.arange(len(targets) * steps, device=decoder.device)
    truth = _Truth.of(targets, decoder.device)

    def fitting(left: Sequence[int]) -> int:
        shape = (stored.left[0][0].shape[2], 1) if stored.left else (0, stored.after_LFTD[0].shape[1])
        return memory.points(decoder, *shape)

    def compute(points: Sequence[int]) -> Sequence[Tensor]:
        point_B = every_B[points[0] : points[-1] + 1]
        return _gradients(decoder, stored, point_B // steps, x_S[point_B % steps], truth)

    for points, gradient_LBM in batches(range(len(targets) * steps), fitting, compute, memory):
        prompt_B = every_B[points[0] : points[-1] + 1] // steps
        for layer, gradient_BM in enumerate(gradient_LBM):
            sum_FLM[:, layer].index_add_(0, prompt_B, gradient_BM)
    return sum_FLM * torch.stack(stored.neurons_LFM, dim=1).float() / steps


@dataclass(frozen=True)
class _Truth:
    """The ids of F targets, padded to J, and what each one's probability counts: 1/its target's length, or 0."""

    id_FJ: Tensor
    weight_FJ: Tensor

    @classmethod
    def of(cls, targets: Sequence[Sequence[int]], device: torch.device) -> "_Truth":
        most = max(len(target) for target in targets)
        ids = [[*target, *[0] * (most - len(target))] for target in targets]
        weights = [[float(j < len(target)) / len(target) for j in range(most)] for target in targets]
        return cls(torch.tensor(ids, device=device), torch.tensor(weights, device=device))


@torch.enable_grad()
def _gradients(decoder: Decoder, stored: _Stored, prompt_B: Tensor, x_B: Tensor, truth: _Truth) -> Sequence[Tensor]:
    """For each layer the gradients (B, M), in float32, of the targets' mean probability at points x of the prompts'
    activations.

    The rows of a layer stand after those of all layers below it. Each row is one layer's at one point, so it may be
    scaled on its way back: in half precision the gradient of a small probability would be lost.
    """
    points_LBM: list[Tensor] = []
    rows_NTD: Tensor | None = None
    for layer in range(decoder.layers):
        neurons_BM = (stored.neurons_LFM[layer][prompt_B] * x_B[:, None].to(decoder.dtype)).requires_grad_()
        points_LBM.append(neurons_BM)
        mlp_BD = decoder.mlp_from(layer, neurons_BM, stored.normed_LFD[layer][prompt_B])
        state_BD = decoder.summed("mlp", layer, stored.rest_LFD[layer][prompt_B], mlp_BD)
        joining_BTD = stored.joining(layer, prompt_B, state_BD)
        if rows_NTD is None:
            rows_NTD = joining_BTD
            continue
        rows_NTD = stored.onward(decoder, layer, rows_NTD, prompt_B.repeat(layer))
        rows_NTD = torch.cat((rows_NTD, joining_BTD))
    assert rows_NTD is not None
    prompt_N = prompt_B.repeat(decoder.layers)
    final_ND = rows_NTD[torch.arange(len(prompt_N), device=prompt_N.device), stored.at_F[prompt_N]]
    gradient_ND, exponent_N = _head_gradient(decoder, final_ND.detach(), prompt_N, truth)
    scaled_LBM = torch.autograd.grad(_Begun.apply(final_ND, gradient_ND), points_LBM)
    exponents_LB = exponent_N.split(len(prompt_B))
    return [
        torch.ldexp(scaled_BM.float(), exponent_B[:, None])
        for scaled_BM, exponent_B in zip(scaled_LBM, exponents_LB, strict=True)
    ]


def _head_gradient(decoder: Decoder, final_ND: Tensor, prompt_N: Tensor, truth: _Truth) -> tuple[Tensor, Tensor]:
    """Gradient (N, D) of the targets' mean probability at the final states, with the logits of few rows at a time: each
    row divided by a power of two, whose exponents (N,) are returned too. In float32 this changes no digit.
    """
    gradients, exponents = [], []
    for part_ND, part_N in zip(final_ND.split(_HEAD_ROWS), prompt_N.split(_HEAD_ROWS), strict=True):
        part_ND.requires_grad_()
        logits_NV = decoder.logits(part_ND)
        probability_NV = logits_NV.detach().to(torch.promote_types(decoder.dtype, torch.float32)).softmax(-1)
        id_NJ = truth.id_FJ[part_N]
        counted_NJ = probability_NV.gather(1, id_NJ) * truth.weight_FJ[part_N]
        # dp_j/dz = p_j (e_j - p), written over the probabilities.
        gradient_NV = probability_NV.mul_(-counted_NJ.sum(1, keepdim=True)).scatter_add_(1, id_NJ, counted_NJ)
        exponent_N = gradient_NV.abs().amax(1).frexp().exponent.clamp(min=-100)
        gradient_NV = torch.ldexp(gradient_NV, -exponent_N[:, None]).to(decoder.dtype)
        gradients += torch.autograd.grad(_Begun.apply(logits_NV, gradient_NV), part_ND)
        exponents.append(exponent_N)
    return torch.cat(gradients), torch.cat(exponents)


class _Begun(torch.autograd.Function):
    """A scalar whose gradient by a tensor is the one that is given with it.

    torch.autograd.grad takes such gradients, too, but loads a part of torch's compiler at the first one.
    """

    @staticmethod
    def forward(ctx: Any, of: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return of.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None
