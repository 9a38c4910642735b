"""The value optimisation: a delta added to one layer's output at the subject's last token until the target is said.

Covers equation (3) of the paper as released: Adam on deltas, loss = mean NLL of the targets over all prompts + KL to
the unedited next-token distribution + norm penalty, stop below 0.05, clamp to a multiple of the starting norm. The
deltas of many facts are rows of one tensor; each stops on its own, so a batch gives what single runs give. What is
done with the delta is rome.py's.

Shape letters as in lm/decoder.py, and F fact, N scored target tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from artifact.editing.hparams import ValueHparams
from artifact.editing.protocol import Protocol
from artifact.errors import DoesNotFit, EditError, PromptError
from artifact.facts.fact import NO_RELATION, View, fill
from artifact.lm.decoder import Aligned, LayerKeys
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

STOP_LOSS = 0.05
KEPT_PROMPT = "{} is a"
"""The prompt whose next-token distribution an edit should leave alone."""


@dataclass(frozen=True)
class Row:
    """A prompt with its target after it, but for the target's last token.

    `lookup` is the position of the subject's last token; target token j is scored at position
    len(ids) - len(target) + j; `divisor` is the token count its summed NLL is divided by.
    """

    ids: tuple[int, ...]
    lookup: int
    target: tuple[int, ...] = ()
    divisor: int = 1


@dataclass(frozen=True)
class Objective:
    """What one fact's value is optimised for: prompts with targets, and the prompt whose distribution is kept."""

    rows: tuple[Row, ...]
    kept: Row


@dataclass
class Optimised:
    """Deltas (F, D) and, for each fact, the loss terms of each forward pass: total, NLL, KL, penalty."""

    delta_FD: Tensor
    history: list[list[tuple[float, float, float, float]]] = field(default_factory=list)

    def idle(self, facts: slice) -> EditError | None:
        """Why the deltas of all these facts are zero; None where one is not. Rounding in what is made of a zero delta
        must not pass for an edit."""
        if bool(self.delta_FD[facts].any()):
            return None
        loss = max(terms[0][0] for terms in self.history[facts])
        if loss < STOP_LOSS:
            return EditError(
                f"the model already says so: the loss was {loss:.2g} before the first step, below {STOP_LOSS}, so "
                "nothing was changed; give a target that it does not say yet"
            )
        return EditError(
            f"no step was taken (the loss is {loss:.3g}), so nothing was changed; give v_num_grad_steps of 2 or more"
        )


def subject_row(
    model: LanguageModel,
    template: str,
    subject: str,
    target: Sequence[int] = (),
    divisor: int | None = None,
    written: Callable[[Sequence[int]], str] | None = None,
) -> Row:
    """The row of a prompt template ("{}" is the subject) and the ids of its target.

    The ids of the target, but for the last, follow the prompt's. With `written` (target_text) its text is appended
    instead and the whole tokenised together, as in the released code. PromptError where the subject has no token, and
    where prompt and target exceed the model's positions.
    """
    text, said = fill(template, subject), written(target[:-1]) if written and len(target) > 1 else ""
    encoded = model.tokens.encode(text + said)
    ids = encoded.ids if said else model.tokens.fed(encoded, target)
    start = template.index("{}")
    span = encoded.span(start, start + len(subject))
    if not span:
        raise PromptError(f"the subject {subject!r} has no token in the prompt {text!r}; give a subject with letters")
    lookup = span[-1]
    if target and len(ids) - len(target) < lookup:
        raise PromptError(
            f"the target {said!r}, written after its prompt as text, has fewer tokens than its {len(target)} ids and "
            "would be scored inside the prompt; --correct target_as_text appends the ids"
        )
    return Row(ids, lookup, tuple(target), divisor or max(1, len(target)))


def target_text(model: LanguageModel, protocol: Protocol) -> Callable[[Sequence[int]], str] | None:
    """How a target is written after its prompt as text, as released; None where its ids are appended.

    Text stands for ids only in tokenizers of the kind that the released code ran on: bytes with their spaces.
    """
    if not (protocol.target_as_text and model.tokens.byte_level):
        return None
    return model.tokens.decode_as_released if protocol.target_spaces_cleaned else model.tokens.decode


def objective(
    model: LanguageModel, view: View, templates: Sequence[str], removals: Sequence[str], protocol: Protocol
) -> Objective:
    """What the value of one view is optimised for: every prefixed prompt; in relation views, removal towards "None"."""
    target, written = model.tokens.continuation(f" {view.target}"), target_text(model, protocol)
    rows = [subject_row(model, fill(t, view.template), view.subject, target, written=written) for t in templates]
    if view.removal is not None:
        none = model.tokens.continuation(NO_RELATION if protocol.removal_without_space else f" {NO_RELATION}")
        divisor = len(target) if protocol.removal_nll_by_relation_length else len(none)
        rows += [subject_row(model, fill(t, view.removal), view.subject, none, divisor, written) for t in removals]
    return Objective(tuple(rows), subject_row(model, KEPT_PROMPT, view.subject))


