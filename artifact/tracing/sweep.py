"""The sweep: every (token, layer) cell of several facts of one length, without computing anything twice.

For one restored token, the rows of all layers go through the decoder together. Rows join after their first restored
layer, where only the restored token differs from the corrupted run; they carry the tokens from the restored one on and
attend to the corrupted run's stored keys and values. Windows that have not diverged yet share a row. The last block
computes the last position alone, where logits are read. Cells before the first corrupted token are the corrupted score.
What is restored is trace.py's to say; this file knows token ids and positions.

Shape letters as in lm/decoder.py, and F fact, S noise sample, R row of the corrupted run (fact-major, F*S), G group of
R rows (one for each set of windows that are still alike).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artifact.lm.decoder import AtSite, Decoder, LayerKeys, Run, Site
from artifact.lm.device import Memory, batches
from artifact.tracing.corruption import corrupt_words, noise
from artifact.tracing.windows import steps


@dataclass(frozen=True)
class Cells:
    """What a sweep restores: at each centre layer, the outputs of `site` in the layers of `windows[centre]`.

    Outputs of the `severed` sites at the restored token stay corrupted; with `fresh_noise` those values come from the
    generator's first draw and the scored run from its second.
    """

    site: Site
    windows: Sequence[range]
    samples: int
    noise_level: float
    severed: Sequence[Site]
    fresh_noise: bool


@dataclass(frozen=True)
class Swept:
    """Results of F facts: answer ids, clean and corrupted probabilities (F,), scores (F, T, L) in float64."""

    answer_F: list[int]
    clean_F: list[float]
    corrupted_F: list[float]
    scores_FTL: np.ndarray


@torch.no_grad()
def sweep(
    decoder: Decoder, ids_FT: Sequence[Sequence[int]], spans: Sequence[Sequence[int]], cells: Cells, memory: Memory
) -> Swept:
    """Trace F facts of one length, each with its corrupted positions, over all tokens and layers."""
    runs = _Runs(decoder, ids_FT, spans, cells)
    facts, tokens = len(ids_FT), len(ids_FT[0])
    scores_FTL = np.repeat(runs.untouched_F, tokens * decoder.layers).reshape(facts, tokens, decoder.layers)
    first = [min(span) for span in spans]
    for token in range(min(first), tokens):
        live = [f for f in range(facts) if first[f] <= token]
        scores_FTL[live, token] = _Token(runs, token, live).scores(memory)
    return Swept(runs.answer_F.tolist(), runs.clean_F.tolist(), runs.corrupted_F.tolist(), scores_FTL)


class _Runs:
    """The clean and the corrupted runs of F facts, which all restored tokens share."""

    def __init__(
        self, decoder: Decoder, ids_FT: Sequence[Sequence[int]], spans: Sequence[Sequence[int]], cells: Cells
    ) -> None:
        self.decoder, self.cells = decoder, cells
        word_FTD = decoder.words(torch.tensor([list(ids) for ids in ids_FT], device=decoder.device))
        self.clean = decoder.run(word_FTD, (cells.site,))
        clean_FV = decoder.logits(self.clean.states_LBTD[-1][:, -1]).softmax(-1)
        self.answer_F = clean_FV.argmax(-1)
        self.clean_F = clean_FV.gather(1, self.answer_F[:, None])[:, 0]

        def corrupted(draw: int) -> Tensor:
            return torch.cat(
                [
                    corrupt_words(
                        word_FTD[f : f + 1],
                        span,
                        cells.noise_level,
                        noise(cells.samples, len(span), decoder.width, draw),
                    )
                    for f, span in enumerate(spans)
                ]
            )

        self.base = decoder.run(corrupted(0), tuple(cells.severed))
        self.corrupted_F = self.untouched_F = self.scores(self.base.states_LBTD[-1][:, -1], self.answer_F)
        self._fresh_RTD = corrupted(1) if cells.severed and cells.fresh_noise else None
        if self._fresh_RTD is not None:
            final_RTD = decoder.blocks(decoder.embed(self._fresh_RTD))
            self.untouched_F = self.scores(final_RTD[:, -1], self.answer_F)

    def scored(self, token: int) -> Run:
        """The corrupted run in which values are restored at `token`."""
        if self._fresh_RTD is None:
            return self.base
        # Values frozen under other noise change the run below the restored layer as well.
        return self.decoder.run(self._fresh_RTD, at_site=self._frozen_at(token))

    def _frozen_at(self, token: int) -> AtSite:
        """A visitor that freezes the severed sites' outputs at `token` in every layer."""

        def visit(site: Site, layer: int, value_RTD: Tensor) -> Tensor | None:
            if site not in self.cells.severed:
                return None
            value_RTD[:, token] = self.base.outputs[site][layer][:, token]
            return value_RTD

        return visit

    def scores(self, final_BD: Tensor, answer_F: Tensor) -> np.ndarray:
        """Probability of each fact's answer, averaged over its samples, in float64: (F,), or (G*F,) of G groups."""
        samples = self.cells.samples
        answer_B = answer_F.repeat_interleave(samples).repeat(len(final_BD) // (len(answer_F) * samples))
        probability_BV = self.decoder.logits(final_BD).softmax(-1)
        answered_B = probability_BV.gather(1, answer_B[:, None])[:, 0]
        return answered_B.unflatten(0, (-1, samples)).mean(1).double().cpu().numpy()


class _Token:
    """The work of one restored token, for the facts that are corrupted at or before it."""

    def __init__(self, runs: _Runs, token: int, live: Sequence[int]) -> None:
        self.runs, self.token = runs, token
        self.decoder, self.cells = runs.decoder, runs.cells
        self.scored = runs.scored(token)
        self.fact_F = torch.tensor(live, device=self.decoder.device)
        samples = torch.arange(self.cells.samples, device=self.decoder.device)
        self.row_R = (self.fact_F[:, None] * self.cells.samples + samples).flatten()
        self.all_facts = len(live) == len(runs.answer_F)
        self.tokens = self.scored.states_LBTD[0].shape[1] - token

    def scores(self, memory: Memory) -> np.ndarray:
        """Scores (F, L): as many layers at once as memory allows."""
        scores_FL = np.empty((len(self.fact_F), self.decoder.layers))

        def fitting(left: Sequence[int]) -> int:
            return memory.rows(self.decoder, self.token, self.tokens) // len(self.row_R)

        for centres, part_FL in batches(range(self.decoder.layers), fitting, self._sweep, memory):
            scores_FL[:, centres] = part_FL
        return scores_FL

    def _sweep(self, centres: Sequence[int]) -> np.ndarray:
        """Scores (F, C) of the cells with these centre layers."""
        path, group_of = steps(self.cells.windows, centres, self.decoder.layers, after=1)
        rows_RTD: list[Tensor] = []  # of each group
        for step in path:
            if step.joins:
                rows_RTD.append(self._joined(step.layer - 1))
            rows_RTD += [rows_RTD[g] for g in step.copies]
            if rows_RTD and step.layer < self.decoder.layers:
                rows_RTD = self._through(step.layer, rows_RTD, step.inside)
        final_BD = torch.cat([row_RTD[:, -1] for row_RTD in rows_RTD])
        score_GF = self.runs.scores(final_BD, self.runs.answer_F[self.fact_F]).reshape(len(rows_RTD), -1)
        return score_GF[[group_of[c] for c in centres]].T

    def _joined(self, layer: int) -> Tensor:
        """States after block `layer`, the first restored one: of the restored token, and of the others as they were."""
        if self.cells.site == "hidden":
            first_R1D = self._clean(layer)
        else:
            state_R1D = self._rows(self.scored.states_LBTD[layer])[:, self.token : self.token + 1]
            first_R1D, _ = self.decoder.block(
                layer, state_R1D, past=self._left(layer, 1), at_site=self._restore([True])
            )
        return torch.cat((first_R1D, self._rows(self.scored.states_LBTD[layer + 1])[:, self.token + 1 :]), dim=1)

    def _through(self, layer: int, rows_RTD: Sequence[Tensor], inside: Sequence[bool]) -> list[Tensor]:
        """The rows of each group after block `layer`; of the last block their last token."""
        last = layer == self.decoder.layers - 1
        rows_BTD, _ = self.decoder.block(
            layer,
            torch.cat(list(rows_RTD)),
            past=self._left(layer, len(rows_RTD)),
            # In the last block another token's outputs do not reach the last token.
            at_site=None if last and self.tokens > 1 else self._restore(inside),
            read_N=torch.tensor([self.tokens - 1], device=self.decoder.device) if last else None,
        )
        return list(rows_BTD.split(len(self.row_R)))

    def _restore(self, inside: Sequence[bool]) -> AtSite:
        """A visitor that puts clean outputs in the rows of groups inside their window, and frozen ones in all rows."""
        cells, token, count = self.cells, self.token, len(self.row_R)

        def visit(site: Site, layer: int, value_BTD: Tensor) -> Tensor | None:
            if site in cells.severed:
                frozen_RTD = self._rows(self.runs.base.outputs[site][layer])
                value_BTD[:, 0] = frozen_RTD[:, token].repeat(len(inside), 1)
                return value_BTD
            if site == cells.site:
                clean_RD = self._clean(layer)[:, 0]
                for g, within in enumerate(inside):
                    if within:
                        value_BTD[g * count : (g + 1) * count, 0] = clean_RD
                return value_BTD
            return None

        return visit

    def _rows(self, value_RTX: Tensor) -> Tensor:
        """The rows of the corrupted run that belong to this token's facts."""
        return value_RTX if self.all_facts else value_RTX[self.row_R]

    def _clean(self, layer: int) -> Tensor:
        """The clean output of the restored site at the restored token for every row, (R, 1, D)."""
        value_FTD = self.runs.clean.outputs[self.cells.site][layer]
        return value_FTD[self.fact_F, self.token].repeat_interleave(self.cells.samples, 0)[:, None]

    def _left(self, layer: int, groups: int) -> LayerKeys | None:
        """Keys and values left of the token, for `groups` copies of the rows."""
        if self.token == 0:
            return None
        key, value = (self._rows(part)[:, :, : self.token].repeat(groups, 1, 1, 1) for part in self.scored.keys[layer])
        return key, value
