"""What MEND's network is trained for, and what its edits do on facts that it was not trained on.

Covers the objective of a few views, each scored under its own change, and success figures. As published:
edit_weight * NLL of the target at the edited prompt or a rephrasing + keep_weight * KL(unedited || edited) of the
next-token distributions at unrelated prompts.

Whatever the edit does not change is computed once where it fits in CACHE_BYTES: the gradients that the network reads,
the states entering the lowest edited layer, the unedited distributions. These are constants of the model.
Shape letters as in mend.py, and F fact (a view of one), P scored prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from artifact.editing.edit import LowRankRows
from artifact.editing.mend import inner_weights, sentence, step_order
from artifact.editing.mend_gradients import BATCH_TOKENS, Request, inner_gradients, token_nll
from artifact.editing.mend_network import Network
from artifact.editing.methods.mend import MendHparams
from artifact.facts.fact import Fact, View, fill
from artifact.lm.load import LanguageModel

CACHE_BYTES = 1_000_000_000
"""Most memory for what is computed once; a set of facts that needs more is computed anew each time."""
Changes = Mapping[str, tuple[Tensor, Tensor]]
"""Layer's name -> the changes of F facts, (F, I, R) and (F, R, O), missing rows zero."""


@dataclass(frozen=True)
class Item:
    """A view to train or judge with: its request, its target at the edited prompt and the rephrasings (`asked`), the
    prompt alone, and the unrelated prompts of its record (`kept`). `fact` is the place of its fact among all.
    """

    view: View
    fact: int
    request: Request
    asked: tuple[Request, ...]
    prompt: Request
    kept: tuple[Request, ...]


@dataclass(frozen=True)
class _Before:
    """A text on the unedited model: states entering the lowest edited layer, log p of the token after it."""

    hidden_TD: Tensor
    next_V: Tensor


@dataclass(frozen=True)
class _Read:
    """What the network reads for one item: x (N, I) and delta (N, O) by inner weight."""

    x_W: list[Tensor]
    delta_W: list[Tensor]


def items_of(model: LanguageModel, facts: Sequence[Fact], variants: int = 1, seed: int = 0) -> list[Item]:
    """Every view of every fact, tokenised. Raises PromptError for a prompt the model cannot be asked with.

    More `variants` of a view ask for the edit in the words of its rephrasings in turn; of an entity view, with
    the target of another fact of the same relation where there is one.
    """
    draw = np.random.default_rng([seed, 2])
    targets: dict[str, set[str]] = {}
    for fact in facts:
        targets.setdefault(fact.relation_id, set()).add(fact.object_new)
    items = []
    for number, view in [(number, view) for number, fact in enumerate(facts) for view in fact.views()]:
        prompts = (*view.reliability, *view.generality)
        kept = tuple(Request(model.tokens.encode(prompt).ids, 0) for prompt in view.specificity)
        prompt = Request(model.tokens.encode(fill(view.template, view.subject)).ids, 0)
        pool = sorted(targets[facts[number].relation_id]) if view.perspective == "entity" else [view.target]
        for variant in range(variants):
            target = view.target if variant == 0 else pool[int(draw.integers(len(pool)))]
            words = fill(view.template, view.subject) if variant == 0 else prompts[variant % len(prompts)]
            asked = tuple(sentence(model, text, target) for text in prompts)
            items.append(Item(view, number, sentence(model, words, target), asked, prompt, kept))
    return items


