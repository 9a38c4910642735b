"""ROME: a rank-one change of one layer's down-projection that makes the subject's last token carry a new value.

Covers both perspectives, many independent single edits at once. Entity perspective: key and value at the rewrite
prompt, towards o*. Relation perspective, as released: key from the removal prompt, value on the "add" prompt towards
the relation together with the first five prefixed removal prompts towards "None", update measured at the "add" prompt.
Source: equations (2) and (3) and docs/protocol.md; golden numbers: tests/reference/{rome,rome_B,rake_rome,rake_rome_B},
1e-4 relative. R-ROME and p-ROME (arXiv 2403.07175) are the same with other prefixes for the key and for what is
measured: tests/reference/{rrome,rrome_B}.

Shape letters as in lm/decoder.py, and F fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments import Moments
from artifact.editing.protocol import Protocol
from artifact.editing.value import Optimised, Row, Terms, objective, optimise, subject_row, until_subject
from artifact.errors import EditError
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Decoder, Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

BARE = ("{}",)
"""The prompt without a prefix."""
REMOVAL_PREFIXES = 5
"""How many prefixed removal prompts a relation edit takes."""


@dataclass(frozen=True, kw_only=True)
class RomeEdit(Edited):
    """An edit and the vectors it was made from: left = C^-1 k normalised (M,), right (D,), value v* (D,), and the loss
    terms of each step.
    """

    left_M: Tensor
    right_D: Tensor
    target_D: Tensor
    delta_D: Tensor
    history: Sequence[Terms]


def rome(
    model: LanguageModel,
    views: Sequence[View],
    hparams: RomeHparams,
    templates: Sequence[str],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
    *,
    keyed: Sequence[str] | None = None,
    measured: Sequence[str] = BARE,
) -> list[RomeEdit | EditError]:
    """An edit for each view, as if each were the only one; an EditError in the place of one that cannot be computed.

    `templates` are the context prefixes ("{}" is the prompt), the first of them the bare prompt's. `keyed`: those whose
    mean key is written to (default: all); `measured`: those over which the update's k' and W k' are averaged.
    """
    decoder, layer = model.decoder, hparams.layer
    memory = memory or Memory(default_memory(decoder.device))
    keyed = templates if keyed is None else keyed
    objectives = [objective(model, view, templates, templates[:REMOVAL_PREFIXES], protocol) for view in views]
    key_rows = [
        subject_row(model, fill(t, view.removal or view.template), view.subject) for view in views for t in keyed
    ]
    measured_rows = [subject_row(model, fill(t, view.template), view.subject) for view in views for t in measured]
    first_rows = [objective.rows[0] for objective in objectives]

    with torch.no_grad():
        sizes = [len(key_rows), len(measured_rows), len(first_rows)]
        input_BM, output_BD = _down_projection(model, layer, [*key_rows, *measured_rows, *first_rows], memory)
        key_BM, measured_BM, _ = input_BM.split(sizes)
        # v0 and, of the bare prompt, W k' are the module's output with and without the target after it: equal, as it
        # is causal.
        _, current_BD, start_FD = output_BD.split(sizes)
        key_FM = key_BM.unflatten(0, (len(views), -1)).mean(1)
        measured_FM, current_FD = (
            part_BX.unflatten(0, (len(views), -1)).mean(1) for part_BX in (measured_BM, current_BD)
        )
        left_FM = moments.solve(decoder, layer, key_FM) if hparams.mom2_adjustment else key_FM.double()
        left_FM = left_FM / left_FM.norm(dim=1, keepdim=True)

    optimised = optimise(model, layer, objectives, start_FD, hparams, memory, site="mlp")
    results: list[RomeEdit | EditError] = []
    for f in range(len(views)):
        left_M, target_D = left_FM[f], start_FD[f].float() + optimised.delta_FD[f]
        right_D = (target_D - current_FD[f].float()).double() / (measured_FM[f].double() @ left_M)
        note = moments.note([layer]) if hparams.mom2_adjustment else ""
        results.append(_edited(decoder, layer, optimised, f, left_M, right_D, target_D, note))
    return results


def _edited(
    decoder: Decoder,
    layer: int,
    optimised: Optimised,
    f: int,
    left_M: Tensor,
    right_D: Tensor,
    target_D: Tensor,
    note: str,
) -> RomeEdit | EditError:
    """The edit of fact `f` of those optimised; an error where nothing was changed, or it or its loss is not finite."""
    if (idle := optimised.idle(slice(f, f + 1))) is not None:
        return idle
    left_M, right_D, history = left_M.to(decoder.dtype), right_D.to(decoder.dtype), optimised.history[f]
    edit = Edit({decoder.family.name("mlp_down", layer): LowRank(left_M[:, None], right_D[None, :])})
    losses = [terms[0] for terms in history]
    try:
        norm = checked_norm(edit, losses)
    except EditError as error:
        return error
    return RomeEdit(
        edit=edit,
        norm=norm,
        losses=losses,
        note=note,
        left_M=left_M,
        right_D=right_D,
        target_D=target_D,
        delta_D=optimised.delta_FD[f],
        history=history,
    )


def _down_projection(model: LanguageModel, layer: int, rows: Sequence[Row], memory: Memory) -> tuple[Tensor, Tensor]:
    """Input (B, M) and output (B, D) of the down-projection at each row's lookup position."""
    decoder = model.decoder
    cut = [until_subject(row) for row in rows]
    place = {row: at for at, row in enumerate(dict.fromkeys(cut))}

    def fitting(left: Sequence[Row]) -> int:
        return memory.rows(decoder, 0, max(len(row.ids) for row in left))

    def compute(part: Sequence[Row]) -> dict[str, Tensor]:
        last_B = torch.tensor(list(accumulate(len(row.ids) for row in part)), device=decoder.device) - 1
        seen: dict[str, Tensor] = {}

        def read(site: Site, at: int, value_1NX: Tensor) -> None:
            if at == layer and site in ("key", "mlp"):
                seen[site] = value_1NX[0]

        hidden_1ND, aligned = decoder.packed([row.ids for row in part])
        decoder.blocks(hidden_1ND, 0, layer + 1, aligned=aligned, at_site=read, read_N=last_B)
        return seen

    parts = [seen for _, seen in batches(list(place), fitting, compute, memory)]
    at_B = torch.tensor([place[row] for row in cut], device=decoder.device)
    return torch.cat([seen["key"] for seen in parts])[at_B], torch.cat([seen["mlp"] for seen in parts])[at_B]
