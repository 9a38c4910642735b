"""The sweep of attention knockouts: many edges, windows and facts of one length, from one clean run.

A cut removes edges of attention before the softmax, in a window of layers. Up to the window's first layer, and left of
the first token that loses an edge, nothing differs from the clean run: rows join there, carry the tokens from that one
on, and attend to the clean run's stored keys and values. All windows of all cuts go through the decoder together, and
windows that have not diverged yet share a row (windows.py). This file knows token ids and positions; statements and
roles are knockout.py's.

Shape letters as in lm/decoder.py, and F fact, C cut, R row (one for each cut), G group of R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from artifact.lm.aligned import Aligned
from artifact.lm.decoder import AtSite, Decoder, LayerKeys, Site
from artifact.lm.device import Memory, batches
from artifact.tracing.flow import MODULES
from artifact.tracing.windows import steps


@dataclass(frozen=True)
class Cut:
    """Edges of one fact that are removed together: (reading, read) positions, every one read at or before it reads."""

    fact: int
    pairs: tuple[tuple[int, int], ...]

    @property
    def first(self) -> int:
        """The first token that loses an edge."""
        return min(reading for reading, _ in self.pairs)


@dataclass(frozen=True)
class Flow:
    """Answers of F facts, their probabilities without a cut and under C cuts, and what modules have first.

    after_CL: a window about each layer, in float64. With extraction, first_XFL says whether the outputs of X modules
    (MODULES) at the last position, through the output head, have the answer first in each layer, and first_XCLL the
    same under each cut's window (its centre, then the layer read). lens_FTL: the answer's probability in every block's
    output, through the final norm and the head.
    """

    answer_F: list[int]
    before_F: list[float]
    after_CL: np.ndarray
    first_XFL: np.ndarray | None = None
    first_XCLL: np.ndarray | None = None
    lens_FTL: np.ndarray | None = None


@torch.no_grad()
def knock_out(
    decoder: Decoder,
    ids_FT: Sequence[Sequence[int]],
    cuts: Sequence[Cut],
    windows: Sequence[range],
    memory: Memory,
    extraction: bool = False,
) -> Flow:
    """Every cut in every window, for facts of one length. A token that is left with nothing to see takes nothing."""
    clean = _Clean(decoder, ids_FT, extraction)
    facts = [cut.fact for cut in cuts]
    after_CL = np.repeat(clean.before_F[facts, None], decoder.layers, 1)
    first_XCLL = None if clean.first_XFL is None else clean.first_XFL[:, facts, None].repeat(1, 1, decoder.layers, 1)
    for first in sorted({cut.first for cut in cuts if cut.pairs}):
        members = [c for c, cut in enumerate(cuts) if cut.pairs and cut.first == first]

        def fitting(left: Sequence[int], first: int = first) -> int:
            return memory.scored_rows(decoder, first, len(ids_FT[0]) - first) // decoder.layers

        def compute(part: Sequence[int], first: int = first) -> tuple[np.ndarray, Tensor | None]:
            return _Rows(clean, [cuts[c] for c in part], first).swept(windows)

        for part, (after_RL, first_XRLL) in batches(members, fitting, compute, memory):
            after_CL[list(part)] = after_RL
            if first_XCLL is not None and first_XRLL is not None:
                first_XCLL[:, list(part)] = first_XRLL
    return Flow(
        clean.answer_F.tolist(),
        clean.before_F.tolist(),
        after_CL,
        None if clean.first_XFL is None else clean.first_XFL.cpu().numpy(),
        None if first_XCLL is None else first_XCLL.cpu().numpy(),
        clean.lens() if extraction else None,
    )


class _Clean:
    """The clean run of F facts, which all cuts share, and what is read off it."""

    def __init__(self, decoder: Decoder, ids_FT: Sequence[Sequence[int]], extraction: bool) -> None:
        self.decoder = decoder
        word_FTD = decoder.words(torch.tensor([list(ids) for ids in ids_FT], device=decoder.device))
        self.run = decoder.run(word_FTD, MODULES if extraction else ())
        before_FV = decoder.logits(self.run.states_LBTD[-1][:, -1]).softmax(-1)
        self.answer_F = before_FV.argmax(-1)
        self.before_F = _read(before_FV, self.answer_F)
        self.first_XFL: Tensor | None = None
        if extraction:
            layers_XLF = [
                torch.stack(
                    [
                        has_first(decoder, site, layer, value_FTD[:, -1], self.answer_F)
                        for layer, value_FTD in enumerate(self.run.outputs[site])
                    ]
                )
                for site in MODULES
            ]
            self.first_XFL = torch.stack(layers_XLF).transpose(1, 2)

    def lens(self) -> np.ndarray:
        """The answer's probability in every state that leaves a block, (F, T, L), in float64."""
        tokens = self.run.states_LBTD[0].shape[1]
        answer_N = self.answer_F.repeat_interleave(tokens)
        lens_LFT = [
            _read(self.decoder.logits(state_FTD.flatten(0, 1)).softmax(-1), answer_N).reshape(-1, tokens)
            for state_FTD in self.run.states_LBTD[1:]
        ]
        return np.stack(lens_LFT, axis=-1)


