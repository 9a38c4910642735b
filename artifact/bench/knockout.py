"""`kloc bench knockout`: the sweep against one pass a window over transformers' own model, same edges, same windows.

Covers the peers' loop, written anew: an additive mask takes the place of attention's own in the layers of a window, the
whole prompt and all its logits in every pass. The largest difference of any probability, as it is and relative to
the probability, stands beside the ratio. It asserts nothing: tests hold the accuracy.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.shapes import hooked, random_module
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import from_module
from artifact.tracing.cut import Cut, Flow, knock_out
from artifact.tracing.edges import Edge, places
from artifact.tracing.windows import around


@dataclass(frozen=True)
class KnockoutBench:
    """The comparison over the same edges: `passes` windows a fact, and the largest differences of any probability."""

    edges: Sequence[Edge]
    passes: int
    timing: Timing
    difference: float
    relative: float

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield f"edges: {', '.join(edge.printed for edge in self.edges)}; {self.passes} windows a fact"
        yield from self.timing.lines("knockout")
        yield (
            f"knockout: {self.timing.ratio:.1f} times as fast; largest difference {self.difference:.1e}, relative "
            f"{self.relative:.1e}"
        )


def bench_knockout(
    shape: str,
    device: str,
    edges: Sequence[Edge],
    *,
    tokens: int,
    window: int,
    facts: int,
    loop_facts: int,
    memory: Memory | None = None,
    count: bool = True,
) -> KnockoutBench:
    """Compare the sweep over `facts` random prompts with the loop over the first `loop_facts` of them.

    The subject is a fifth of the prompt, in its middle, so that edges of every kind are there.
    """
    module = random_module(shape, device, torch.float32)
    decoder = from_module(module, device)
    memory = memory or Memory(default_memory(decoder.device))
    ids_FT = np.random.default_rng(0).integers(1, 50_000, size=(facts, tokens)).tolist()
    middle = tokens // 2
    where = places(tokens, range(middle, middle + max(1, tokens // 5)))
    pairs = [edge.pairs(where) for edge in edges]
    windows = around(decoder.layers, window)
    compared = min(loop_facts, facts)

    def ours(count: int = facts) -> Flow:
        cuts = [Cut(fact, one) for fact in range(count) for one in pairs]
        return knock_out(decoder, ids_FT[:count], cuts, windows, memory)

    def loop(windows: Sequence[range] = windows, count: int = compared) -> np.ndarray:
        return np.concatenate([_one_fact(module, ids, pairs, windows) for ids in ids_FT[:count]])

    work = Work(facts, compared, ours, loop, warm=lambda: ours(1), warm_loop=lambda: loop(windows[:1], 1))
    flow, expected_CL, timing = compare(work, device, count)
    apart_CL = np.abs(flow.after_CL[: len(expected_CL)] - expected_CL)
    relative = float((apart_CL / expected_CL).max())
    return KnockoutBench(edges, len(edges) * decoder.layers, timing, float(apart_CL.max()), relative)


@torch.no_grad()
def _one_fact(
    module: Any, ids: Sequence[int], pairs: Sequence[Sequence[tuple[int, int]]], windows: Sequence[range]
) -> np.ndarray:
    """Probabilities (edges, windows) of one fact's answer, by one pass more than there are windows."""
    device = next(module.parameters()).device
    ids_1T = torch.tensor([list(ids)], device=device)
    answer = module(ids_1T, use_cache=False).logits[0, -1].argmax()
    rows = []
    for one in pairs:
        open_TT = torch.ones(len(ids), len(ids), dtype=torch.bool, device=device).tril()
        for reading, read in one:
            open_TT[reading, read] = False
        mask_TT = torch.zeros(len(ids), len(ids), device=device).masked_fill(~open_TT, torch.finfo(torch.float32).min)
        row = []
        for window in windows:
            with _masked(module.transformer.h, window, mask_TT):
                row.append(float(module(ids_1T, use_cache=False).logits[0, -1].softmax(-1)[answer]))
        rows.append(row)
    return np.array(rows)


def _masked(blocks: Any, window: range, mask_TT: Tensor) -> AbstractContextManager[None]:
    def mask(_: Any, args: Any, named: dict[str, Any]) -> Any:
        return args, named | {"attention_mask": mask_TT[None, None]}

    return hooked(*(blocks[layer].attn.register_forward_pre_hook(mask, with_kwargs=True) for layer in window))
