"""PMET's value optimisation: two deltas of one token, of the attention's output and of the MLP's, in one pass.

Covers the loss, its changing weight, and both of its stops (pmet.py says them). Facts are rows of one tensor, and each
stops on its own, as in value.py; the passes are value_pass.py's.

Shape letters as in value.py, and S scored target token, B row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.methods.pmet import PmetHparams
from artifact.editing.objective import Objective
from artifact.editing.site import Module
from artifact.editing.value import STOP_LOSS, clamped, idle_of, together
from artifact.editing.value_pass import Batch, Stored
from artifact.errors import DoesNotFit, EditError
from artifact.lm.adam import Adam
from artifact.lm.device import Memory, batches
from artifact.lm.load import LanguageModel

Terms = tuple[float, float, float, float, float, float, float]
"""Of a forward pass: the loss, its NLL times the factor, KL and penalty, the targets' mean probability, that of the
likeliest tokens in their places, and the factor."""
_LESS = 0.1
"""What the NLL's factor is multiplied by once every target token is the likeliest."""
_QUIET = 0.01
"""Where the KL's term is at most this, such an optimisation stops."""


@dataclass
class Two:
    """Both deltas (F, D) and, for each fact, the terms of each pass."""

    deltas: Mapping[Module, Tensor]
    history: list[list[Terms]]

    def idle(self, facts: slice) -> EditError | None:
        """Why the deltas of all these facts are zero; None where one is not."""
        moved = any(bool(delta_FD[facts].any()) for delta_FD in self.deltas.values())
        return None if moved else idle_of([terms[0][0] for terms in self.history[facts]])


def optimise_two(
    model: LanguageModel,
    objectives: Sequence[Objective],
    start: Mapping[Module, Tensor],
    hparams: PmetHparams,
    memory: Memory,
) -> Two:
    """Deltas of both modules of the last of the layers; `start` are their unedited outputs (F, D)."""
    layers = [hparams.layers[-1]] * len(objectives)
    whole = Two({module: torch.zeros_like(x_FD, dtype=torch.float32) for module, x_FD in start.items()}, [])

    def fitting(left: Sequence[int]) -> int:
        return together(model, layers[left[0] :], objectives[left[0] :], hparams, memory)

    def compute(part: Sequence[int]) -> Two:
        own = slice(part[0], part[-1] + 1)
        return _optimise(model, objectives[own], {module: x_FD[own] for module, x_FD in start.items()}, hparams)

    def alone(fact: int) -> Two:
        raise DoesNotFit("the value optimisation of one fact does not fit the device's memory; take a larger device")

    for part, found in batches(range(len(objectives)), fitting, compute, memory, alone):
        for module, delta_FD in whole.deltas.items():
            delta_FD[part[0] : part[-1] + 1] = found.deltas[module]
        whole.history += found.history
    return whole


