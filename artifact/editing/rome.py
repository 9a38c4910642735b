"""ROME: a rank-one change of one layer's down-projection that makes the subject's last token carry a new value.

Covers both perspectives, many independent single edits at once. Entity view: key and value at the rewrite prompt,
towards o*. Relation view, as released: key from the removal prompt, value on the "add" prompt towards the relation
together with the first five prefixed removal prompts towards "None", update measured at the "add" prompt.
Source: equations (2) and (3)
and docs/protocol.md; golden numbers: tests/reference/{rome,rome_B,rake_rome,rake_rome_B}, 1e-4 relative.

Shape letters as in lm/decoder.py, and F fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments import Moments
from artifact.editing.protocol import Protocol
from artifact.editing.value import Row, objective, optimise, subject_row
from artifact.errors import EditError
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

REMOVAL_PREFIXES = 5
"""How many prefixed removal prompts a relation edit takes."""


@dataclass(frozen=True, kw_only=True)
class RomeEdit(Edited):
    """An edit and the vectors it was made from: left = C^-1 k normalised (M,), right (D,), value v* (D,), and the loss
    terms of each step: total, NLL, KL, penalty.
    """

    left_M: Tensor
    right_D: Tensor
    target_D: Tensor
    delta_D: Tensor
    history: Sequence[tuple[float, float, float, float]]


def rome(
    model: LanguageModel,
    views: Sequence[View],
    hparams: RomeHparams,
    templates: Sequence[str],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
) -> list[RomeEdit | EditError]:
    """An edit for each view, as if each were the only one; an EditError in the place of one that cannot be computed.

    `templates` are the context prefixes ("{}" is the prompt), the first of them the bare prompt's.
    """
    decoder, layer = model.decoder, hparams.layer
    memory = memory or Memory(default_memory(decoder.device))
    objectives = [objective(model, view, templates, templates[:REMOVAL_PREFIXES], protocol) for view in views]
    key_rows = [
        [subject_row(model, fill(t, view.removal or view.template), view.subject) for t in templates] for view in views
    ]
    bare_rows = [subject_row(model, view.template, view.subject) for view in views]
    first_rows = [objective.rows[0] for objective in objectives]

    with torch.no_grad():
        flat = [row for rows in key_rows for row in rows]
        input_BM, output_BD = _down_projection(model, layer, [*flat, *bare_rows, *first_rows], memory)
        key_FM = torch.stack([part.mean(0) for part in input_BM[: len(flat)].split(len(templates))])
        _, bare_FM, _ = input_BM.split([len(flat), len(views), len(views)])
        # v0 and W k' are the module's output with and without the target after it: equal, as it is causal.
        _, current_FD, start_FD = output_BD.split([len(flat), len(views), len(views)])
        left_FM = moments.solve(decoder, layer, key_FM) if hparams.mom2_adjustment else key_FM.double()
        left_FM = left_FM / left_FM.norm(dim=1, keepdim=True)

    found = optimise(model, layer, objectives, start_FD, hparams, memory)
    results: list[RomeEdit | EditError] = []
    for f in range(len(views)):
        if (idle := found.idle(slice(f, f + 1))) is not None:
            results.append(idle)
            continue
        target_D = start_FD[f].float() + found.delta_FD[f]
        overlap = bare_FM[f].double() @ left_FM[f]
        right_D = ((target_D - current_FD[f].float()).double() / overlap).to(decoder.dtype)
        left_M = left_FM[f].to(decoder.dtype)
        name = decoder.family.name("mlp_down", layer)
        edit = Edit({name: LowRank(left_M[:, None], right_D[None, :])})
        try:
            norm = checked_norm(edit, [terms[0] for terms in found.history[f]])
        except EditError as error:
            results.append(error)
            continue
        history = found.history[f]
        results.append(
            RomeEdit(
                edit=edit,
                norm=norm,
                losses=[terms[0] for terms in history],
                note=moments.note([layer]) if hparams.mom2_adjustment else "",
                left_M=left_M,
                right_D=right_D,
                target_D=target_D,
                delta_D=found.delta_FD[f],
                history=history,
            )
        )
    return results


def _down_projection(model: LanguageModel, layer: int, rows: Sequence[Row], memory: Memory) -> tuple[Tensor, Tensor]:
    """Input (B, M) and output (B, D) of the down-projection at each row's lookup position."""
    decoder = model.decoder

    def fitting(left: Sequence[Row]) -> int:
        return memory.rows(decoder, 0, max(len(row.ids) for row in left))

    def compute(part: Sequence[Row]) -> dict[str, Tensor]:
        at_B = torch.tensor([row.lookup for row in part], device=decoder.device)
        every_B = torch.arange(len(part), device=decoder.device)
        seen: dict[str, Tensor] = {}

        def read(site: Site, at: int, value_BTX: Tensor) -> None:
            if at == layer and site in ("key", "mlp"):
                seen[site] = value_BTX[every_B, at_B]

        word_BTD = decoder.words(model.tokens.pad([row.ids for row in part], decoder.device))
        decoder.blocks(decoder.embed(word_BTD), 0, layer + 1, at_site=read)
        return seen

    found = [seen for _, seen in batches(rows, fitting, compute, memory)]
    return torch.cat([seen["key"] for seen in found]), torch.cat([seen["mlp"] for seen in found])
