"""The value optimisation: a delta added to one layer's output at the subject's last token until the target is said.

Covers equation (3) of the paper as released: Adam on deltas, loss = mean NLL of the targets over all prompts + KL to
the unedited next-token distribution + norm penalty, stop below 0.05, clamp to a multiple of the starting norm. The
deltas of many facts are rows of one tensor; each stops on its own, so a batch gives what single runs give. What is
done with the delta is rome.py's.

Shape letters as in lm/decoder.py, and F fact, A fact still optimised, S scored target token.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from artifact.editing.hparams import ValueHparams
from artifact.editing.protocol import Protocol
from artifact.errors import DoesNotFit, EditError, PromptError
from artifact.facts.fact import NO_RELATION, View, fill
from artifact.lm.decoder import Aligned, Decoder, LayerKeys, Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

Terms = tuple[float, float, float, float]
"""The loss of a forward pass and its terms: total, NLL, KL, penalty."""
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
    """Deltas (F, D) and, for each fact, the loss terms of each forward pass."""

    delta_FD: Tensor
    history: list[list[Terms]] = field(default_factory=list)

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
    """What the value of one view is optimised for: every prefixed prompt; for relations, removal towards "None"."""
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
    site: Literal["mlp", "hidden"] = "hidden",
) -> Optimised:
    """Deltas added to the output of block `layer`, or of its MLP, at every row's lookup position.

    `start_FD` are the unedited vectors whose norms scale penalty and clamp. The pass starts after `layer`: all below
    it is computed once. Adding to the MLP's output and to the block's is the same, as both end in one sum, unless the
    family norms the MLP's output before that sum (`Decoder.moved`). Facts are taken together as far as `memory` allows.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    result = Optimised(torch.zeros_like(start_FD, dtype=torch.float32), [])

    def fitting(left: Sequence[int]) -> int:
        return _together(model, layer, hparams.v_loss_layer, objectives[left[0] :], memory)

    def compute(part: Sequence[int]) -> Optimised:
        facts = slice(part[0], part[-1] + 1)
        return _optimise(model, layer, objectives[facts], start_FD[facts], hparams, site)

    def alone(fact: int) -> Optimised:
        raise DoesNotFit(
            "the value optimisation of one fact does not fit the device's memory; take a larger device or fewer "
            "prefixes"
        )

    for part, optimised in batches(range(len(objectives)), fitting, compute, memory, alone):
        result.delta_FD[part[0] : part[-1] + 1] = optimised.delta_FD
        result.history += optimised.history
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
    site: Literal["mlp", "hidden"],
) -> Optimised:
    """`optimise` for the facts of one batch."""
    decoder, steps = model.decoder, hparams.v_num_grad_steps
    everything = _store(decoder, layer, hparams.v_loss_layer, objectives, site)
    delta_FD = torch.zeros_like(start_FD, dtype=torch.float32).requires_grad_()
    norm_F = start_FD.float().norm(dim=1)
    optimiser = torch.optim.Adam([delta_FD], lr=hparams.v_lr)
    history: list[list[Terms]] = [[] for _ in objectives]
    unedited_FV: Tensor | None = None
    active = list(range(len(objectives)))
    batch = _Batch.of(everything, active)

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
        optimiser.zero_grad()
        loss_A.sum().backward()
        optimiser.step()
        with torch.no_grad():
            # Adam's momentum would move a stopped fact's delta on: it stays where it stopped.
            moves_F1 = torch.zeros(len(objectives), 1, dtype=torch.bool, device=decoder.device)
            moves_F1[going] = True
            delta_FD.copy_(torch.where(moves_F1, _clamped(delta_FD, hparams.clamp_norm_factor * norm_F), held_FD))
        if going != active:
            active = going
            batch = _Batch.of(everything, active)
    return Optimised(delta_FD.detach(), history)


def _clamped(delta_FD: Tensor, most_F: Tensor) -> Tensor:
    norm_F = delta_FD.norm(dim=1)
    scale_F = torch.where(norm_F > most_F, most_F / norm_F, torch.ones_like(norm_F))
    return delta_FD * scale_F[:, None]


def until_subject(row: Row) -> Row:
    """A row up to its subject's last token: what stands after it cannot change the state there."""
    return Row(row.ids[: row.lookup + 1], row.lookup)


@dataclass(frozen=True)
class _Stored:
    """Every fact's rows and what the deltas do not change of them.

    fact_B: the fact of each row; hidden_1ND: states after the edited layer, of all rows' tokens from the lookup
    position on, packed; left: by layer, keys and values of the tokens before it; mlp_BD: where deltas are added to the
    MLP's output and this is not added to the state as it is, that output at the lookup positions.
    """

    rows: Sequence[Row]
    fact_B: Sequence[int]
    layers: range
    hidden_1ND: Tensor
    left: Mapping[int, LayerKeys]
    mlp_BD: Tensor | None