def _optimise(
    model: LanguageModel, objectives: Sequence[Objective], start: Mapping[Module, Tensor], hparams: PmetHparams
) -> Two:
    """`optimise_two` for the facts of one batch."""
    decoder, steps, count = model.decoder, hparams.v_num_grad_steps, len(objectives)
    stored = Stored.of(decoder, "attn", [hparams.layers[-1]] * count, hparams.v_loss_layer, objectives)
    deltas = {module: torch.zeros_like(x_FD, dtype=torch.float32).requires_grad_() for module, x_FD in start.items()}
    norms = {module: x_FD.float().norm(dim=1) for module, x_FD in start.items()}
    optimiser = Adam({str(module): delta_FD for module, delta_FD in deltas.items()}, hparams.v_lr)
    factor_F = torch.full((count,), float(hparams.nll_loss_factor), device=decoder.device)
    history: list[list[Terms]] = [[] for _ in objectives]
    unedited_FV: Tensor | None = None
    active = list(range(count))
    batch = Batch.of(stored, active)
    for step in range(steps):
        log_NV = batch.logs(decoder, deltas["attn"], deltas["mlp"])
        kept_AV, live_A = log_NV[batch.kept_A], batch.live_A
        unedited_FV = kept_AV.detach() if unedited_FV is None else unedited_FV
        said = _Said.of(log_NV, batch)
        nll_A = factor_F[live_A] * said.nll_A
        kl_A = hparams.kl_factor * (kept_AV.exp() * (kept_AV - unedited_FV[live_A])).sum(-1)
        sizes = [deltas[module][live_A].norm(dim=1) / norms[module][live_A] ** 2 for module in ("mlp", "attn")]
        penalty_A = hparams.v_weight_decay * (sizes[0] + sizes[1])
        loss_A = nll_A + kl_A + penalty_A
        terms = torch.stack((loss_A, nll_A, kl_A, penalty_A, said.p_A, said.most_A, factor_F[live_A]), dim=1).tolist()
        going = []
        for fact, own, right in zip(active, terms, said.right, strict=True):
            history[fact].append(tuple(own))
            factor_F[fact] = hparams.nll_loss_factor * (_LESS if right else 1)
            if not (own[0] < STOP_LOSS or (right and own[2] <= _QUIET)):
                going.append(fact)
        if step == steps - 1 or not going:
            break
        held = {module: delta_FD.detach().clone() for module, delta_FD in deltas.items()}
        loss_A.sum().backward()
        optimiser.step()
        with torch.no_grad():
            # Adam's momentum would move a stopped fact's deltas on: they stay where they stopped.
            moves_F1 = torch.zeros(count, 1, dtype=torch.bool, device=decoder.device)
            moves_F1[going] = True
            for module, delta_FD in deltas.items():
                moved_FD = clamped(delta_FD, hparams.clamp_norm_factor * norms[module])
                delta_FD.copy_(torch.where(moves_F1, moved_FD, held[module]))
        if going != active:
            active = going
            batch = Batch.of(stored, active)
    return Two({module: delta_FD.detach() for module, delta_FD in deltas.items()}, history)


@dataclass(frozen=True)
class _Said:
    """Of each live fact: its targets' mean NLL over rows, the mean over rows of exp(-NLL), the same of the likeliest
    tokens, and whether these are the targets everywhere.
    """

    nll_A: Tensor
    p_A: Tensor
    most_A: Tensor
    right: Sequence[bool]

    @classmethod
    def of(cls, log_NV: Tensor, batch: Batch) -> "_Said":
        """From the log-probabilities (N, V) of what is read."""
        count, rows = len(batch.kept_A), int(batch.row_S.max()) + 1
        log_S = log_NV[batch.at_S, batch.target_S]
        most_S = log_NV.detach()[batch.at_S].max(-1).values
        nll_A = log_S.new_zeros(count).index_add(0, batch.fact_S, -log_S * batch.weight_S)
        fact_B = torch.zeros(rows, dtype=torch.long, device=log_S.device).index_put((batch.row_S,), batch.fact_S)
        tokens_B = log_S.new_zeros(rows).index_add(0, batch.row_S, torch.ones_like(batch.weight_S))
        scored_B = tokens_B > 0
        rows_A = log_S.new_zeros(count).index_add(0, fact_B[scored_B], torch.ones_like(tokens_B[scored_B]))

        def mean_of(part_S: Tensor) -> Tensor:
            # A row's weights are 1 / (divisor * rows): times the rows, the mean NLL of its tokens.
            own_S = -part_S * batch.weight_S * rows_A[batch.fact_S]
            nll_B = log_S.new_zeros(rows).index_add(0, batch.row_S, own_S)[scored_B]
            return log_S.new_zeros(count).index_add(0, fact_B[scored_B], (-nll_B).exp()) / rows_A

        wrong_A = log_S.new_zeros(count).index_add(0, batch.fact_S, (log_S.detach() < most_S).to(log_S.dtype))
        return cls(nll_A, mean_of(log_S.detach()), mean_of(most_S), [not wrong for wrong in wrong_A.tolist()])