class Objective:
    """The objective on one model. `items` are all that will be asked for, so that their constants are made once, in an
    order that later calls do not change.
    """

    def __init__(
        self,
        model: LanguageModel,
        hparams: MendHparams,
        items: Sequence[Item],
        *,
        edit_weight: float,
        keep_weight: float,
        batch: int,
    ) -> None:
        self.model = model
        self.inner = inner_weights(model.decoder, hparams)
        self.scale = hparams.lr_scale
        self.edit_weight, self.keep_weight, self.batch = edit_weight, keep_weight, batch
        self._lowest = min(weight.layer for weight in self.inner)
        self._before: dict[Request, _Before] = {}
        self._reads: dict[Request, _Read] = {}
        texts = dict.fromkeys(text for item in items for text in (item.prompt, *item.asked, *item.kept))
        if self._bytes(items, list(texts)) <= CACHE_BYTES:
            for part in _cut([item.request for item in items]):
                self._reads.update(zip(part, self._read(part), strict=True))
            for part in _cut(sorted(texts, key=lambda text: (len(text.ids), text.ids))):
                self._before.update(zip(part, self._unedited(part), strict=True))

    def changes(self, network: Network, items: Sequence[Item], swapped: bool = False) -> Changes:
        """The edit of each item, as tensors over all of them; differentiable in the network."""
        reads = self.reads(items)
        changes = {}
        for w, (weight, e) in enumerate(zip(self.inner, step_order(self.inner, swapped), strict=True)):
            counts = [len(read.x_W[w]) for read in reads]
            x_NI, delta_NO = network.transforms[weight.shape](
                torch.cat([read.x_W[w] for read in reads]), torch.cat([read.delta_W[w] for read in reads]), weight.mode
            )
            delta_NO = network.edit_lrs[e] * self.scale * delta_NO
            x_FRI, delta_FRO = (
                pad_sequence(rows_NX.split(counts), batch_first=True).to(self.model.decoder.dtype)
                for rows_NX in (x_NI, delta_NO)
            )
            changes[weight.name] = (x_FRI.transpose(1, 2), delta_FRO)
        return changes

    def reads(self, items: Sequence[Item]) -> list[_Read]:
        """What the network reads for each item."""
        wanted = [item.request for item in items]
        if self._reads.keys() >= set(wanted):
            return [self._reads[request] for request in wanted]
        return self._read(wanted)

    def score(
        self, changes: Changes, scored: Sequence[tuple[int, Request]], kept: Sequence[tuple[int, Request]]
    ) -> tuple[Tensor, Tensor]:
        """Mean NLL of each scored text, and KL(unedited || edited) of the token after each kept prompt.

        Each comes with the number of the fact whose change it is read under.
        """
        decoder = self.model.decoder
        texts = [text for _, text in (*scored, *kept)]
        fact_B = torch.tensor([f for f, _ in (*scored, *kept)], device=decoder.device)
        reads = [
            (b, at - 1, text.ids[at])
            for b, (_, text) in enumerate(scored)
            for at in range(len(text.ids) - text.scored, len(text.ids))
        ]
        row_N, at_N, token_N = torch.tensor(reads, device=decoder.device).unbind(1)
        share_N = torch.tensor([1 / scored[b][1].scored for b, _, _ in reads], device=decoder.device)
        kept_B = torch.arange(len(scored), len(texts), device=decoder.device)
        last_B = torch.tensor([len(text.ids) - 1 for _, text in kept], device=decoder.device, dtype=torch.long)

        if self._before.keys() >= set(texts):
            before = [self._before[text] for text in texts]
        else:
            before = [state for part in _cut(texts) for state in self._unedited(part)]
        hidden_BTD = pad_sequence([state.hidden_TD for state in before], batch_first=True)
        edits = {name: LowRankRows(left[fact_B], right[fact_B]) for name, (left, right) in changes.items()}
        hidden_BTD = decoder.blocks(hidden_BTD, self._lowest, edits=edits)
        nll_N = token_nll(decoder, hidden_BTD[row_N, at_N], token_N) * share_N
        nll_P = torch.zeros(len(scored), device=decoder.device).index_add(0, row_N, nll_N)
        if not kept:
            return nll_P, nll_P.new_zeros(0)
        edited_PV = decoder.logits(hidden_BTD[kept_B, last_B]).log_softmax(-1)
        unedited_PV = torch.stack([state.next_V for state in before[len(scored) :]])
        return nll_P, (unedited_PV.exp() * (unedited_PV - edited_PV)).sum(-1)

    def value(self, nll_P: Tensor, kl_P: Tensor) -> Tensor:
        """What training lowers."""
        return self.edit_weight * nll_P.mean() + self.keep_weight * kl_P.mean()

    @torch.no_grad()
    def held_out(self, network: Network, items: Sequence[Item]) -> dict[str, float]:
        """The objective on items, with its mean NLL (every asked prompt) and KL.

        Unrelated prompts are those of the records, and for each view that of the view two places on, another fact's.
        """
        nll: list[float] = []
        kl: list[float] = []
        for start in range(0, len(items), self.batch):
            part = items[start : start + self.batch]
            scored = [(f, text) for f, item in enumerate(part) for text in item.asked]
            kept = [(f, text) for f, item in enumerate(part) for text in item.kept]
            others = [(f, items[(start + f + 2) % len(items)]) for f in range(len(part))]
            kept += [(f, other.prompt) for f, other in others if other.fact != part[f].fact]
            nll_P, kl_P = self.score(self.changes(network, part), scored, kept)
            nll += nll_P.tolist()
            kl += kl_P.tolist()
        means = {"nll": mean(nll), "kl": mean(kl)}
        return {"objective": self.edit_weight * means["nll"] + self.keep_weight * means["kl"], **means}

    @torch.no_grad()
    def success(self, network: Network, items: Sequence[Item], swapped: bool) -> dict[str, float]:
        """Success by perspective and kind of prompt, such as "entity reliability": the mean over the views of the
        share of prompts at which the wanted text has the lower NLL, the target, or for specificity what is true.

        `swapped`: step sizes dealt out as the released code does, instead of as they were learned.
        """
        won: dict[str, list[float]] = {}
        for start in range(0, len(items), self.batch):
            part = items[start : start + self.batch]
            pairs = [(f, group, pair) for f, item in enumerate(part) for group, pair in self._pairs(item.view)]
            scored = [(f, text) for f, _, pair in pairs for text in pair]
            nll_P, _ = self.score(self.changes(network, part, swapped), scored, [])
            of_view: dict[tuple[int, str], list[float]] = {}
            for (f, group, _), (wanted, other) in zip(pairs, nll_P.view(-1, 2).tolist(), strict=True):
                of_view.setdefault((f, group), []).append(float(wanted < other))
            for (f, group), values in of_view.items():
                won.setdefault(f"{part[f].view.perspective} {group}", []).append(mean(values))
        return {name: round(mean(values), 4) for name, values in sorted(won.items())}

    def _pairs(self, view: View) -> list[tuple[str, tuple[Request, Request]]]:
        """Each prompt of a view with the wanted continuation and the other one, by kind of prompt."""
        pairs = []
        for group in ("reliability", "generality", "specificity"):
            for prompt in getattr(view, group):
                kept = group == "specificity"
                wanted, other = (view.truth(prompt), view.target) if kept else (view.target, view.foil)
                pairs.append((group, (sentence(self.model, prompt, wanted), sentence(self.model, prompt, other))))
        return pairs

    def _bytes(self, items: Sequence[Item], texts: Sequence[Request]) -> int:
        decoder = self.model.decoder
        rows = sum(len(item.request.ids) for item in items) * sum(sum(weight.shape) for weight in self.inner)
        entering = sum(len(text.ids) for text in texts) * decoder.width
        return 4 * (rows + entering + len(texts) * decoder.embedding_VD.shape[0])

    def _read(self, requests: Sequence[Request]) -> list[_Read]:
        gradients = inner_gradients(self.model, [[request] for request in requests], self.inner, None)
        x_WF = [x_NI.split(counts) for x_NI, counts in zip(gradients.x_W, gradients.counts_W, strict=True)]
        delta_WF = [
            delta_NO.split(counts) for delta_NO, counts in zip(gradients.delta_W, gradients.counts_W, strict=True)
        ]
        return [_Read([x_F[f] for x_F in x_WF], [delta_F[f] for delta_F in delta_WF]) for f in range(len(requests))]

    @torch.no_grad()
    def _unedited(self, texts: Sequence[Request]) -> list[_Before]:
        decoder = self.model.decoder
        word_BTD = decoder.words(self.model.tokens.pad([text.ids for text in texts], decoder.device))
        below_BTD = decoder.blocks(decoder.embed(word_BTD), 0, self._lowest)
        hidden_BTD = decoder.blocks(below_BTD, self._lowest)
        last_B = torch.tensor([len(text.ids) - 1 for text in texts], device=decoder.device)
        next_BV = decoder.logits(hidden_BTD[torch.arange(len(texts), device=decoder.device), last_B]).log_softmax(-1)
        return [_Before(below_BTD[b, : len(text.ids)].clone(), next_BV[b]) for b, text in enumerate(texts)]


def _cut(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests in order, in parts that a pass takes at once."""
    size = max(1, BATCH_TOKENS // max((len(request.ids) for request in requests), default=1))
    return [list(requests[start : start + size]) for start in range(0, len(requests), size)]


def mean(values: Sequence[float]) -> float:
    """The mean in exact summation, 0 of no values."""
    return math.fsum(values) / len(values) if values else 0.0
