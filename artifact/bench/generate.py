"""`kloc bench generate`: texts of many edited cases together, each under its own edit, against one text at a time.

Covers greedy continuations of a fixed length, on random weights of a shape and synthetic facts: a random rank-one edit
a case, and both perspectives' prompts. The peers' way, written anew: the edit added to the weight, each prompt on its
own with transformers' stored keys and values, logits at the last position alone, the weight put back. How many of the
texts are the same both ways is printed beside the ratio.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.evaluate import random_edits
from artifact.bench.facts import synthetic_facts
from artifact.bench.given import random_model
from artifact.bench.loops import Peer
from artifact.editing.edit import Edit, LowRank
from artifact.evaluation.generate import generate_all
from artifact.facts.fact import Fact


@dataclass(frozen=True)
class GenerateBench:
    """The comparison: timing a case, texts compared, and how many are the same."""

    timing: Timing
    compared: int
    same: int

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield from self.timing.lines("generate", "case")
        same = f"{self.same} of {self.compared} texts the same both ways"
        yield f"generate: {self.timing.ratio:.1f} times as fast; {same}"


def bench_generate(
    shape: str, device: str, *, facts: int, loop_facts: int, tokens: int = 20, count: bool = True
) -> GenerateBench:
    """Compare `facts` cases together with the loop over the first `loop_facts` of them, in float32: `tokens` tokens
    after the prompt of each perspective.
    """
    model, module = random_model(shape, device)
    peer = Peer(module, model.decoder.family, model.tokens)
    cases = synthetic_facts(module.config.vocab_size, facts)
    edits = random_edits(model.decoder, facts)
    few = cases[: min(loop_facts, facts)]

    def ours(taken: list[Fact], tokens: int) -> list[tuple[int, ...]]:
        prompts = [view.reliability[0] for fact in taken for view in fact.views()]
        own = [edit for fact, edit in zip(taken, edits, strict=False) for _ in fact.views()]
        return [text.ids for text in generate_all(model, prompts, tokens, own)]

    work = Work(
        facts=facts,
        loop_facts=len(few),
        ours=lambda: ours(cases, tokens),
        loop=lambda: [ids for fact, edit in zip(few, edits, strict=False) for ids in _case(peer, fact, edit, tokens)],
        warm=lambda: ours(cases[:1], 2),
        warm_loop=lambda: _case(peer, cases[0], edits[0], 2),
    )
    found, looped, timing = compare(work, device, count)
    pairs = list(zip(found, looped, strict=False))
    return GenerateBench(timing, len(pairs), sum(one == other for one, other in pairs))


@torch.no_grad()
def _case(peer: Peer, fact: Fact, edit: Edit, tokens: int) -> list[tuple[int, ...]]:
    """The texts of one case under its edit, a perspective each."""
    texts = []
    with peer.restored(*edit.changes):
        for name, change in edit.changes.items():
            assert isinstance(change, LowRank)
            peer.add(name, change.dense())
        for view in fact.views():
            fed, past, found = peer.inputs(list(view.reliability[:1]))["input_ids"], None, list[int]()
            while len(found) < tokens and found[-1:] != [peer.tokens.end_id]:
                out = peer.module(input_ids=fed, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, fed = out.past_key_values, out.logits[:, -1:].argmax(-1)
                found.append(int(fed))
            texts.append(tuple(found[:-1] if found[-1:] == [peer.tokens.end_id] else found))
    return texts
