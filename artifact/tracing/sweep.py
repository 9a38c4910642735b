"""The sweep: every (token, layer) cell of several facts of one length, without computing anything twice.

For one restored token, the rows of all layers go through the decoder together. Rows join after their first restored
layer, where only the restored token differs from the run that is scored; they carry the tokens from the restored one on
and attend to that run's stored keys and values. Windows that have not diverged yet share a row. The last block computes
the last position alone, where logits are read. Cells before the first corrupted token are that run's own score. The run
that is scored is the corrupted one, into which clean values are put; in the direction `corrupt` it is the other way
round. In an encoder a change reaches the tokens on its left too: there rows carry all tokens, and every token has cells
to compute. What is restored is trace.py's to say; this file knows token ids and positions.

Shape letters as in lm/decoder.py, and F fact, S sample (of noise, or a donor), R row of the corrupted run (fact-major,
F*S), G group of R rows (one for each set of windows that are still alike), Q metric (METRICS).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artifact.lm.decoder import AtSite, Decoder, LayerKeys, Run, Site
from artifact.lm.device import Memory, batches
from artifact.tracing.choices import METRICS, Direction
from artifact.tracing.corruption import corrupt_words, noise
from artifact.tracing.windows import steps


@dataclass(frozen=True)
class Cells:
    """What a sweep restores: at each centre layer, the outputs of `site` in the layers of `windows[centre]`.

    Outputs of the `severed` sites at the restored token stay those of the run that is scored; with `fresh_noise` those
    values come from the generator's first draw and the scored run from its second. Word embeddings at the corrupted
    positions get noise; where `mean_D` is given they are replaced by it, once.
    """

    site: Site
    windows: Sequence[range]
    samples: int
    noise_level: float
    severed: Sequence[Site]
    fresh_noise: bool
    direction: Direction = "restore"
    mean_D: Tensor | None = None
    read: int = -1
    """The position where the answer is read."""

    @property
    def fresh(self) -> bool:
        """Whether the frozen values and the scored run have different noise."""
        return bool(self.severed) and self.fresh_noise and self.direction == "restore" and self.mean_D is None


@dataclass(frozen=True)
class Swept:
    """Results of F facts in float64: answer ids, clean and corrupted probabilities (F,), scores (F, T, L).

    The same by metric, METRICS first, each averaged over samples: `measured_QF` clean and corrupted ones, and
    `metrics_QFTL`. `foil_F` are the tokens that `ld` compares with, one a sample where prompts were replaced, else one:
    the corrupted run's likeliest but the answer.
    """

    answer_F: list[int]
    clean_F: list[float]
    corrupted_F: list[float]
    scores_FTL: np.ndarray
    foil_F: list[list[int]]
    clean_QF: np.ndarray
    corrupted_QF: np.ndarray
    metrics_QFTL: np.ndarray


@torch.no_grad()
def sweep(
    decoder: Decoder,
    ids_FT: Sequence[Sequence[int]],
    spans: Sequence[Sequence[int]],
    cells: Cells,
    memory: Memory,
    donors_FST: Sequence[Sequence[Sequence[int]]] | None = None,
    only_F: Sequence[Collection[int]] | None = None,
) -> Swept:
    """Trace F facts of one length, each with its corrupted positions, over all tokens and layers.

    With `donors_FST` the corrupted run is that of these ids, which differ from the fact's at corrupted positions alone.
    With `only_F` each fact's cells are those of these tokens alone; the others are nan and cost nothing.
    """
    runs = Runs(decoder, ids_FT, spans, cells, donors_FST)
    facts, tokens, causal = len(ids_FT), len(ids_FT[0]), decoder.family.causal
    metrics_QFTL = runs.untouched_QF[:, :, None, None].repeat(tokens, 2).repeat(decoder.layers, 3)
    first = [min(span) if causal else 0 for span in spans]
    for token in range(min(first), tokens):
        live = [f for f in range(facts) if first[f] <= token and (only_F is None or token in only_F[f])]
        if live:
            metrics_QFTL[:, live, token] = _Token(runs, token, live).scores(memory)
    for f, only in enumerate(only_F or ()):
        metrics_QFTL[:, f, [token for token in range(tokens) if token not in only]] = np.nan
    clean_QF, corrupted_QF = runs.clean_QF, runs.corrupted_QF
    return Swept(
        answer_F=runs.answer_F.tolist(),
        clean_F=clean_QF[0].tolist(),
        corrupted_F=corrupted_QF[0].tolist(),
        scores_FTL=metrics_QFTL[0],
        foil_F=runs.foils(),
        clean_QF=clean_QF,
        corrupted_QF=corrupted_QF,
        metrics_QFTL=metrics_QFTL,
    )


class Runs:
    """The clean and the corrupted runs of F facts, which all restored tokens share."""

    def __init__(
        self,
        decoder: Decoder,
        ids_FT: Sequence[Sequence[int]],
        spans: Sequence[Sequence[int]],
        cells: Cells,
        donors_FST: Sequence[Sequence[Sequence[int]]] | None,
    ) -> None:
        self.decoder, self.cells, self.replaced = decoder, cells, donors_FST is not None
        restores, severed = cells.direction == "restore", tuple(cells.severed)
        word_FTD = decoder.words(torch.tensor([list(ids) for ids in ids_FT], device=decoder.device))
        self.clean = decoder.run(word_FTD, (cells.site,) if restores else severed)
        clean_FV = decoder.logits(self.clean.states_LBTD[-1][:, cells.read])
        self.answer_F = clean_FV.argmax(-1)

        def corrupted(draw: int) -> Tensor:
            if donors_FST is not None:
                every = [list(ids) for donors in donors_FST for ids in donors]
                return decoder.words(torch.tensor(every, device=decoder.device))
            if cells.mean_D is not None:
                replaced_FTD = word_FTD.clone()
                for f, span in enumerate(spans):
                    replaced_FTD[f, list(span)] = cells.mean_D.to(word_FTD)
                return replaced_FTD
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

        self.base = decoder.run(corrupted(0), severed if restores else (cells.site,))
        base_RV = decoder.logits(self.base.states_LBTD[-1][:, cells.read])
        self.foil_R = self._foils(base_RV)
        self.clean_QF = self.measure(clean_FV.repeat_interleave(cells.samples, 0), self.answer_F, self.foil_R)
        # Its probabilities are those of one row, to the last bit.
        self.clean_QF[0] = clean_FV.softmax(-1).gather(1, self.answer_F[:, None])[:, 0].double().cpu().numpy()
        self.corrupted_QF = self.measure(base_RV, self.answer_F, self.foil_R)
        self.untouched_QF = self.corrupted_QF if restores else self.clean_QF
        self._fresh_RTD = corrupted(1) if cells.fresh else None
        if self._fresh_RTD is not None:
            final_RTD = decoder.blocks(decoder.embed(self._fresh_RTD))
            self.untouched_QF = self.scores(final_RTD[:, cells.read], self.answer_F, self.foil_R)
        self._scored = self.base if restores else self._clean_rows()

    def _foils(self, base_RV: Tensor) -> Tensor:
        """The foil of every row: the likeliest token but the answer, of the row (donors) or of the fact's samples."""
        samples = self.cells.samples
        if self.replaced:
            answer_R = self.answer_F.repeat_interleave(samples)
            return base_RV.scatter(1, answer_R[:, None], -torch.inf).argmax(-1)
        mean_FV = base_RV.softmax(-1).unflatten(0, (-1, samples)).mean(1)
        return mean_FV.scatter(1, self.answer_F[:, None], -1.0).argmax(-1).repeat_interleave(samples)

    def foils(self) -> list[list[int]]:
        """Each fact's foils: one a donor, or one."""
        by_fact = self.foil_R.unflatten(0, (-1, self.cells.samples)).tolist()
        return by_fact if self.replaced else [foils[:1] for foils in by_fact]

    def _clean_rows(self) -> Run:
        """The clean run with as many rows as the corrupted one: the run that is scored in the direction `corrupt`."""
        samples, run = self.cells.samples, self.clean
        states = [state_FTD.repeat_interleave(samples, 0) for state_FTD in run.states_LBTD]
        keys = [(key.repeat_interleave(samples, 0), value.repeat_interleave(samples, 0)) for key, value in run.keys]
        outputs = {
            site: [out_FTD.repeat_interleave(samples, 0) for out_FTD in every] for site, every in run.outputs.items()
        }
        return Run(states, outputs, keys)

    def scored(self, token: int) -> Run:
        """The run in which values are put at `token`."""
        if self._fresh_RTD is None:
            return self._scored
        # Values frozen under other noise change the run below the restored layer as well.
        return self.decoder.run(self._fresh_RTD, at_site=self._frozen_at(token))

    def frozen(self, site: Site, layer: int) -> Tensor:
        """What a severed site's outputs stay at, (R, T, D)."""
        return (self.base if self.cells.direction == "restore" else self._scored).outputs[site][layer]

    def put(self, layer: int, token: int, fact_F: Tensor, row_R: Tensor) -> Tensor:
        """The output of the restored site at `token` that takes the place of the scored run's, of these rows (R, D)."""
        site, samples = self.cells.site, self.cells.samples
        if self.cells.direction == "restore":
            return self.clean.outputs[site][layer][fact_F, token].repeat_interleave(samples, 0)
        return self.base.outputs[site][layer][row_R, token]

    def _frozen_at(self, token: int) -> AtSite:
        """A visitor that freezes the severed sites' outputs at `token` in every layer."""

        def visit(site: Site, layer: int, value_RTD: Tensor) -> Tensor | None:
            if site not in self.cells.severed:
                return None
            value_RTD[:, token] = self.base.outputs[site][layer][:, token]
            return value_RTD

        return visit

    def scores(self, final_BD: Tensor, answer_F: Tensor, foil_R: Tensor) -> np.ndarray:
        """`measure` of final states."""
        return self.measure(self.decoder.logits(final_BD), answer_F, foil_R)

    def measure(self, logits_BV: Tensor, answer_F: Tensor, foil_R: Tensor) -> np.ndarray:
        """Every metric, averaged over each fact's samples, in float64: (Q, F), or (Q, G*F) of G groups of R rows."""
        samples = self.cells.samples
        groups = len(logits_BV) // len(foil_R)
        answer_B1 = answer_F.repeat_interleave(samples).repeat(groups)[:, None]
        logit_B = logits_BV.gather(1, answer_B1)[:, 0]
        above_B = logit_B - logits_BV.gather(1, foil_R.repeat(groups)[:, None])[:, 0]
        log_B = logit_B - logits_BV.logsumexp(-1)
        answered_B = logits_BV.softmax(-1).gather(1, answer_B1)[:, 0]
        means = [value_B.unflatten(0, (-1, samples)).mean(1) for value_B in (answered_B, log_B, above_B)]
        return torch.stack(means).double().cpu().numpy()