@torch.no_grad()
def _store(
    decoder: Decoder, layer: int, loss_layer: int, objectives: Sequence[Objective], changed: Literal["mlp", "hidden"]
) -> _Stored:
    """One unedited pass over all rows, cut at each row's lookup position."""
    # The kept prompt is read at its lookup position.
    rows = [row for one in objectives for row in (*one.rows, until_subject(one.kept))]
    lookups, mlp_BD = [row.lookup for row in rows], None
    starts = accumulate((len(row.ids) for row in rows[:-1]), initial=0)
    lookup_B = torch.tensor([start + at for start, at in zip(starts, lookups, strict=True)], device=decoder.device)

    def read(site: Site, at: int, value_1NX: Tensor) -> None:
        nonlocal mlp_BD
        if (site, at, changed) == ("mlp", layer, "mlp") and decoder.family.has("mlp_after"):
            mlp_BD = value_1NX[0, lookup_B]

    hidden_1ND, whole = decoder.packed([row.ids for row in rows])
    hidden_1ND = decoder.blocks(hidden_1ND, 0, layer + 1, aligned=whole, at_site=read)
    before_N = torch.tensor([at < row.lookup for row in rows for at in range(len(row.ids))], device=decoder.device)
    left: dict[int, LayerKeys] = {}
    if any(lookups):
        aligned, onward_1ND = Aligned.packed(lookups, decoder.device), hidden_1ND[:, before_N]
        for above in range(layer + 1, loss_layer + 1):
            # Of the last block only keys and values are needed.
            none = torch.zeros(0, dtype=torch.long, device=decoder.device) if above == loss_layer else None
            onward_1ND, left[above] = decoder.block(above, onward_1ND, aligned=aligned, read_N=none)
    fact_B = [f for f, one in enumerate(objectives) for _ in range(len(one.rows) + 1)]
    return _Stored(rows, fact_B, range(layer + 1, loss_layer + 1), hidden_1ND[:, ~before_N], left, mlp_BD)


@dataclass(frozen=True)
class _Batch:
    """The rows of the facts still optimised (A of them), from their lookup position on.

    fact_B: each row's fact; start_B: place of its first token among all N; read_N: places of the scored tokens' (S of
    them) predictions, then of the kept prompts; target_S, fact_S and weight_S: the scored tokens, the place of their
    fact among the A, and their weight in its mean.
    """

    layers: range
    hidden_1ND: Tensor
    left: Mapping[int, LayerKeys]
    mlp_BD: Tensor | None
    aligned: Aligned
    live_A: Tensor
    fact_B: Tensor
    start_B: Tensor
    read_N: Tensor
    target_S: Tensor
    fact_S: Tensor
    weight_S: Tensor

    @classmethod
    def of(cls, stored: _Stored, active: Sequence[int]) -> "_Batch":
        device, place = stored.hidden_1ND.device, {fact: a for a, fact in enumerate(active)}
        chosen = [b for b, fact in enumerate(stored.fact_B) if fact in place]
        rows, fact_B = [stored.rows[b] for b in chosen], [stored.fact_B[b] for b in chosen]
        lengths, longest = [len(row.ids) - row.lookup for row in rows], max(row.lookup for row in rows)
        start_B = list(accumulate(lengths, initial=0))[:-1]
        prompts = Counter(fact for row, fact in zip(rows, fact_B, strict=True) if row.target)
        scored = [
            (start + length - len(row.target) + j, token, place[fact], 1 / (row.divisor * prompts[fact]))
            for row, fact, start, length in zip(rows, fact_B, start_B, lengths, strict=True)
            for j, token in enumerate(row.target)
        ]
        at_S, target_S, fact_S, weight_S = zip(*scored, strict=True)
        kept_A = [start for row, start in zip(rows, start_B, strict=True) if not row.target]
        hidden_1ND, left, mlp_BD = stored.hidden_1ND, stored.left, stored.mlp_BD
        if len(chosen) < len(stored.rows):  # a copy of all would take memory for nothing
            rows_B, own = torch.tensor(chosen, device=device), set(chosen)
            of_N = [b in own for b, row in enumerate(stored.rows) for _ in range(len(row.ids) - row.lookup)]
            hidden_1ND = hidden_1ND[:, torch.tensor(of_N, device=device)]
            parts = {layer: [part[rows_B, :, :longest] for part in both] for layer, both in left.items()}
            left = {layer: (key, value) for layer, (key, value) in parts.items()}
            mlp_BD = None if mlp_BD is None else mlp_BD[rows_B]
        return cls(
            layers=stored.layers,
            hidden_1ND=hidden_1ND,
            left=left,
            mlp_BD=mlp_BD,
            aligned=Aligned.packed(lengths, device, [row.lookup for row in rows]),
            live_A=torch.tensor(active, device=device),
            fact_B=torch.tensor(fact_B, device=device),
            start_B=torch.tensor(start_B, device=device),
            read_N=torch.tensor([*at_S, *kept_A], device=device),
            target_S=torch.tensor(target_S, device=device),
            fact_S=torch.tensor(fact_S, device=device),
            weight_S=torch.tensor(weight_S, dtype=torch.float32, device=device),
        )

    def read(self, decoder: Decoder, delta_FD: Tensor) -> tuple[Tensor, Tensor]:
        """The mean NLL of each live fact's targets (A,) and the kept prompts' log-probabilities (A, V)."""
        added_BD = delta_FD[self.fact_B].to(self.hidden_1ND.dtype)
        first, stop = self.layers.start, self.layers.stop
        if self.mlp_BD is not None:
            added_BD = decoder.moved(first - 1, self.mlp_BD, added_BD)
        hidden_1ND = self.hidden_1ND.index_add(1, self.start_B, added_BD[None])
        hidden_1ND = decoder.blocks(hidden_1ND, first, stop, past=self.left, aligned=self.aligned, read_N=self.read_N)
        log_NV = decoder.logits(hidden_1ND[0]).log_softmax(-1)
        log_SV, kept_AV = log_NV.split([len(self.target_S), len(self.live_A)])
        nll_S = -log_SV.gather(1, self.target_S[:, None])[:, 0] * self.weight_S
        return nll_S.new_zeros(len(kept_AV)).index_add(0, self.fact_S, nll_S), kept_AV
