"""The value optimisation: a delta added to a module's output at the edited token until the target is said.

Covers equation (3) of the paper as released: Adam on deltas, loss = mean NLL of the targets over all prompts + KL to
the unedited next-token distribution + norm penalty, stop below 0.05, clamp to a multiple of the starting norm. The
deltas of many facts, and of one fact at many layers, are rows of one tensor; each stops on its own, so a batch gives
what single runs give. The passes are value_pass.py's, what is done with the delta rome.py's.

Shape letters as in lm/decoder.py, and F delta: a fact at a layer, A delta still optimised.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from artifact.editing.hparams import ValueHparams
from artifact.editing.objective import Objective
from artifact.editing.value_pass import Batch, Stored
from artifact.errors import DoesNotFit, EditError
from artifact.lm.adam import Adam
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

Terms = tuple[float, float, float, float]
"""The loss of a forward pass and its terms: total, NLL, KL, penalty."""
STOP_LOSS = 0.05


@dataclass
class Optimised:
    """Deltas (F, D) and, for each, the loss terms of each forward pass."""

    delta_FD: Tensor
    history: list[list[Terms]] = field(default_factory=list)

    def idle(self, facts: slice) -> EditError | None:
        """Why the deltas of all these facts are zero; None where one is not. Rounding in what is made of a zero delta
        must not pass for an edit."""
        if bool(self.delta_FD[facts].any()):
            return None
        return idle_of([terms[0][0] for terms in self.history[facts]])


def idle_of(losses: Sequence[float]) -> EditError:
    """Why facts with these first losses have no delta."""
    loss = max(losses)
    if loss < STOP_LOSS:
        return EditError(
            f"the model already says so: the loss was {loss:.2g} before the first step, below {STOP_LOSS}, so "
            "nothing was changed; give a target that it does not say yet"
        )
    return EditError(
        f"no step was taken (the loss is {loss:.3g}), so nothing was changed; give v_num_grad_steps of 2 or more"
    )


def optimise(
    model: LanguageModel,
    layers: Sequence[int],
    objectives: Sequence[Objective],
    start_FD: Tensor,
    hparams: ValueHparams,
    memory: Memory | None = None,
) -> Optimised:
    """Deltas added to the output of the module `hparams.site` of block layers[f] at every lookup position of
    objectives[f].

    `start_FD` are the unedited vectors whose norms scale penalty and clamp. A step starts after the edited module: all
    before it is computed once, and once for all layers of an objective that comes several times. Adding to the MLP's
    output and to the block's is the same, as both end in one sum, unless the family norms the MLP's output before that
    sum (`Decoder.summed`). Deltas are taken together as far as `memory` allows.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    result = Optimised(torch.zeros_like(start_FD, dtype=torch.float32), [])

    def fitting(left: Sequence[int]) -> int:
        return together(model, layers[left[0] :], objectives[left[0] :], hparams, memory)

    def compute(part: Sequence[int]) -> Optimised:
        own = slice(part[0], part[-1] + 1)
        return _optimise(model, layers[own], objectives[own], start_FD[own], hparams)

    def alone(fact: int) -> Optimised:
        raise DoesNotFit(
            "the value optimisation of one fact does not fit the device's memory; take a larger device or fewer "
            "prefixes"
        )

    for part, optimised in batches(range(len(objectives)), fitting, compute, memory, alone):
        result.delta_FD[part[0] : part[-1] + 1] = optimised.delta_FD
        result.history += optimised.history
    return result


def together(
    model: LanguageModel,
    layers: Sequence[int],
    objectives: Sequence[Objective],
    hparams: ValueHparams,
    memory: Memory,
) -> int:
    """How many of the deltas fit the budget, at least one: every row keeps its layers' activations for the gradient."""
    rows: Counter[int] = Counter()
    tokens = left = 0
    for count, (layer, one) in enumerate(zip(layers, objectives, strict=True)):
        rows[hparams.v_loss_layer - layer + (hparams.site == "attn")] += len(one.rows) + 1
        tokens = max(tokens, *(len(row.ids) - row.first for row in one.rows))
        left = max(left, *(row.first for row in one.rows))
        needed = [of * memory.gradient_row_bytes(model.decoder, above, left, tokens) for above, of in rows.items()]
        if sum(needed) > memory.limit:
            return max(1, count)
    return len(objectives)


def _optimise(
    model: LanguageModel,
    layers: Sequence[int],
    objectives: Sequence[Objective],
    start_FD: Tensor,
    hparams: ValueHparams,
) -> Optimised:
    """`optimise` for the deltas of one batch."""
    decoder, steps = model.decoder, hparams.v_num_grad_steps
    everything = Stored.of(decoder, hparams.site, layers, hparams.v_loss_layer, objectives)
    delta_FD = torch.zeros_like(start_FD, dtype=torch.float32).requires_grad_()
    norm_F = start_FD.float().norm(dim=1)
    optimiser = Adam({"delta": delta_FD}, hparams.v_lr)
    history: list[list[Terms]] = [[] for _ in objectives]
    unedited_FV: Tensor | None = None
    active = list(range(len(objectives)))
    batch = Batch.of(everything, active)

    for step in range(steps):
        nll_A, kept_AV = batch.read(decoder, delta_FD)
        if unedited_FV is None:
            unedited_FV = kept_AV.detach()
        live_A = batch.live_A
        kl_A = hparams.kl_factor * (kept_AV.exp() * (kept_AV - unedited_FV[live_A])).sum(-1)
        penalty_A = hparams.v_weight_decay * delta_FD[live_A].norm(dim=1) / norm_F[live_A] ** 2
        loss_A = nll_A + kl_A + penalty_A
        terms_A4 = torch.stack((loss_A, nll_A, kl_A, penalty_A), dim=1)
        for fact, (total, nll, kl, penalty) in zip(active, terms_A4.tolist(), strict=True):
            history[fact].append((total, nll, kl, penalty))
        going = [fact for fact in active if not history[fact][-1][0] < STOP_LOSS]
        if step == steps - 1 or not going:
            break
        held_FD = delta_FD.detach().clone()
        loss_A.sum().backward()
        optimiser.step()
        with torch.no_grad():
            # Adam's momentum would move a stopped fact's delta on: it stays where it stopped.
            moves_F1 = torch.zeros(len(objectives), 1, dtype=torch.bool, device=decoder.device)
            moves_F1[going] = True
            delta_FD.copy_(torch.where(moves_F1, clamped(delta_FD, hparams.clamp_norm_factor * norm_F), held_FD))
        if going != active:
            active = going
            batch = Batch.of(everything, active)
    return Optimised(delta_FD.detach(), history)


def clamped(delta_FD: Tensor, most_F: Tensor) -> Tensor:
    """Deltas whose norms are at most these."""
    norm_F = delta_FD.norm(dim=1)
    scale_F = torch.where(norm_F > most_F, most_F / norm_F, torch.ones_like(norm_F))
    return delta_FD * scale_F[:, None]
