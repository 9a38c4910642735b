"""The sweep: every (token, layer) cell of several facts of one length, without computing anything twice.

For one restored token, the rows of all layers go through the decoder together. Rows join at their layer, carry only
the tokens from the restored one on, and attend to the corrupted run's stored keys and values. Windows that have not
diverged yet share a row. Cells before the first corrupted token are the corrupted score. Logits are read at the last
position. What is restored is trace.py's to say; this file knows token ids and positions, no prompts.

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


@dataclass(frozen=True)
class Cells:
    """What a sweep restores: at each centre layer, `windows[centre]` of `kind`'s outputs, or the block output (hidden).

    `sever` names the module whose outputs at the restored token stay corrupted; with `fresh_noise` those values come
    from the generator's first draw and the scored run from its second.
    """

    kind: Site
    windows: Sequence[range]
    samples: int
    noise_level: float
    sever: Site | None
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
    facts, tokens, samples = len(ids_FT), len(ids_FT[0]), cells.samples
    word_FTD = decoder.words(torch.tensor([list(ids) for ids in ids_FT], device=decoder.device))
    site = cells.sever or (cells.kind if cells.kind != "hidden" else None)
    keep: tuple[Site, ...] = (site,) if site else ()
    clean = decoder.run(word_FTD, keep)
    clean_FV = decoder.logits(clean.states_LBTD[-1][:, -1]).softmax(-1)
    answer_F = clean_FV.argmax(-1)
    answer_R = answer_F.repeat_interleave(samples)

    def corrupted_words(draw: int) -> Tensor:
        return torch.cat(
            [
                corrupt_words(
                    word_FTD[f : f + 1], span, cells.noise_level, noise(samples, len(span), decoder.width, draw)
                )
                for f, span in enumerate(spans)
            ]
        )

    base = decoder.run(corrupted_words(0), keep)
    corrupted_F = _scores(decoder, base.states_LBTD[-1][:, -1], answer_R, samples)
    fresh_RTD = corrupted_words(1) if cells.sever and cells.fresh_noise else None
    if fresh_RTD is None:
        untouched_F = corrupted_F
    else:
        untouched_F = _scores(decoder, decoder.blocks(decoder.embed(fresh_RTD))[:, -1], answer_R, samples)

    scores_FTL = np.repeat(untouched_F, tokens * decoder.layers).reshape(facts, tokens, decoder.layers)
    first = [min(span) for span in spans]
    for token in range(min(first), tokens):
        live = [f for f in range(facts) if first[f] <= token]
        frozen = base.outputs[cells.sever] if cells.sever else None
        scored = base
        if fresh_RTD is not None and frozen is not None and cells.sever:
            # Values frozen under other noise change the run below the restored layer as well.
            scored = decoder.run(fresh_RTD, at_site=_put(cells.sever, token, frozen))
        work = _Token(decoder, cells, token, live, clean, scored, answer_F, frozen)
        scores_FTL[live, token] = work.scores(memory)
        del work, scored  # before the next token's run, so that only one is held
    return Swept(
        answer_F.tolist(), clean_FV.gather(1, answer_F[:, None])[:, 0].tolist(), corrupted_F.tolist(), scores_FTL
    )


class _Token:
    """The work of one restored token, for the facts that are corrupted at or before it."""

    def __init__(
        self,
        decoder: Decoder,
        cells: Cells,
        token: int,
        live: list[int],
        clean: Run,
        base: Run,
        answer_F: Tensor,
        frozen: list[Tensor] | None,
    ) -> None:
        self.decoder, self.cells, self.token = decoder, cells, token
        self.clean, self.base, self.frozen = clean, base, frozen
        self.fact_F = torch.tensor(live, device=decoder.device)
        samples = torch.arange(cells.samples, device=decoder.device)
        self.row_R = (self.fact_F[:, None] * cells.samples + samples).flatten()
        self.answer_R = answer_F[self.fact_F].repeat_interleave(cells.samples)
        self.all_facts = len(live) == len(answer_F)

    def scores(self, memory: Memory) -> np.ndarray:
        """Scores (F, L): as many layers at once as memory allows."""
        decoder = self.decoder
        found = np.empty((len(self.fact_F), decoder.layers))
        tokens = self.base.states_LBTD[0].shape[1] - self.token

        def fitting(left: Sequence[int]) -> int:
            return memory.rows(decoder, self.token, tokens) // len(self.row_R)

        for part, score_FL in batches(range(decoder.layers), fitting, self._sweep, memory):
            found[:, part] = score_FL
        return found

    def _sweep(self, centres: Sequence[int]) -> np.ndarray:
        decoder, cells, windows = self.decoder, self.cells, self.cells.windows
        count = len(self.row_R)
        groups: list[list[int]] = []  # the centre layers of each group of rows, in row order
        rows_BTD: Tensor | None = None
        for layer in range(min(windows[c].start for c in centres), decoder.layers + 1):
            for g, members in enumerate(list(groups)):
                ended = [c for c in members if windows[c].stop == layer]
                if ended and len(ended) < len(members) and cells.kind != "hidden":
                    assert rows_BTD is not None
                    rows_BTD = torch.cat((rows_BTD, rows_BTD[g * count : (g + 1) * count]))
                    groups[g] = [c for c in members if c not in ended]
                    groups.append(ended)
            joining = [c for c in centres if windows[c].start == layer]
            if joining:
                state_RTD = self._rows(self.base.states_LBTD[layer])[:, self.token :]
                if cells.kind == "hidden":
                    state_RTD = torch.cat((self._clean(self.clean.states_LBTD[layer]), state_RTD[:, 1:]), dim=1)
                rows_BTD = state_RTD if rows_BTD is None else torch.cat((rows_BTD, state_RTD))
                groups.append(joining)
            if layer < decoder.layers and rows_BTD is not None:
                past = self._left(self.base.keys[layer], len(groups))
                inside = [layer in windows[members[0]] for members in groups]
                rows_BTD, _ = decoder.block(layer, rows_BTD, past=past, at_site=self._restore(inside))
        assert rows_BTD is not None
        answer_B = self.answer_R.repeat(len(groups))
        score_GF = _scores(decoder, rows_BTD[:, -1], answer_B, cells.samples).reshape(len(groups), -1)
        group_of = {c: g for g, members in enumerate(groups) for c in members}
        return score_GF[[group_of[c] for c in centres]].T

    def _restore(self, inside: list[bool]) -> AtSite:
        """A visitor that puts clean outputs in the rows of groups inside their window, and frozen ones in all rows."""
        cells, token, count = self.cells, self.token, len(self.row_R)

        def visit(site: Site, layer: int, value_BTX: Tensor) -> Tensor | None:
            if self.frozen is not None and site == cells.sever:
                value_BTX[:, 0] = self._rows(self.frozen[layer])[:, token].repeat(len(inside), 1)
                return value_BTX
            if cells.kind != "hidden" and site == cells.kind:
                clean_RX = self._clean(self.clean.outputs[cells.kind][layer])[:, 0]
                for g, within in enumerate(inside):
                    if within:
                        value_BTX[g * count : (g + 1) * count, 0] = clean_RX
                return value_BTX
            return None

        return visit

    def _rows(self, value_RTX: Tensor) -> Tensor:
        """The rows of the corrupted run that belong to this token's facts."""
        return value_RTX if self.all_facts else value_RTX[self.row_R]

    def _clean(self, value_FTX: Tensor) -> Tensor:
        """The clean value at the restored token for every row, (R, 1, X)."""
        return value_FTX[self.fact_F, self.token].repeat_interleave(self.cells.samples, 0)[:, None]

    def _left(self, keys: LayerKeys, groups: int) -> LayerKeys | None:
        """Keys and values left of the token, for `groups` copies of the rows."""
        if self.token == 0:
            return None
        key, value = (self._rows(part)[:, :, : self.token].repeat(groups, 1, 1, 1) for part in keys)
        return key, value


def _put(site: Site, token: int, values: list[Tensor]) -> AtSite:
    """A visitor that sets the outputs of `site` at `token` to `values` at every layer."""

    def visit(at: Site, layer: int, value_BTD: Tensor) -> Tensor | None:
        if at == site:
            value_BTD[:, token] = values[layer][:, token]
            return value_BTD
        return None

    return visit


def _scores(decoder: Decoder, final_BD: Tensor, answer_B: Tensor, samples: int) -> np.ndarray:
    """Probability of each row's answer, averaged over the samples of each fact (and group), in float64."""
    probability_BV = decoder.logits(final_BD).softmax(-1)
    answered_B = probability_BV.gather(1, answer_B[:, None])[:, 0]
    return answered_B.unflatten(0, (-1, samples)).mean(1).double().cpu().numpy()
