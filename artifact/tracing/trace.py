"""Causal tracing of one fact: clean, corrupted, and corrupted-with-restoration runs over every (token, layer) cell.

Covers the kinds `hidden` (block output restored at one layer), `mlp` and `attn` (that module's outputs restored in a
window of layers), and severed tracing (block output restored while a module's outputs at that token stay corrupted).
Averages over facts are averages.py's. Equations (4) and (5) of the paper; golden numbers: tests/reference/trace, 1e-5.

One sweep a restored token: the rows of all layers go through the decoder together. Rows join at their layer, carry only
the tokens from the restored one on, and attend to the corrupted run's stored keys and values, so no layer and no token
whose value is known already is computed again. Cells before the first corrupted token are the corrupted score.

Shape letters as in lm/decoder.py, and S noise sample, G group of S rows (one per restored layer).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from artifact.errors import SettingError
from artifact.facts.fact import Perspective, Statement
from artifact.lm.decoder import AtSite, Decoder, LayerKeys, Run, Site
from artifact.lm.load import LanguageModel
from artifact.tracing.corruption import RelationSpan, corrupt_words, corrupted_tokens, noise, subject_tokens

Kind = Literal["hidden", "mlp", "attn"]
Sever = Literal["mlp", "attn"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Trace:
    """One traced fact. Probabilities are of the clean greedy answer's first token at the last position.

    scores_TL holds the mean over noise samples after restoring (token, layer); the indirect effect is
    scores - corrupted.
    """

    case_id: int
    tokens: tuple[str, ...]
    subject: tuple[int, ...]
    span: tuple[int, ...]
    answer: str
    answer_id: int
    clean: float
    corrupted: float
    scores: list[list[float]]


@dataclass(frozen=True)
class Settings:
    """What is restored and how: kind, window of layers (for mlp and attn), severed module, noise.

    `noise_level` multiplies unit noise; `fresh_noise` is the released severed tracing, in which the frozen values come
    from the generator's first draw and the scored run from its second.
    """

    noise_level: float
    kind: Kind = "hidden"
    window: int = 10
    samples: int = 10
    sever: Sever | None = None
    fresh_noise: bool = True
    corrupt: Perspective = "entity"
    relation_span: RelationSpan = "all"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.window < 1:
            raise SettingError(
                f"samples and window must be at least 1, got {self.samples} and {self.window}; give positive numbers"
            )
        if not (self.noise_level > 0 and np.isfinite(self.noise_level)):
            raise SettingError(f"the noise level must be a positive number, got {self.noise_level}; give one, or s3")
        if self.sever is not None and self.kind != "hidden":
            raise SettingError(
                f"severed tracing restores block outputs: --sever needs --kind hidden, got {self.kind}; drop one"
            )

    def layers(self, centre: int, layers: int) -> range:
        """Layers whose module outputs are restored for the cell at layer `centre`; empty for `hidden`."""
        if self.kind == "hidden":
            return range(centre + 1, centre + 1)
        return range(max(0, centre - self.window // 2), min(layers, centre - (-self.window // 2)))


def trace(model: LanguageModel, statement: Statement, settings: Settings) -> Trace:
    """Trace one fact. Raises PromptError for a prompt or subject the model cannot be asked with."""
    encoded = model.tokens.encode(statement.prompt)
    span = corrupted_tokens(encoded, statement, settings.corrupt, settings.relation_span)
    answer_id, clean, corrupted, scores_TL = trace_ids(model.decoder, encoded.ids, span, settings)
    return Trace(
        case_id=statement.case_id,
        tokens=tuple(model.tokens.decode([i]) for i in encoded.ids),
        subject=subject_tokens(encoded, statement),
        span=span,
        answer=model.tokens.decode([answer_id]),
        answer_id=answer_id,
        clean=clean,
        corrupted=corrupted,
        scores=scores_TL.tolist(),
    )


@torch.no_grad()
def trace_ids(
    decoder: Decoder, ids: Sequence[int], span: Sequence[int], settings: Settings
) -> tuple[int, float, float, np.ndarray]:
    """Answer id, clean and corrupted probability, and scores (T, L) in float64, for ids and corrupted positions."""
    ids_1T = torch.tensor([list(ids)], device=decoder.device)
    word_1TD = decoder.words(ids_1T)
    site = settings.sever or (settings.kind if settings.kind != "hidden" else None)
    keep: tuple[Site, ...] = (site,) if site else ()
    clean = decoder.run(word_1TD, keep)
    probability_V = decoder.logits(clean.states_LBTD[-1][:, -1]).softmax(-1)[0]
    answer_id = int(probability_V.argmax())

    def corrupted_run(draw: int) -> Tensor:
        unit_SXD = noise(settings.samples, len(span), decoder.width, draw)
        return corrupt_words(word_1TD, span, settings.noise_level, unit_SXD)

    base = decoder.run(corrupted_run(0), keep)
    low = _score(decoder, base.states_LBTD[-1][:, -1], answer_id)
    fresh_STD = corrupted_run(1) if settings.sever and settings.fresh_noise else None
    untouched = (
        low if fresh_STD is None else _score(decoder, decoder.blocks(decoder.embed(fresh_STD))[:, -1], answer_id)
    )

    scores_TL = np.full((len(ids), decoder.layers), untouched)
    for token in range(min(span), len(ids)):
        frozen = base.outputs[settings.sever] if settings.sever else None
        scored = base
        if fresh_STD is not None and frozen is not None:
            # Values frozen under other noise change the run below the restored layer as well.
            scored = decoder.run(fresh_STD, at_site=_put(settings.sever, token, frozen))
        scores_TL[token] = _sweep(decoder, clean, scored, token, answer_id, settings, frozen)
    return answer_id, float(probability_V[answer_id]), low, scores_TL


def _sweep(
    decoder: Decoder, clean: Run, base: Run, token: int, answer_id: int, settings: Settings, frozen: list[Tensor] | None
) -> np.ndarray:
    """Scores (L,) of restoring each layer at one token."""
    layers, samples = decoder.layers, settings.samples
    windows = [settings.layers(centre, layers) for centre in range(layers)]
    rows_BTD: Tensor | None = None
    joined: list[int] = []  # the centre layer of each group of S rows, in row order

    for layer in range(layers + 1):
        joining = [centre for centre in range(layers) if windows[centre].start == layer]
        for centre in joining:
            state_STD = base.states_LBTD[layer][:, token:].clone()
            if settings.kind == "hidden":
                state_STD[:, 0] = clean.states_LBTD[layer][:, token]
            rows_BTD = state_STD if rows_BTD is None else torch.cat((rows_BTD, state_STD))
            joined.append(centre)
        if layer == layers or rows_BTD is None:
            continue

        def restore(site: Site, at: int, value_BTX: Tensor, joined: tuple[int, ...] = tuple(joined)) -> Tensor | None:
            if frozen is not None and site == settings.sever:
                value_BTX[:, 0] = frozen[at][:, token].repeat(len(joined), 1)
                return value_BTX
            if settings.kind != "hidden" and site == settings.kind:
                inside = torch.tensor([at in windows[centre] for centre in joined], device=value_BTX.device)
                value_BTX[inside.repeat_interleave(samples), 0] = clean.outputs[settings.kind][at][:, token]
                return value_BTX
            return None

        past = _left_of(base.keys[layer], token, len(joined))
        rows_BTD, _ = decoder.block(layer, rows_BTD, past=past, at_site=restore)

    assert rows_BTD is not None
    probability_B = decoder.logits(rows_BTD[:, -1]).softmax(-1)[:, answer_id]
    scores_L = np.empty(layers)
    scores_L[joined] = probability_B.unflatten(0, (len(joined), samples)).mean(1).double().cpu().numpy()
    return scores_L


def _left_of(keys: LayerKeys, token: int, groups: int) -> LayerKeys | None:
    """Keys and values left of `token`, for `groups` copies of their rows."""
    if token == 0:
        return None
    key_SHTK, value_SHTK = keys
    return key_SHTK[:, :, :token].repeat(groups, 1, 1, 1), value_SHTK[:, :, :token].repeat(groups, 1, 1, 1)


def _put(site: str | None, token: int, values: list[Tensor]) -> AtSite:
    """A site visitor that sets the outputs of `site` at `token` to `values` at every layer."""

    def visit(at: Site, layer: int, value_BTD: Tensor) -> Tensor | None:
        if at != site:
            return None
        value_BTD = value_BTD.clone()
        value_BTD[:, token] = values[layer][:, token]
        return value_BTD

    return visit


def _score(decoder: Decoder, final_SD: Tensor, answer_id: int) -> float:
    return float(decoder.logits(final_SD).softmax(-1)[:, answer_id].mean())
