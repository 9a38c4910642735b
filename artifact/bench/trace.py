"""`kloc bench trace`: the sweep against one cell at a time over transformers' own model, same noise, same cells.

Covers the peers' loop, written anew: forward hooks on transformers' modules, a clean row and the noise samples in one
batch, one (token, layer) cell a pass. For big shapes a stated sample of its cells is timed and scaled. The largest
relative difference of any score stands beside the ratio. It asserts nothing: tests hold the accuracy.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artifact.bench.shapes import hooked, matrix_rate, operations, peak_words, random_module, timed
from artifact.lm.decoder import Decoder, Site
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import from_module
from artifact.tracing.corruption import noise
from artifact.tracing.kinds import KindWord
from artifact.tracing.sweep import Swept, sweep
from artifact.tracing.trace import TraceSettings

NOISE_LEVEL = 0.1


@dataclass(frozen=True)
class TraceBench:
    """One kind's comparison. `loop_seconds` is scaled from `timed_cells` to `cells` where not all were timed."""

    kind: KindWord
    cells: int
    timed_cells: int
    loop_seconds: float
    sweep_seconds: float
    loop_peak: int
    sweep_peak: int
    device: str
    sweep_operations: int
    rate: float
    difference: float
    """Largest difference of any score that both computed, relative to the score."""

    @property
    def ratio(self) -> float:
        return self.loop_seconds / self.sweep_seconds

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        sampled = "" if self.timed_cells == self.cells else f" (from {self.timed_cells} of {self.cells} cells, scaled)"
        achieved = self.sweep_operations / self.sweep_seconds
        loop_peak, sweep_peak = peak_words(self.loop_peak, self.sweep_peak, self.device)
        yield f"{self.kind}: one cell at a time {self.loop_seconds:.2f} s a fact{sampled}{loop_peak}"
        yield f"{self.kind}: sweep {self.sweep_seconds:.3f} s a fact{sweep_peak}"
        yield (
            f"{self.kind}: needs {self.sweep_operations / 1e9:.1f} GFLOP a fact, {achieved / 1e9:.0f} GFLOP/s: "
            f"{achieved / self.rate:.0%} of a large product's {self.rate / 1e9:.0f} GFLOP/s"
        )
        yield f"{self.kind}: {self.ratio:.1f} times as fast; largest relative difference {self.difference:.1e}"


def bench_trace(
    shape: str,
    device: str,
    dtype: torch.dtype,
    kinds: Sequence[KindWord],
    *,
    tokens: int,
    samples: int,
    facts: int,
    loop_cells: int,
    memory: Memory | None = None,
) -> Iterator[TraceBench]:
    """Compare the sweep over `facts` facts with the loop over `loop_cells` cells of the first, for each kind.

    The corrupted span is the first three tokens, so that no cell is saved by standing before it.
    """
    module = random_module(shape, device, dtype)
    decoder = from_module(module, device)
    memory = memory or Memory(default_memory(decoder.device))  # of what the weights leave
    generator = np.random.default_rng(0)
    ids_FT = generator.integers(1, 50_000, size=(facts, tokens)).tolist()
    bench = _Bench(module, decoder, ids_FT, list(range(min(3, tokens - 1))), device, memory)
    rate = matrix_rate(device, dtype)
    cells = [(token, layer) for token in range(tokens) for layer in range(decoder.layers)]
    chosen = cells if loop_cells >= len(cells) else [cells[i] for i in generator.choice(len(cells), loop_cells, False)]
    for kind in kinds:
        compared = bench.compared(TraceSettings(NOISE_LEVEL, kind=kind, samples=samples), chosen, rate)
        rate = compared.rate
        yield compared


@dataclass(frozen=True)
class _Bench:
    """One model both ways, with the prompts that it is asked and their corrupted span."""

    module: Any
    decoder: Decoder
    ids_FT: list[list[int]]
    span: list[int]
    device: str
    memory: Memory

    def sweep(self, settings: TraceSettings) -> Swept:
        """All facts in one sweep."""
        cells, spans = settings.cells(self.decoder.layers), [self.span] * len(self.ids_FT)
        return sweep(self.decoder, self.ids_FT, spans, cells, self.memory)

    def compared(self, settings: TraceSettings, chosen: Sequence[tuple[int, int]], rate: float) -> TraceBench:
        """The sweep over all cells against the loop over the chosen ones. `rate` is the best that was measured yet."""
        facts, cells = len(self.ids_FT), len(self.ids_FT[0]) * self.decoder.layers
        work = partial(self.sweep, settings)
        work()  # warm
        swept = timed(work, self.device)
        loop = partial(_loop, self.module, self.ids_FT[0], self.span, settings, answer=swept.result.answer_F[0])
        loop(chosen[:2])  # warm
        looped = timed(partial(loop, chosen), self.device)
        again = timed(work, self.device)  # before and after the loop: a machine that slows down slows both
        ours = np.array([swept.result.scores_FTL[0, token, layer] for token, layer in chosen])
        return TraceBench(
            kind=settings.kind,
            cells=cells,
            timed_cells=len(chosen),
            loop_seconds=looped.seconds * cells / len(chosen),
            sweep_seconds=(swept.seconds + again.seconds) / 2 / facts,
            loop_peak=looped.peak,
            sweep_peak=swept.peak,
            device=self.device,
            sweep_operations=operations(work) // facts,
            rate=max(rate, matrix_rate(self.device, self.decoder.dtype)),
            difference=float((np.abs(ours - looped.result) / looped.result).max()),
        )


@torch.no_grad()
def _loop(
    module: Any,
    ids: Sequence[int],
    span: Sequence[int],
    settings: TraceSettings,
    cells: Sequence[tuple[int, int]],
    answer: int,
) -> np.ndarray:
    """Scores of `cells`, each by a pass of its own: row 0 clean, the others corrupted and restored from row 0."""
    device = next(module.parameters()).device
    ids_BT = torch.tensor([list(ids)] * (1 + settings.samples), device=device)
    blocks = module.transformer.h
    unit_SXD = torch.from_numpy(noise(settings.samples, len(span), module.config.n_embd)).to(device)
    scores = []
    restores = settings.cells(len(blocks))
    for token, layer in cells:
        restored = [_module(blocks[at], restores.site) for at in restores.windows[layer]]
        with _hooks(module.transformer.wte, restored, span, settings.noise_level * unit_SXD, token):
            logits_BV = module(ids_BT).logits[:, -1]
        scores.append(float(logits_BV[1:].float().softmax(-1)[:, answer].mean()))
    return np.array(scores)


def _module(block: Any, site: Site) -> Any:
    """The module whose output is the site."""
    return block if site == "hidden" else getattr(block, site)


def _hooks(
    embedding: Any, restored: Sequence[Any], span: Sequence[int], added: Tensor, token: int
) -> AbstractContextManager[None]:
    def corrupt(_: Any, __: Any, output_BTD: Tensor) -> Tensor:
        output_BTD[1:, list(span)] = (output_BTD[1:, list(span)].double() + added).to(output_BTD.dtype)
        return output_BTD

    def restore(_: Any, __: Any, output: Any) -> Any:
        output_BTD = output[0] if isinstance(output, tuple) else output
        output_BTD[1:, token] = output_BTD[0, token]
        return output

    return hooked(embedding.register_forward_hook(corrupt), *(one.register_forward_hook(restore) for one in restored))
