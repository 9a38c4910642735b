"""`kloc bench evaluate`: the evaluation of many cases together, each under its own edit, against one case at a time.

Covers scoring alone, on random weights of a shape and synthetic facts: a random rank-one edit a case. The peers' way,
written anew: the edit added to the weight, one padded batch for each view's prompts with both continuations, logits at
every position, the weight put back. The largest difference of any NLL is printed beside the ratio; tests hold it.

Shape letters as in lm/decoder.py, and N scored tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.facts import synthetic_facts
from artifact.bench.given import random_model
from artifact.bench.loops import Peer
from artifact.editing.edit import Edit, LowRank
from artifact.editing.moments.files import key_width
from artifact.evaluation.metrics import GROUPS, CaseScore
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact
from artifact.lm.decoder import Decoder

EDIT_NORM = 3.0
"""Norm of the random edits: enough to move every NLL of a model with random weights."""


@dataclass(frozen=True)
class EvaluateBench:
    """The comparison: timing a case, NLLs compared, and the largest difference of any."""

    timing: Timing
    compared: int
    difference: float

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield from self.timing.lines("evaluate", "case")
        yield (
            f"evaluate: {self.timing.ratio:.1f} times as fast; largest difference of {self.compared} NLLs "
            f"{self.difference:.1e}"
        )


def bench_evaluate(
    shape: str, device: str, *, facts: int, loop_facts: int, target_tokens: int = 1, count: bool = True
) -> EvaluateBench:
    """Compare `facts` cases together with the loop over the first `loop_facts` of them, in float32.

    A case is both perspectives: 13 prompts of the entity perspective, 3 of the relation perspective, two continuations
    each.
    """
    model, module = random_model(shape, device)
    peer = Peer(module, model.decoder.family, model.tokens)
    cases = synthetic_facts(module.config.vocab_size, facts, target_tokens)
    edits = random_edits(model.decoder, facts)
    few = cases[: min(loop_facts, facts)]

    def loop() -> list[list[float]]:
        return [_case(peer, fact, edit) for fact, edit in zip(few, edits, strict=False)]

    work = Work(
        facts=facts,
        loop_facts=len(few),
        ours=lambda: score_cases(model, cases, edits),
        loop=loop,
        warm=lambda: score_cases(model, cases[:1], edits[:1]),
        warm_loop=lambda: _case(peer, cases[0], edits[0]),
    )
    ours, looped, timing = compare(work, device, count)
    pairs = [pair for score, nlls in zip(ours, looped, strict=False) for pair in zip(_nlls(score), nlls, strict=True)]
    return EvaluateBench(timing, len(pairs), max(abs(own - other) for own, other in pairs))


def random_edits(decoder: Decoder, count: int) -> list[Edit]:
    """`count` rank-one changes of one down-projection at a third of the depth, each of norm EDIT_NORM."""
    name = decoder.family.name("mlp_down", decoder.layers // 3)
    width = key_width(decoder, decoder.layers // 3)
    generator = torch.Generator(decoder.device).manual_seed(0)
    edits = []
    for _ in range(count):
        left_I1 = torch.randn(width, 1, device=decoder.device, generator=generator)
        right_1O = torch.randn(1, decoder.width, device=decoder.device, generator=generator)
        edits.append(Edit({name: LowRank(EDIT_NORM * left_I1 / left_I1.norm(), right_1O / right_1O.norm())}))
    return edits


def _case(peer: Peer, fact: Fact, edit: Edit) -> list[float]:
    """The NLLs of one case under its edit, in `_nlls`' order."""
    with peer.restored(*edit.changes):
        for name, change in edit.changes.items():
            assert isinstance(change, LowRank)
            peer.add(name, change.dense())
        nlls: list[float] = []
        for view in fact.views():
            prompts = [prompt for group in GROUPS for prompt in getattr(view, group)]
            nlls += _batch(peer, prompts, (view.target, view.foil))
    return nlls


@torch.no_grad()
def _batch(peer: Peer, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
    """Mean NLL of every prompt's continuations, all in one padded batch, the last token fed as well."""
    texts = [f"{prompt} {continuation}" for prompt in prompts for continuation in continuations]
    lengths = [len(peer.tokens.ids(prompt)) for prompt in prompts for _ in continuations]
    inputs = peer.inputs(texts)
    logits_BTV = peer.logits(inputs)
    ends = inputs["attention_mask"].sum(1).tolist()
    places = [(b, at) for b, (start, end) in enumerate(zip(lengths, ends, strict=True)) for at in range(start, end)]
    row_N, at_N = torch.tensor(places, device=peer.device).unbind(1)
    token_N = inputs["input_ids"][row_N, at_N]
    nll_N = -logits_BTV[row_N, at_N - 1].log_softmax(-1).gather(1, token_N[:, None])[:, 0]
    counts = [end - start for start, end in zip(lengths, ends, strict=True)]
    return [float(sum(part)) / len(part) for part in _split(nll_N.tolist(), counts)]


def _split(values: Sequence[float], counts: Sequence[int]) -> Iterator[Sequence[float]]:
    first = 0
    for count in counts:
        yield values[first : first + count]
        first += count


def _nlls(score: CaseScore) -> list[float]:
    """A case's NLLs: by perspective, group and prompt, the new continuation before the true one."""
    return [
        nll
        for view in score.views.values()
        for group in GROUPS
        for prompt in view.prompts.get(group, ())
        for nll in (prompt.target_new, prompt.target_true)
    ]