class _Token:
    """The work of one restored token, for the facts in which it can matter.

    Rows carry the tokens from `first` on, which is the restored one but in an encoder; `at` is its place among them,
    and `read` that of the token where the answer is read.
    """

    def __init__(self, runs: Runs, token: int, live: Sequence[int]) -> None:
        self.runs, self.token = runs, token
        self.decoder, self.cells = runs.decoder, runs.cells
        self.scored = runs.scored(token)
        self.fact_F = torch.tensor(live, device=self.decoder.device)
        samples = torch.arange(self.cells.samples, device=self.decoder.device)
        self.row_R = (self.fact_F[:, None] * self.cells.samples + samples).flatten()
        self.all_facts = len(live) == len(runs.answer_F)
        every = self.scored.states_LBTD[0].shape[1]
        self.first = token if self.decoder.family.causal else 0
        self.tokens, self.at = every - self.first, token - self.first
        self.read = self.cells.read % every - self.first

    def scores(self, memory: Memory) -> np.ndarray:
        """Scores by metric (Q, F, L): as many layers at once as memory allows."""
        scores_QFL = np.empty((len(METRICS), len(self.fact_F), self.decoder.layers))

        def fitting(left: Sequence[int]) -> int:
            return memory.scored_rows(self.decoder, self.first, self.tokens) // len(self.row_R)

        for centres, part_QFC in batches(range(self.decoder.layers), fitting, self._sweep, memory):
            scores_QFL[:, :, centres] = part_QFC
        return scores_QFL

    def _sweep(self, centres: Sequence[int]) -> np.ndarray:
        """Scores by metric (Q, F, C) of the cells with these centre layers."""
        path, group_of = steps(self.cells.windows, centres, self.decoder.layers, after=1)
        rows_RTD: list[Tensor] = []  # of each group
        for step in path:
            if step.joins:
                rows_RTD.append(self._joined(step.layer - 1))
            rows_RTD += [rows_RTD[g] for g in step.copies]
            if rows_RTD and step.layer < self.decoder.layers:
                rows_RTD = self._through(step.layer, rows_RTD, step.inside)
        # Of rows that went through the last block their read token is left; others joined after it.
        final_BD = torch.cat([row_RTD[:, self.read if row_RTD.shape[1] > 1 else 0] for row_RTD in rows_RTD])
        answer_F, foil_R = self.runs.answer_F[self.fact_F], self.runs.foil_R[self.row_R]
        scores_QB = self.runs.scores(final_BD, answer_F, foil_R)
        score_QGF = scores_QB.reshape(len(METRICS), len(rows_RTD), -1)
        return score_QGF[:, [group_of[c] for c in centres]].transpose(0, 2, 1)

    def _joined(self, layer: int) -> Tensor:
        """States after block `layer`, the first restored one: of the restored token, and of the others as they were."""
        if self.cells.site == "hidden":
            restored_R1D = self._put(layer)[:, None]
        else:
            stop = self.token + 1 if self.decoder.family.causal else None
            restored_R1D, _ = self.decoder.block(
                layer,
                self._rows(self.scored.states_LBTD[layer])[:, self.first : stop],
                past=self._left(layer, 1),
                at_site=self._restore([True], 0),
                read_N=torch.tensor([self.at], device=self.decoder.device),
            )
        after_RTD = self._rows(self.scored.states_LBTD[layer + 1])
        return torch.cat((after_RTD[:, self.first : self.token], restored_R1D, after_RTD[:, self.token + 1 :]), dim=1)

    def _through(self, layer: int, rows_RTD: Sequence[Tensor], inside: Sequence[bool]) -> list[Tensor]:
        """The rows of each group after block `layer`; of the last block the token that is read."""
        last = layer == self.decoder.layers - 1
        rows_BTD, _ = self.decoder.block(
            layer,
            torch.cat(list(rows_RTD)),
            past=self._left(layer, len(rows_RTD)),
            # In the last block another token's outputs do not reach the token that is read.
            at_site=None if last and self.at != self.read else self._restore(inside, 0 if last else self.at),
            read_N=torch.tensor([self.read], device=self.decoder.device) if last else None,
        )
        return list(rows_BTD.split(len(self.row_R)))

    def _restore(self, inside: Sequence[bool], at: int) -> AtSite:
        """A visitor that puts the other run's outputs in groups inside their window, and frozen ones in all rows, at
        the restored token's place among those that it is shown.
        """
        cells, token, count = self.cells, self.token, len(self.row_R)

        def visit(site: Site, layer: int, value_BTD: Tensor) -> Tensor | None:
            if site in cells.severed:
                frozen_RTD = self._rows(self.runs.frozen(site, layer))
                value_BTD[:, at] = frozen_RTD[:, token].repeat(len(inside), 1)
                return value_BTD
            if site == cells.site:
                put_RD = self._put(layer)
                for g, within in enumerate(inside):
                    if within:
                        value_BTD[g * count : (g + 1) * count, at] = put_RD
                return value_BTD
            return None

        return visit

    def _rows(self, value_RTX: Tensor) -> Tensor:
        """The rows of a run that belong to this token's facts."""
        return value_RTX if self.all_facts else value_RTX[self.row_R.to(value_RTX.device)]

    def _put(self, layer: int) -> Tensor:
        """What is put at the restored token after this layer's site, for every row (R, D)."""
        return self.runs.put(layer, self.token, self.fact_F, self.row_R)

    def _left(self, layer: int, groups: int) -> LayerKeys | None:
        """Keys and values left of the tokens that rows carry, for `groups` copies of the rows."""
        if self.first == 0:
            return None
        key, value = (self._rows(part)[:, :, : self.first].repeat(groups, 1, 1, 1) for part in self.scored.keys[layer])
        return key, value