def optimise(
    model: LanguageModel,
    layer: int,
    objectives: Sequence[Objective],
    start_FD: Tensor,
    hparams: ValueHparams,
    memory: Memory | None = None,
) -> Optimised:
    """Deltas added to the output of block `layer` at every row's lookup position.

    `start_FD` are the unedited vectors whose norms scale penalty and clamp. The pass starts after `layer`: all below
    it is computed once. Adding to the module's output and to the block's output is the same, as both end in one sum.
    Facts are taken together as far as `memory` allows.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    result = Optimised(torch.zeros_like(start_FD, dtype=torch.float32), [])

    def fitting(left: Sequence[int]) -> int:
        return _together(model, layer, hparams.v_loss_layer, objectives[left[0] :], memory)

    def compute(part: Sequence[int]) -> Optimised:
        facts = slice(part[0], part[-1] + 1)
        return _optimise(model, layer, objectives[facts], start_FD[facts], hparams)

    def alone(fact: int) -> Optimised:
        raise DoesNotFit(
            "the value optimisation of one fact does not fit the device's memory; take a larger device or fewer "
            "prefixes"
        )

    for part, found in batches(range(len(objectives)), fitting, compute, memory, alone):
        result.delta_FD[part[0] : part[-1] + 1] = found.delta_FD
        result.history += found.history
    return result


def _together(
    model: LanguageModel, layer: int, loss_layer: int, objectives: Sequence[Objective], memory: Memory
) -> int:
    """How many of the facts fit the budget, at least one: every row keeps its layers' activations for the gradient."""
    rows = tokens = left = 0
    for count, one in enumerate(objectives):
        rows += len(one.rows) + 1
        tokens = max(tokens, *(len(row.ids) - row.lookup for row in one.rows))
        left = max(left, *(row.lookup for row in one.rows))
        if rows * memory.gradient_row_bytes(model.decoder, loss_layer - layer, left, tokens) > memory.limit:
            return max(1, count)
    return len(objectives)


def _optimise(
    model: LanguageModel,
    layer: int,
    objectives: Sequence[Objective],
    start_FD: Tensor,
    hparams: ValueHparams,
) -> Optimised:
    decoder, loss_layer, steps = model.decoder, hparams.v_loss_layer, hparams.v_num_grad_steps
    rows = [row for objective in objectives for row in (*objective.rows, objective.kept)]
    fact_B = [f for f, objective in enumerate(objectives) for _ in range(len(objective.rows) + 1)]
    everything = _store(model, layer, loss_layer, rows)

    delta_FD = torch.zeros_like(start_FD, dtype=torch.float32).requires_grad_()
    norm_F = start_FD.float().norm(dim=1)
    optimiser = torch.optim.Adam([delta_FD], lr=hparams.v_lr)
    result = Optimised(delta_FD, [[] for _ in objectives])
    unedited_FV: Tensor | None = None
    active = list(range(len(objectives)))
    stored, batch = everything, _Batch.of(rows, fact_B, active, decoder.device)

    for step in range(steps):
        row_delta_BD = delta_FD[batch.fact_B].to(stored.hidden_BTD.dtype)
        hidden_BTD = torch.cat((stored.hidden_BTD[:, :1] + row_delta_BD[:, None], stored.hidden_BTD[:, 1:]), dim=1)
        hidden_BTD = decoder.blocks(hidden_BTD, layer + 1, loss_layer + 1, past=stored.left, aligned=stored.aligned)

        log_NV = decoder.logits(hidden_BTD[batch.target_row_N, batch.target_at_N]).log_softmax(-1)
        nll_N = -log_NV.gather(1, batch.target_N[:, None])[:, 0] * batch.weight_N
        nll_F = torch.zeros(len(objectives), device=decoder.device).index_add(0, batch.target_fact_N, nll_N)
        kept_AV = decoder.logits(hidden_BTD[batch.kept_row_A, 0]).log_softmax(-1)
        if unedited_FV is None:
            unedited_FV = kept_AV.detach()
        live = torch.tensor(active, device=decoder.device)
        kl_A = hparams.kl_factor * (kept_AV.exp() * (kept_AV - unedited_FV[live])).sum(-1)
        penalty_A = hparams.v_weight_decay * delta_FD[live].norm(dim=1) / norm_F[live] ** 2
        loss_A = nll_F[live] + kl_A + penalty_A

        for fact, *terms in zip(
            active, loss_A.tolist(), nll_F[live].tolist(), kl_A.tolist(), penalty_A.tolist(), strict=True
        ):
            result.history[fact].append((terms[0], terms[1], terms[2], terms[3]))
        going = [fact for fact, loss in zip(active, loss_A.tolist(), strict=True) if not loss < STOP_LOSS]
        if step == steps - 1 or not going:
            break
        held_FD = delta_FD.detach().clone()
        optimiser.zero_grad()
        loss_A.sum().backward()
        optimiser.step()
        with torch.no_grad():
            # Adam's momentum would move a stopped fact's delta on: it stays where it stopped.
            moves = torch.zeros(len(objectives), 1, dtype=torch.bool, device=decoder.device)
            moves[going] = True
            delta_FD.copy_(torch.where(moves, _clamped(delta_FD, hparams.clamp_norm_factor * norm_F), held_FD))
        if going != active:
            active = going
            batch = _Batch.of(rows, fact_B, active, decoder.device)
            stored = everything.rows(batch.rows_B)
    result.delta_FD = delta_FD.detach()
    return result


