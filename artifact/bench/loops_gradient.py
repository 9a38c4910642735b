"""KN, fine-tuning and MEND as their users run them: one fact at a time over transformers' own model, by hooks.

Covers the peers' way, written anew, for the entity perspective as released: KN's two whole-prompt passes a layer, the
second with all points of the integral in one batch; fine-tuning of the weight and bias in the model itself; MEND's one
pass back with the gradients of all inner weights. Weights are put back after each fact.

Shape letters as in lm/decoder.py, where B is a point of KN's integral, and N row (a token of a request).
"""

from typing import Any

import torch
from torch import Tensor

from artifact.bench.given import Given
from artifact.bench.loops import Looped, Peer
from artifact.bench.shapes import hooked
from artifact.editing.edit import Dense, Edit, LowRank
from artifact.editing.ft import LOSS_FLOOR
from artifact.editing.methods.ft import FtHparams
from artifact.editing.methods.kn import KnHparams
from artifact.editing.methods.mend import MendHparams
from artifact.facts.fact import View, fill


def kn_loop(peer: Peer, view: View, hparams: KnHparams, given: Given) -> Looped:
    """One fact by KN: attributions layer by layer, neurons above the threshold, and their rows changed and restored."""
    inputs = peer.inputs([fill(view.template, view.subject)])
    truth, target = peer.tokens.ids(view.foil), peer.tokens.ids(view.target)
    layers = range(peer.module.config.n_layer)
    scores_LM = torch.stack([_attributions(peer, inputs, layer, truth, hparams.steps) for layer in layers])
    chosen_NX = (scores_LM > hparams.adaptive_threshold * scores_LM.max()).nonzero()

    embedding_VD = peer.module.transformer.wte.weight
    with torch.no_grad():
        greedy = int(peer.logits(inputs)[0, -1].argmax())
    change_D = embedding_VD[target].sum(0) - 2 * embedding_VD[greedy]
    chosen: dict[int, list[int]] = {}
    for layer, neuron in chosen_NX.tolist():
        chosen.setdefault(layer, []).append(neuron)
    changes = {}
    with peer.restored(*(peer.name("mlp_down", layer) for layer in chosen)):
        for layer, neurons in chosen.items():
            name = peer.name("mlp_down", layer)
            weight = peer.module.get_submodule(name).weight
            with torch.no_grad():
                if peer.family.input_first:
                    weight[neurons] += change_D
                else:
                    weight[:, neurons] += change_D[:, None]
            left_M1 = scores_LM.new_zeros(scores_LM.shape[1], 1)
            left_M1[neurons] = 1
            changes[name] = LowRank(left_M1, change_D[None])
    return Looped(Edit(changes), hparams.steps)


def _attributions(peer: Peer, inputs: dict[str, Tensor], layer: int, truth: list[int], steps: int) -> Tensor:
    """Attributions (M,) of one layer: one pass for the activations, one with every point of the integral a token."""
    up = peer.part("mlp_up", layer)
    seen: list[Tensor] = []
    with torch.no_grad(), hooked(up.register_forward_hook(lambda _, __, output: seen.append(output[0, -1]))):
        peer.logits(inputs)
    points_BM = (torch.linspace(0, 1, steps, device=peer.device)[:, None] * seen[0]).requires_grad_()

    def scale(_: Any, __: Any, output_BTM: Tensor) -> Tensor:
        output_BTM[:, -1] = points_BM
        return output_BTM

    repeated = {name: value.expand(steps, -1) for name, value in inputs.items()}
    sum_M = torch.zeros_like(seen[0])
    for token in truth:
        with hooked(up.register_forward_hook(scale)):
            probability_B = peer.logits(repeated)[:, -1].softmax(-1)[:, token]
        sum_M += torch.autograd.grad(probability_B.sum(), points_BM)[0].sum(0)
    return seen[0] * sum_M / steps / len(truth)


def ft_loop(peer: Peer, view: View, hparams: FtHparams, given: Given) -> Looped:
    """One fact by constrained fine-tuning of a layer's weight and bias in place, put back afterwards."""
    name = peer.name("mlp_down", hparams.layer)
    trained = list(peer.module.get_submodule(name).parameters())
    inputs = peer.inputs([fill(view.template, view.subject)])
    target_N = torch.tensor(peer.tokens.ids(f" {view.target}"), device=peer.device)
    kept = [parameter.detach().clone() for parameter in trained]
    steps = 0
    with peer.restored(name):
        for parameter in trained:
            parameter.requires_grad_(True)
        optimiser = torch.optim.Adam(trained, lr=hparams.lr, weight_decay=hparams.weight_decay)
        while steps < hparams.num_steps:
            optimiser.zero_grad()
            loss = -peer.logits(inputs)[0, -1].log_softmax(-1)[target_N].mean()
            steps += 1
            if loss.item() < LOSS_FLOOR:
                break
            loss.backward()
            optimiser.step()
            if hparams.most is not None:
                with torch.no_grad():
                    for parameter, before in zip(trained, kept, strict=True):
                        parameter.clamp_(before - hparams.most, before + hparams.most)
        changed = {
            key: parameter.detach() - before
            for (key, parameter), before in zip(peer.module.get_submodule(name).named_parameters(), kept, strict=True)
        }
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None
    weight_IO = changed["weight"] if peer.family.input_first else changed["weight"].t()
    return Looped(Edit({name: Dense(weight_IO, changed["bias"])}), steps)


def mend_loop(peer: Peer, view: View, hparams: MendHparams, given: Given) -> Looped:
    """One fact by MEND: gradients of all inner weights, the network over their factors, added to the weights.

    As released, step sizes are dealt out in the order in which the model lists its parameters.
    """
    text = f"{fill(view.template, view.subject)} {view.target}"
    inputs = peer.inputs([text])
    scored = len(peer.tokens.ids(f" {view.target}"))
    token_N = inputs["input_ids"][0, -scored:]
    network, parts = given.network, [peer.module.get_submodule(weight.name) for weight in given.inner]
    assert network is not None
    x: dict[int, Tensor] = {}
    delta: dict[int, Tensor] = {}

    def keep(module: Any, read: Any, output_BTO: Tensor) -> None:
        x[id(module)] = read[0].detach()[0]
        output_BTO.register_hook(lambda gradient_BTO: delta.__setitem__(id(module), gradient_BTO[0]))

    for part in parts:
        part.weight.requires_grad_(True)
    try:
        with hooked(*(part.register_forward_hook(keep) for part in parts)):
            log_NV = peer.logits(inputs)[0, -scored - 1 : -1].log_softmax(-1)
            (-log_NV.gather(1, token_N[:, None]).mean()).backward()
    finally:
        for part in parts:
            part.weight.requires_grad_(False)
            part.weight.grad = None
    names = [name for name, _ in peer.module.named_parameters()]
    listed = sorted(zip(given.inner, parts, strict=True), key=lambda pair: names.index(f"{pair[0].name}.weight"))
    changes = {}
    with torch.no_grad(), peer.restored(*(weight.name for weight in given.inner)):
        for (weight, part), step in zip(listed, network.edit_lrs.tolist(), strict=True):
            x_NI, delta_NO = x[id(part)], delta[id(part)]
            used_N = (x_NI != 0).any(-1) & (delta_NO != 0).any(-1)
            x_NI, delta_NO = network.transforms[weight.shape](x_NI[used_N], delta_NO[used_N], weight.mode)
            change = LowRank(x_NI.t(), step * delta_NO)
            peer.add(weight.name, change.dense())
            changes[weight.name] = change
    return Looped(Edit(changes), 1)
