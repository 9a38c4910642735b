"""ROME: a rank-one change of one layer's output projection that makes one token carry a new value.

Covers both perspectives, many independent single edits at once, of one fact at many layers too. The site (site.py) is
as published the MLP at the subject's last token; the attention's output projection and other tokens take the same
algebra. Entity perspective: key and value at the rewrite prompt, towards o*. Relation perspective, as released: key
from the removal prompt, value on the "add" prompt towards the relation together with the first five prefixed removal
prompts towards "None", update measured at the "add" prompt. Source: equations (2) and (3) and docs/protocol.md; golden
numbers: tests/reference/{rome,rome_B,rake_rome,rake_rome_B}, 1e-4 relative. tests/editing/test_sites.py holds other
sites to transformers' own modules. R-ROME and p-ROME (arXiv 2403.07175) are the same with other prefixes for the key
and for what is measured: tests/reference/{rrome,rrome_B}.

Shape letters as in lm/decoder.py (M is the width of the edited projection's input), and F edit, U different view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import Moments
from artifact.editing.objective import Row, fact_row, objective, until_lookup
from artifact.editing.protocol import Protocol
from artifact.editing.site import PROJECTIONS, Module
from artifact.editing.value import Optimised, Terms, optimise
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


@dataclass(frozen=True)
class Variant:
    """How a method differs from ROME.

    `keyed`: the prefixes whose mean key is written to (None: all); `measured`: those over which the update's k' and
    W k' are averaged; `kept` gives another prompt whose distribution is kept; without `removal_key` a relation's key is
    that of the "add" prompt.
    """

    keyed: Sequence[str] | None = None
    measured: Sequence[str] = BARE
    kept: Callable[[View], Row] | None = None
    removal_key: bool = True


def rome(
    model: LanguageModel,
    views: Sequence[View],
    hparams: RomeHparams,
    templates: Sequence[str],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
    variant: Variant | None = None,
    layers: Sequence[int] | None = None,
) -> list[RomeEdit | EditError]:
    """An edit for each view, as if each were the only one; an EditError in the place of one that cannot be computed.

    `templates` are the context prefixes ("{}" is the prompt), the first of them the bare prompt's. `variant` says how
    the method differs from ROME. `layers` names the layer of each edit (default: the hyperparameters'); a view that
    comes at several is run unedited once.
    """
    decoder, layers = model.decoder, layers or [hparams.layer] * len(views)
    memory = memory or Memory(default_memory(decoder.device))
    asked = _Asked(model, views, hparams, templates, protocol, variant or Variant())
    with torch.no_grad():
        rows = [*asked.key_rows, *asked.measured_rows, *(one.rows[0] for one in asked.objectives)]
        projected = projections(model, hparams.site, sorted(set(layers)), rows, memory)
        read = {layer: _Read.of(*both, asked) for layer, both in projected.items()}
        key_FM = torch.stack([read[layer].key_UM[u] for layer, u in zip(layers, asked.number, strict=True)])
        left_FM = _whitened(decoder, moments, layers, key_FM) if hparams.mom2_adjustment else key_FM.double()
        left_FM = left_FM / left_FM.norm(dim=1, keepdim=True)
        start_FD = torch.stack([read[layer].start_UD[u] for layer, u in zip(layers, asked.number, strict=True)])

    objectives = [asked.objectives[u] for u in asked.number]
    optimised = optimise(model, layers, objectives, start_FD, hparams, memory)
    results: list[RomeEdit | EditError] = []
    for f, (layer, u) in enumerate(zip(layers, asked.number, strict=True)):
        left_M, target_D = left_FM[f], start_FD[f].float() + optimised.delta_FD[f]
        gap_D = (target_D - read[layer].current_UD[u].float()).double()
        right_D = gap_D / (read[layer].measured_UM[u].double() @ left_M)
        note = moments.note([layer]) if hparams.mom2_adjustment else ""
        name = decoder.family.name(PROJECTIONS[hparams.site].part, layer)
        results.append(_edited(name, decoder.dtype, optimised, f, left_M, right_D, target_D, note))
    return results


class _Asked:
    """The different views among those asked for, the `number` of each one's, and their prompts: `key_rows` and
    `measured_rows` with their prefixes, and the objectives.
    """

    def __init__(
        self,
        model: LanguageModel,
        views: Sequence[View],
        hparams: RomeHparams,
        templates: Sequence[str],
        protocol: Protocol,
        variant: Variant,
    ) -> None:
        token, different = hparams.fact_token, list(dict.fromkeys(views))
        self.number = [different.index(view) for view in views]
        removals = templates[:REMOVAL_PREFIXES]
        self.objectives = [objective(model, view, templates, removals, protocol, token) for view in different]
        if (kept := variant.kept) is not None:
            both = zip(self.objectives, different, strict=True)
            self.objectives = [replace(one, kept=kept(view)) for one, view in both]

        def rows(prefixes: Sequence[str], prompts: Sequence[str]) -> list[Row]:
            both = [(fill(t, prompt), view) for prompt, view in zip(prompts, different, strict=True) for t in prefixes]
            return [fact_row(model, text, view.subject, token=token) for text, view in both]

        prompts = [view.template for view in different]
        keys = [view.removal or view.template for view in different] if variant.removal_key else prompts
        self.key_rows = rows(templates if variant.keyed is None else variant.keyed, keys)
        self.measured_rows = rows(variant.measured, prompts)


@dataclass(frozen=True)
class _Read:
    """What one layer's projection takes and gives: the key, the measured prompts' mean input and output, and the output
    with the target after the first prompt.

    Of the bare prompt, start and current, v0 and W k', are equal: a decoder does not look ahead, and an encoder's
    target is masked.
    """

    key_UM: Tensor
    measured_UM: Tensor
    current_UD: Tensor
    start_UD: Tensor

    @classmethod
    def of(cls, input_BM: Tensor, output_BD: Tensor, asked: _Asked) -> "_Read":
        """From the rows of the keys, the measured ones, and those with the target."""
        views = len(asked.objectives)
        sizes = [len(asked.key_rows), len(asked.measured_rows), views]
        key_BM, measured_BM, _ = input_BM.split(sizes)
        _, current_BD, start_UD = output_BD.split(sizes)
        key_UM, measured_UM, current_UD = (
            part_BX.unflatten(0, (views, -1)).mean(1) for part_BX in (key_BM, measured_BM, current_BD)
        )
        return cls(key_UM, measured_UM, current_UD, start_UD)


def _whitened(decoder: Decoder, moments: Moments, layers: Sequence[int], key_FM: Tensor) -> Tensor:
    """C^-1 k of each key with its layer's moments, float64."""
    left_FM = torch.empty_like(key_FM, dtype=torch.float64)
    for layer in sorted(set(layers)):
        own = [f for f, one in enumerate(layers) if one == layer]
        left_FM[own] = moments.solve(decoder, layer, key_FM[own])
    return left_FM


def _edited(
    name: str,
    dtype: torch.dtype,
    optimised: Optimised,
    f: int,
    left_M: Tensor,
    right_D: Tensor,
    target_D: Tensor,
    note: str,
) -> RomeEdit | EditError:
    """Edit `f` of those optimised, of the layer called `name`; an error where nothing was changed, or it or its loss is
    not finite.
    """
    if (idle := optimised.idle(slice(f, f + 1))) is not None:
        return idle
    left_M, right_D, history = left_M.to(dtype), right_D.to(dtype), optimised.history[f]
    edit = Edit({name: LowRank(left_M[:, None], right_D[None, :])})
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


def projections(
    model: LanguageModel, module: Module, layers: Sequence[int], rows: Sequence[Row], memory: Memory
) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer, the input (B, M) and output (B, D) of the module's output projection at each row's lookup position."""
    decoder = model.decoder
    cut = [until_lookup(row) for row in rows]
    place = {row: at for at, row in enumerate(dict.fromkeys(cut))}
    key = PROJECTIONS[module].key

    def fitting(left: Sequence[Row]) -> int:
        return memory.rows(decoder, 0, max(len(row.ids) for row in left))

    def compute(part: Sequence[Row]) -> dict[tuple[Site, int], Tensor]:
        start_B = accumulate((len(row.ids) for row in part), initial=0)
        at_B = [start + row.lookup for start, row in zip(start_B, part, strict=False)]
        lookup_B = torch.tensor(at_B, device=decoder.device)
        seen: dict[tuple[Site, int], Tensor] = {}

        def read(site: Site, at: int, value_1NX: Tensor) -> None:
            if at in layers and site in (key, module):
                # The last block is run for these tokens alone.
                seen[site, at] = value_1NX[0] if at == layers[-1] else value_1NX[0, lookup_B]

        hidden_1ND, aligned = decoder.packed([row.ids for row in part])
        decoder.blocks(hidden_1ND, 0, layers[-1] + 1, aligned=aligned, at_site=read, read_N=lookup_B)
        return seen

    parts = [seen for _, seen in batches(list(place), fitting, compute, memory)]
    at_B = torch.tensor([place[row] for row in cut], device=decoder.device)

    def whole(site: Site, layer: int) -> Tensor:
        return torch.cat([seen[site, layer] for seen in parts])[at_B]

    return {layer: (whole(key, layer), whole(module, layer)) for layer in layers}