class _Rows:
    """The rows of several cuts whose first token that loses an edge is the same."""

    def __init__(self, clean: _Clean, cuts: Sequence[Cut], first: int) -> None:
        self.clean, self.decoder, self.first = clean, clean.decoder, first
        device = self.decoder.device
        self.fact_R = torch.tensor([cut.fact for cut in cuts], device=device)
        self.answer_R = clean.answer_F[self.fact_R]
        every = clean.run.states_LBTD[0].shape[1]
        self.tokens = every - first
        causal_TK = torch.ones(self.tokens, every, dtype=torch.bool, device=device).tril(first)
        self.causal_R1TK = causal_TK.expand(len(cuts), 1, -1, -1)
        self.open_R1TK = self.causal_R1TK.clone()
        for row, cut in enumerate(cuts):
            reading, read = zip(*cut.pairs, strict=True)
            self.open_R1TK[row, 0, [at - first for at in reading], list(read)] = False
        self.position_1T = torch.arange(first, every, device=device)[None]

    def swept(self, windows: Sequence[range]) -> tuple[np.ndarray, Tensor | None]:
        """Probabilities (R, L) under the window about each layer and, with extraction, what is first (X, R, L, L)."""
        every = range(self.decoder.layers)
        path, group_of = steps(windows, every, self.decoder.layers)
        rows_RTD: list[Tensor] = []  # of each group
        first_XRL: list[Tensor] = []  # of each group, with extraction
        for step in path:
            if step.joins:
                rows_RTD.append(self.clean.run.states_LBTD[step.layer][self.fact_R, self.first :])
                if self.clean.first_XFL is not None:
                    first_XRL.append(self.clean.first_XFL[:, self.fact_R])
            rows_RTD += [rows_RTD[g] for g in step.copies]
            if first_XRL:
                first_XRL += [first_XRL[g].clone() for g in step.copies]
            rows_RTD = self._through(step.layer, rows_RTD, step.inside, first_XRL)
        probability_BV = self.decoder.logits(torch.cat([one_RTD[:, -1] for one_RTD in rows_RTD])).softmax(-1)
        after_GR = _read(probability_BV, self.answer_R.repeat(len(rows_RTD))).reshape(len(rows_RTD), -1)
        groups = [group_of[centre] for centre in every]
        return after_GR[groups].T, torch.stack([first_XRL[g] for g in groups], dim=2) if first_XRL else None

    def _through(
        self, layer: int, rows_RTD: Sequence[Tensor], inside: Sequence[bool], first_XRL: Sequence[Tensor]
    ) -> list[Tensor]:
        """The rows of each group after block `layer`; of the last block their last token."""
        aligned = None
        if any(inside):
            parts = [self.open_R1TK if within else self.causal_R1TK for within in inside]
            aligned = Aligned(self.position_1T, torch.cat(parts))
        last = layer == self.decoder.layers - 1
        rows_BTD, _ = self.decoder.block(
            layer,
            torch.cat(list(rows_RTD)),
            past=self._left(layer, len(rows_RTD)),
            aligned=aligned,
            at_site=self._look(first_XRL) if first_XRL else None,
            read_N=torch.tensor([self.tokens - 1], device=self.decoder.device) if last else None,
        )
        return list(rows_BTD.split(len(self.fact_R)))

    def _look(self, first_XRL: Sequence[Tensor]) -> AtSite:
        """A visitor that notes of every group which rows' module outputs have the answer first."""

        def visit(site: Site, layer: int, value_BTD: Tensor) -> Tensor | None:
            if site == "attn" or site == "mlp":
                first_B = has_first(self.decoder, site, layer, value_BTD[:, -1], self.answer_R.repeat(len(first_XRL)))
                for group_XRL, first_R in zip(first_XRL, first_B.split(len(self.fact_R)), strict=True):
                    group_XRL[MODULES.index(site), :, layer] = first_R
            return None

        return visit

    def _left(self, layer: int, groups: int) -> LayerKeys | None:
        """The clean run's keys and values left of the first token that is computed, for `groups` copies of the rows."""
        if self.first == 0:
            return None
        keys = self.clean.run.keys[layer]
        fact_R = self.fact_R.to(keys[0].device)
        key, value = (part[fact_R, :, : self.first].repeat(groups, 1, 1, 1) for part in keys)
        return key, value


def has_first(
    decoder: Decoder, module: Literal["attn", "mlp"], layer: int, output_BD: Tensor, answer_B: Tensor
) -> Tensor:
    """Whether what each module output adds to the state, times the output layer's matrix, has the answer first.

    Neither the final norm nor the head's bias is applied: what a module adds to the residual stream is read, as by Geva
    et al. 2023 (arXiv 2304.14767, section 6).
    """
    added_BD = decoder.added(module, layer, output_BD)
    return functional.linear(added_BD, decoder.head_VD).argmax(-1) == answer_B


def _read(probability_BV: Tensor, answer_B: Tensor) -> np.ndarray:
    """The answers' probabilities (B,) in float64."""
    return probability_BV.gather(1, answer_B[:, None])[:, 0].double().cpu().numpy()
