"""ROME, MEMIT, EMMET and AlphaEdit as their users run them: one fact at a time over transformers' own model.

Covers the peers' way, written anew, for the entity perspective as released: whole passes with logits at every position,
a delta added by a hook, ROME's inverse and MEMIT's second moments kept from fact to fact, weights changed in place and
put back. This way is as fast as it can be: weights take no gradient, hooks index all rows at once.

Shape letters as in lm/decoder.py, and N scored target tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from artifact.bench.given import Given
from artifact.bench.shapes import hooked
from artifact.editing.edit import Edit, LowRank
from artifact.editing.hparams import ValueHparams
from artifact.editing.methods.alphaedit import AlphaEditHparams
from artifact.editing.methods.emmet import EmmetHparams
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.objective import KEPT_PROMPT
from artifact.editing.value import STOP_LOSS
from artifact.facts.fact import View, fill
from artifact.lm.family import Family
from artifact.lm.tokens import Tokens


@dataclass(frozen=True)
class Looped:
    """One fact's edit, and how many steps it took."""

    edit: Edit
    steps: int


@dataclass(frozen=True)
class Peer:
    """transformers' own model, its tokenizer, and the names of its parts."""

    module: Any
    family: Family
    tokens: Tokens

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def name(self, part: str, layer: int) -> str:
        """Name of a part of a block; of the block itself, or its MLP, where these are asked for."""
        if part == "block":
            return f"transformer.h.{layer}"
        return f"transformer.h.{layer}.mlp" if part == "mlp" else self.family.name(part, layer)

    def part(self, part: str, layer: int) -> Any:
        return self.module.get_submodule(self.name(part, layer))

    def inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids and mask of a padded batch, as a tokenizer gives them."""
        ids = [self.tokens.ids(text) for text in texts]
        ids_BT = self.tokens.pad(ids, self.device)
        length_B1 = torch.tensor([[len(row)] for row in ids], device=self.device)
        mask_BT = (torch.arange(ids_BT.shape[1], device=self.device) < length_B1).long()
        return {"input_ids": ids_BT, "attention_mask": mask_BT}

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, T, V) of every position."""
        return self.module(**inputs, use_cache=False).logits

    def subject_last(self, template: str, subject: str) -> int:
        """Position of the subject's last token."""
        start = template.index("{}")
        return self.tokens.encode(fill(template, subject)).span(start, start + len(subject))[-1]

    @torch.no_grad()
    def read(self, part: str, layer: int, templates: Sequence[str], subject: str) -> tuple[Tensor, Tensor]:
        """Input (B, I) and output (B, O) of a part at the subject's last token, by a whole pass."""
        at_B = torch.tensor([self.subject_last(t, subject) for t in templates], device=self.device)
        every_B = torch.arange(len(templates), device=self.device)
        seen: list[Tensor] = []

        def keep(_: Any, given: Any, output: Any) -> None:
            seen.extend((given[0][every_B, at_B], _first(output)[every_B, at_B]))

        with hooked(self.part(part, layer).register_forward_hook(keep)):
            self.logits(self.inputs([fill(t, subject) for t in templates]))
        return seen[0], seen[1]

    def add(self, name: str, change_IO: Tensor) -> None:
        """Add a change (I, O) to a linear layer's weight in place."""
        weight = self.module.get_submodule(name).weight
        with torch.no_grad():
            weight.add_(change_IO if self.family.input_first else change_IO.t())

    @contextmanager
    def restored(self, *names: str) -> Iterator[None]:
        """Put these layers' parameters back after the block, bit for bit."""
        parameters = [p for name in names for p in self.module.get_submodule(name).parameters()]
        kept = [parameter.detach().clone() for parameter in parameters]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, before in zip(parameters, kept, strict=True):
                    parameter.copy_(before)


def rome_loop(peer: Peer, view: View, hparams: RomeHparams, given: Given) -> Looped:
    """One fact by ROME, its change added to the weight and taken back."""
    layer, name = hparams.layer, peer.name("mlp_down", hparams.layer)
    prefixed = [fill(t, view.template) for t in given.prefixes]
    keys_BM, _ = peer.read("mlp_down", layer, prefixed, view.subject)
    left_M = given.inverse_MM(layer) @ keys_BM.mean(0)
    left_M = left_M / left_M.norm()
    target_D, steps = _value(peer, "mlp", layer, view, prefixed, hparams)
    key_1M, current_1D = peer.read("mlp_down", layer, [view.template], view.subject)
    right_D = (target_D - current_1D[0]) / (key_1M[0] @ left_M)
    with peer.restored(name):
        peer.add(name, left_M[:, None] @ right_D[None])
    return Looped(Edit({name: LowRank(left_M[:, None], right_D[None])}), steps)


def memit_loop(peer: Peer, view: View, hparams: MemitHparams, given: Given) -> Looped:
    """One fact by MEMIT: a dense float64 system a layer, each layer changed before the next is read, all taken back."""

    def change(layer: int, key_M1: Tensor, residual_1D: Tensor) -> LowRank:
        system_MM = hparams.mom2_update_weight * given.moments_MM[layer].double() + key_M1 @ key_M1.t()
        return LowRank(torch.linalg.solve(system_MM, key_M1).float(), residual_1D.float())

    return _spread(peer, view, hparams, given, change)


