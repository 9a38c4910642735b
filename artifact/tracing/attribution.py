"""Attribution patching: every cell's effect approximated from two runs and one gradient, a screen for large grids.

Covers one fact: what is put in minus what is there, times the metric's gradient with respect to that output, for every
token and layer at once. Of one layer it is the first-order term of the exact effect; of a window it is the sum of its
layers' terms, which also counts what a layer does through later layers of the window, whose outputs the exact cell
replaces. So it says where to look, and no verdict rests on it; its rank correlation with exact cells stands beside it.
Source: Nanda 2023; Syed et al., arXiv 2310.10348.

Shape letters as in tracing/sweep.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from artifact.errors import SettingError
from artifact.lm.decoder import Decoder, Site
from artifact.tracing.choices import Metric
from artifact.tracing.sweep import Cells, Runs


def attributed(
    decoder: Decoder,
    ids: Sequence[int],
    span: Sequence[int],
    cells: Cells,
    metric: Metric,
    donors: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """Approximate effects (T, L) on the metric, averaged over samples, in float64. SettingError for severed kinds."""
    if cells.severed:
        raise SettingError("the screen has no form for severed traces; leave out --sever, or --screen")
    with torch.no_grad():
        runs = Runs(decoder, [ids], [span], cells, [donors] if donors else None)
    scored = runs.scored(0)
    rows = len(runs.foil_R)
    fact_F, row_R = torch.zeros(1, dtype=torch.long, device=decoder.device), torch.arange(rows, device=decoder.device)
    probes: list[Tensor] = []
    moved: list[Tensor] = []

    def visit(site: Site, layer: int, value_RTD: Tensor) -> Tensor | None:
        if site != cells.site:
            return None
        put_RTD = torch.stack([runs.put(layer, token, fact_F, row_R) for token in range(len(ids))], dim=1)
        moved.append(put_RTD - value_RTD.detach())
        probes.append(torch.zeros_like(value_RTD, requires_grad=True))
        return value_RTD + probes[-1]

    with torch.enable_grad():
        final_RD = decoder.blocks(scored.states_LBTD[0].detach(), at_site=visit)[:, cells.read]
        read = _read(decoder.logits(final_RD), runs.answer_F, runs.foil_R, metric)
        gradients = torch.autograd.grad(read, probes)
    by_layer = [(gradient * move).sum(-1).sum(0) for gradient, move in zip(gradients, moved, strict=True)]
    effects_LT = torch.stack(by_layer).double().cpu().numpy()
    return np.stack([effects_LT[list(window)].sum(0) for window in cells.windows], axis=1)


def _read(logits_RV: Tensor, answer_F: Tensor, foil_R: Tensor, metric: Metric) -> Tensor:
    """The metric, averaged over rows."""
    log_RV = logits_RV.log_softmax(-1)
    answer_R = log_RV[:, int(answer_F[0])]
    if metric == "ld":
        return (answer_R - log_RV.gather(1, foil_R[:, None])[:, 0]).mean()
    return (answer_R if metric == "logp" else answer_R.exp()).mean()


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rho of two arrays of one shape; nan where one of them has no spread. Ties have their mean rank."""
    ranks = [_ranks(values.ravel()) for values in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
