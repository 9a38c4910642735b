"""RETS: ROME at the prompt's last token, with the other facts' keys kept apart from the edited one's.

Covers both perspectives. Key, value and update are ROME's (rome.py) at the last token of the prompt; what is kept is
the distribution after the whole prompt and " is a", read at the prompt's last token. The key is whitened by C and the
sum of k_i k_i^T over all facts of the data, the edited one among them, with k_i the key at the last token of fact i's
bare prompt. A relation edit takes every key at the "add" prompt, its own too, as MEMIT's relation version does: these
keys are in the sum, so that one of the "rm" prompt would be all but orthogonal to what it is measured at.
Source: golden numbers: tests/reference/rets, 1e-4 relative against float64 (the published float32 inverse is 1e-3).

Shape letters as in rome.py, and N facts of the data.
"""

from collections.abc import Sequence
from functools import cache

import msgspec
import torch
from torch import Tensor

from artifact.editing.methods.rets import RetsHparams
from artifact.editing.moments.files import Moments
from artifact.editing.objective import KEPT_PROMPT, Row, fact_row
from artifact.editing.protocol import Protocol
from artifact.editing.rome import RomeEdit, Variant, projections, rome
from artifact.errors import EditError, FactError, PromptError
from artifact.facts.fact import Fact, Perspective, View, fill
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import LanguageModel


def rets(
    model: LanguageModel,
    views: Sequence[View],
    hparams: RetsHparams,
    templates: Sequence[str],
    moments: Moments,
    protocol: Protocol,
    facts: Sequence[Fact],
    memory: Memory | None = None,
) -> list[RomeEdit | EditError]:
    """An edit for each view, all of one perspective, as `rome` makes them; `facts` are those of the data."""
    memory = memory or Memory(default_memory(model.decoder.device))
    at_end = msgspec.structs.replace(hparams, fact_token="last")

    def kept(view: View) -> Row:
        return fact_row(model, KEPT_PROMPT, fill(view.template, view.subject))

    if hparams.subject_const:
        perspective = views[0].perspective

        @cache
        def added(decoder: Decoder, layer: int) -> Tensor:
            key_NM = constraint_keys(model, facts, perspective, layer, memory).double()
            return key_NM.t() @ key_NM

        moments = moments.with_added(("constraint", perspective, tuple(facts)), added)
    return rome(model, views, at_end, templates, moments, protocol, memory, Variant(kept=kept, removal_key=False))


@torch.no_grad()
def constraint_keys(
    model: LanguageModel,
    facts: Sequence[Fact],
    perspective: Perspective,
    layer: int,
    memory: Memory,
) -> Tensor:
    """The key (N, M) at the last token of every fact's bare prompt, without those that cannot be asked."""
    rows = []
    for fact in facts:
        try:
            view = fact.view(perspective)
            rows.append(fact_row(model, view.template, view.subject, token="last"))
        except (FactError, PromptError):
            continue
    if not rows:
        return torch.zeros(0, 1)
    return projections(model, "mlp", [layer], rows, memory)[layer][0]