def emmet_loop(peer: Peer, view: View, hparams: EmmetHparams, given: Given) -> Looped:
    """One fact by EMMET: the weighted second moments inverted in float64 a layer, as the published code does."""

    def change(layer: int, key_M1: Tensor, residual_1D: Tensor) -> LowRank:
        system_MM = hparams.mom2_update_weight * given.moments_MM[layer].double()
        system_MM.diagonal().add_(hparams.update_norm_lambda)
        solved_M1 = torch.linalg.inv(system_MM) @ key_M1
        return LowRank((solved_M1 / (key_M1.t() @ solved_M1)).float(), residual_1D.float())

    return _spread(peer, view, hparams, given, change)


def alphaedit_loop(peer: Peer, view: View, hparams: AlphaEditHparams, given: Given) -> Looped:
    """One fact by AlphaEdit: a dense float32 system a layer, with the projection kept from fact to fact."""

    def change(layer: int, key_M1: Tensor, residual_1D: Tensor) -> LowRank:
        null_MM, key_M1 = given.null_MM(layer, hparams.nullspace_threshold), key_M1.float()
        system_MM = null_MM @ (key_M1 @ key_M1.t())
        system_MM.diagonal().add_(hparams.l2)
        solved_MD = torch.linalg.solve(system_MM, null_MM @ key_M1 @ residual_1D.float())
        # The solution is a multiple of one column by the residual.
        left_M1 = solved_MD @ residual_1D.float().t() / residual_1D.float().square().sum()
        return LowRank(left_M1, residual_1D.float())

    return _spread(peer, view, hparams, given, change)


def _spread(
    peer: Peer,
    view: View,
    hparams: MemitHparams,
    given: Given,
    change: Callable[[int, Tensor, Tensor], LowRank],
) -> Looped:
    """One fact's value, and a `change` (of a layer, key and what is to be written there, float64) in each of the layers
    in turn, each read with those below it changed; all taken back.
    """
    last = hparams.layers[-1]
    prefixed = [fill(t, view.template) for group in given.prefixes for t in group]
    value_D, steps = _value(peer, "block", last, view, prefixed, hparams)
    changes = {}
    names = [peer.name("mlp_down", layer) for layer in hparams.layers]
    with peer.restored(*names):
        for at, (layer, name) in enumerate(zip(hparams.layers, names, strict=True)):
            keys_BM, _ = peer.read("mlp_down", layer, prefixed, view.subject)
            parts = keys_BM.split([len(group) for group in given.prefixes])
            key_M = torch.stack([part.mean(0) for part in parts]).mean(0)
            _, current_1D = peer.read("block", last, [view.template], view.subject)
            residual_D = (value_D - current_1D[0]).double() / (len(names) - at)
            changes[name] = change(layer, key_M.double()[:, None], residual_D[None])
            peer.add(name, changes[name].dense())
    return Looped(Edit(changes), steps)


def _value(
    peer: Peer, part: str, layer: int, view: View, prefixed: Sequence[str], hparams: ValueHparams
) -> tuple[Tensor, int]:
    """The value (D,) for one fact and the number of forward passes: every pass is a whole one over all prompts."""
    device = peer.device
    target = peer.tokens.ids(f" {view.target}")
    said = peer.tokens.decode(target[:-1]) if len(target) > 1 else ""
    texts = [fill(t, view.subject) + said for t in prefixed] + [fill(KEPT_PROMPT, view.subject)]
    inputs = peer.inputs(texts)
    at_B = torch.tensor([peer.subject_last(t, view.subject) for t in (*prefixed, KEPT_PROMPT)], device=device)
    every_B = torch.arange(len(texts), device=device)
    scored_BT = _scored(inputs, target)
    mask_BT = (scored_BT != -100).float()

    delta_D = torch.zeros(peer.module.config.n_embd, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([delta_D], lr=hparams.v_lr)
    start: list[Tensor] = []
    unedited: list[Tensor] = []

    def add(_: Any, __: Any, output: Any) -> Any:
        output_BTD = _first(output)
        if not start:
            start.append(output_BTD[0, at_B[0]].detach().clone())
        output_BTD[every_B, at_B] += delta_D
        return output

    steps = 0
    with hooked(peer.part(part, layer).register_forward_hook(add)):
        while True:
            logits_BTV = peer.logits(inputs)
            steps += 1
            log_BTV = logits_BTV.log_softmax(-1)
            kept_V = log_BTV[-1, at_B[-1]]
            if not unedited:
                unedited.append(kept_V.detach().clone())
            nll_BT = -log_BTV.gather(2, scored_BT.clamp(min=0)[:, :, None])[:, :, 0] * mask_BT
            nll = (nll_BT[:-1].sum(1) / len(target)).mean()
            divergence = hparams.kl_factor * (kept_V.exp() * (kept_V - unedited[0])).sum()
            norm = start[0].norm()
            loss = nll + divergence + hparams.v_weight_decay * delta_D.norm() / norm**2
            if loss.item() < STOP_LOSS or steps == hparams.v_num_grad_steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            most = hparams.clamp_norm_factor * norm
            with torch.no_grad():
                if delta_D.norm() > most:
                    delta_D.mul_(most / delta_D.norm())
    return start[0] + delta_D.detach(), steps


def _scored(inputs: Mapping[str, Tensor], target: Sequence[int]) -> Tensor:
    """The target's ids (B, T) at the positions that say them, -100 elsewhere; the last row is scored nowhere."""
    scored_BT = torch.full_like(inputs["input_ids"], -100)
    for row, length in enumerate(inputs["attention_mask"][:-1].sum(1).tolist()):
        scored_BT[row, length - len(target) : length] = scored_BT.new_tensor(target)
    return scored_BT


def _first(output: Any) -> Tensor:
    """A module's output, or the first of several."""
    return output[0] if isinstance(output, tuple) else output