def _clamped(delta_FD: Tensor, most_F: Tensor) -> Tensor:
    norm_F = delta_FD.norm(dim=1)
    scale_F = torch.where(norm_F > most_F, most_F / norm_F, torch.ones_like(norm_F))
    return delta_FD * scale_F[:, None]


@dataclass(frozen=True)
class _Stored:
    """What the deltas do not change, rows aligned at their lookup position.

    hidden_BTD: states after the edited layer, from the lookup position on; left: by layer, keys and values of the
    tokens before it, the nearest last.
    """

    hidden_BTD: Tensor
    left: dict[int, LayerKeys]
    aligned: Aligned

    def rows(self, rows_B: Tensor) -> "_Stored":
        """The same for some of the rows."""
        return _Stored(
            self.hidden_BTD[rows_B],
            {layer: (key[rows_B], value[rows_B]) for layer, (key, value) in self.left.items()},
            Aligned(self.aligned.position_BT[rows_B], self.aligned.seen_B1TK[rows_B]),
        )


@torch.no_grad()
def _store(model: LanguageModel, layer: int, loss_layer: int, rows: Sequence[Row]) -> _Stored:
    """One unedited pass over all rows, cut at each row's lookup position."""
    decoder = model.decoder
    lookup_B = torch.tensor([row.lookup for row in rows], device=decoder.device)
    every_B1 = torch.arange(len(rows), device=decoder.device)[:, None]
    # The kept prompt is read at its lookup position: what stands after it is not needed.
    fed = [row.ids if row.target else row.ids[: row.lookup + 1] for row in rows]
    hidden_BTD = decoder.embed(decoder.words(model.tokens.pad(fed, decoder.device)))
    hidden_BTD = decoder.blocks(hidden_BTD, 0, layer + 1)

    longest = int(lookup_B.max())
    from_left_BP = torch.arange(longest, device=decoder.device) - (longest - lookup_B[:, None])
    real_BP = from_left_BP >= 0
    left: dict[int, LayerKeys] = {}
    onward_BTD = hidden_BTD
    for above in range(layer + 1, loss_layer + 1):
        onward_BTD, (key_BHTK, value_BHTK) = decoder.block(above, onward_BTD)
        at_BP = from_left_BP.clamp(min=0)
        left[above] = (
            key_BHTK.transpose(1, 2)[every_B1, at_BP].transpose(1, 2),
            value_BHTK.transpose(1, 2)[every_B1, at_BP].transpose(1, 2),
        )
    tokens = max(len(ids) - row.lookup for ids, row in zip(fed, rows, strict=True))
    position_BT = lookup_B[:, None] + torch.arange(tokens, device=decoder.device)
    at_BT = position_BT.clamp(max=hidden_BTD.shape[1] - 1)
    causal_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=decoder.device).tril()
    seen_BTK = torch.cat((real_BP[:, None].expand(-1, tokens, -1), causal_TT.expand(len(rows), -1, -1)), dim=2)
    return _Stored(hidden_BTD[every_B1, at_BT], left, Aligned(position_BT, seen_BTK[:, None]))


@dataclass(frozen=True)
class _Batch:
    """Index tensors of the rows of the facts still optimised (A of them): which rows, and where their targets stand,
    counted from the lookup position."""

    rows_B: Tensor
    fact_B: Tensor
    target_row_N: Tensor
    target_at_N: Tensor
    target_N: Tensor
    target_fact_N: Tensor
    weight_N: Tensor
    kept_row_A: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], fact_B: Sequence[int], active: Sequence[int], device: torch.device) -> "_Batch":
        chosen = [b for b, fact in enumerate(fact_B) if fact in set(active)]
        scored = {fact: sum(1 for b in chosen if fact_B[b] == fact and rows[b].target) for fact in active}
        kept = [position for position, b in enumerate(chosen) if not rows[b].target]
        targets = [
            (position, len(rows[b].ids) - len(rows[b].target) + j - rows[b].lookup, token, fact_B[b])
            for position, b in enumerate(chosen)
            for j, token in enumerate(rows[b].target)
        ]
        weights = [1 / (rows[b].divisor * scored[fact_B[b]]) for b in chosen for _ in rows[b].target]
        row_N, at_N, token_N, fact_N = (torch.tensor(column, device=device) for column in zip(*targets, strict=True))
        return cls(
            rows_B=torch.tensor(chosen, device=device),
            fact_B=torch.tensor([fact_B[b] for b in chosen], device=device),
            target_row_N=row_N,
            target_at_N=at_N,
            target_N=token_N,
            target_fact_N=fact_N,
            weight_N=torch.tensor(weights, dtype=torch.float32, device=device),
            kept_row_A=torch.tensor(kept, device=device),
        )
