"""MEMIT: values found at the last of several layers are written into all of them, a share of what is left in each.

Covers both perspectives, many independent edits at once, and edits that write a list of facts jointly. Per layer,
lowest first: key k = mean over groups of prefixes of the mean within the group; residual = (z - current state at the
last layer) / layers left, measured again with the layers below already changed; change = residual times
((lambda C + K K^T)^-1 K)^T, solved in float64 with one factorisation of C a layer. Relation view, as released: keys at
the "add" prompt, values as ROME's but with every prefixed removal prompt (Protocol.memit_all_removal_prefixes).
Source: equations (2) and (3) and docs/protocol.md; golden numbers: tests/reference/{memit,rake_memit}, 1e-4 relative.
The value optimisation is value.py's, the solve moments.py's.

Shape letters as in lm/decoder.py, and F fact, N facts of one edit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm, row_edits
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.moments import Moments
from artifact.editing.protocol import Protocol
from artifact.editing.value import Objective, Row, objective, optimise, subject_row
from artifact.errors import DoesNotFit, EditError
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

REMOVAL_PREFIXES = 5
"""How many prefixed removal prompts were meant; the released slice counts groups and so takes all."""


@dataclass(frozen=True)
class Written:
    """What went into one layer: keys (N, M), states at the last layer before it (N, D), the residual's share (N, D) and
    adjusted keys (N, M); float64 but for the states.
    """

    keys_NM: Tensor
    current_ND: Tensor
    residual_ND: Tensor
    adjusted_NM: Tensor


@dataclass(frozen=True, kw_only=True)
class MemitEdit(Edited):
    """An edit of N facts, the values z (N, D) it writes, the loss terms of each fact's steps (total, NLL, KL, penalty),
    and what was written into each layer.
    """

    values_ND: Tensor
    history: Sequence[Sequence[tuple[float, float, float, float]]]
    written: Mapping[int, Written]

    def told(self) -> dict[str, Any]:
        """What every record keeps, with the mean of the facts' last losses and the most steps any took."""
        last = [terms[-1][0] for terms in self.history]
        return super().told() | {"loss": sum(last) / len(last), "steps": max(map(len, self.history))}


def memit(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: MemitHparams,
    templates: Sequence[Sequence[str]],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
) -> list[MemitEdit | EditError]:
    """An edit for each group of views, as if each group were the only one; EditError in the place of a failed one.

    A group is written jointly: one view for a single edit, many for a mass edit. `templates` are groups of context
    prefixes ("{}" is the prompt), averaged within the group first. Groups go in batches that fit `memory`.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    flat = [template for group in templates for template in group]
    asked = [
        _Asked(
            views,
            [_until_subject(model, fill(t, view.template), view.subject) for view in views for t in flat],
            [_until_subject(model, view.template, view.subject) for view in views],
        )
        for views in groups
    ]

    def fitting(left: Sequence[_Asked]) -> int:
        rows = count = longest = 0
        for one in left:
            own = [*one.prefixed, *one.bare]
            rows, longest = rows + len(own), max(longest, *(len(row.ids) for row in own))
            if rows > memory.rows(model.decoder, 0, longest):
                break
            count += 1
        return count

    def compute(part: Sequence[_Asked]) -> list[MemitEdit | EditError]:
        return _memit(model, part, hparams, templates, moments, protocol, memory)

    def alone(one: _Asked) -> list[MemitEdit | EditError]:
        return [
            DoesNotFit(
                f"{len(one.views)} facts with {len(flat)} prefixes, written jointly, do not fit the device's memory; "
                "take a larger device, or fewer facts a group"
            )
        ]

    return [edit for _, edits in batches(asked, fitting, compute, memory, alone) for edit in edits]


class _Asked(NamedTuple):
    """A group of views written jointly, and their prompts' rows up to the subject's last token: with every prefix, and
    bare.
    """

    views: Sequence[View]
    prefixed: Sequence[Row]
    bare: Sequence[Row]


def _memit(
    model: LanguageModel,
    groups: Sequence[_Asked],
    hparams: MemitHparams,
    templates: Sequence[Sequence[str]],
    moments: Moments,
    protocol: Protocol,
    memory: Memory,
) -> list[MemitEdit | EditError]:
    """`memit` for the groups of one batch."""
    decoder, layers = model.decoder, hparams.layers
    views = [view for group in groups for view in group.views]
    flat = [template for group in templates for template in group]
    removals = flat if protocol.memit_all_removal_prefixes else flat[:REMOVAL_PREFIXES]
    objectives: list[Objective] = [objective(model, view, flat, removals, protocol) for view in views]
    prefixed = [row for group in groups for row in group.prefixed]
    bare = [row for group in groups for row in group.bare]

    with torch.no_grad():
        states = _States(model, [*prefixed, *bare], layers[0])
        start_FD = states.at_lookup(states.onward(layers[0], layers[-1] + 1, len(prefixed)), len(prefixed))
    found = optimise(model, layers[-1], objectives, start_FD, hparams, memory)
    value_FD = start_FD.float() + found.delta_FD

    sizes = [len(group.views) for group in groups]
    group_F = [number for number, size in enumerate(sizes) for _ in range(size)]
    row_group = [group_F[b // len(flat)] for b in range(len(prefixed))] + group_F
    written: list[dict[int, Written]] = [{} for _ in groups]
    changes: list[dict[str, LowRank]] = [{} for _ in groups]
    with torch.no_grad():
        for at, layer in enumerate(layers):
            key_BTM = states.block(layer)
            key_FM = _grouped_mean(states.at_lookup(key_BTM, 0)[: len(prefixed)], [len(group) for group in templates])
            onward_BTD = states.onward(layer + 1, layers[-1] + 1, len(prefixed))
            current_FD = states.at_lookup(onward_BTD, len(prefixed))
            residual_FD = (value_FD - current_FD).double() / (len(layers) - at)
            adjusted_FM = _adjusted(model, moments, layer, key_FM, sizes, hparams.mom2_update_weight)
            name = decoder.family.name("mlp_down", layer)
            parts = (key_FM, current_FD, residual_FD, adjusted_FM)
            for number, (key_NM, current_ND, residual_ND, adjusted_NM) in enumerate(
                zip(*(part.split(sizes) for part in parts), strict=True)
            ):
                written[number][layer] = Written(key_NM.double(), current_ND, residual_ND, adjusted_NM)
                changes[number][name] = LowRank(adjusted_NM.t().to(decoder.dtype), residual_ND.to(decoder.dtype))
            if layer != layers[-1]:
                edits = row_edits([Edit({name: own[name]}) for own in changes], row_group)
                states.add(edits[name].output(key_BTM))
                states.advance(layer + 1, layers[at + 1])

    results: list[MemitEdit | EditError] = []
    values = value_FD.split(sizes)
    for number, own in enumerate(changes):
        first = sum(sizes[:number])
        if (idle := found.idle(slice(first, first + sizes[number]))) is not None:
            results.append(idle)
            continue
        edit = Edit(own)
        history = [terms for terms, group in zip(found.history, group_F, strict=True) if group == number]
        try:
            norm = checked_norm(edit, [terms[0] for fact in history for terms in fact])
        except EditError as error:
            results.append(error)
            continue
        results.append(
            MemitEdit(
                edit=edit,
                norm=norm,
                losses=[terms[0] for terms in history[0]] if len(history) == 1 else (),
                note=moments.note(layers),
                values_ND=values[number],
                history=history,
                written=written[number],
            )
        )
    return results


def _until_subject(model: LanguageModel, template: str, subject: str) -> Row:
    """The row of a prompt up to its subject's last token: what stands after it cannot change the state there."""
    row = subject_row(model, template, subject)
    return Row(row.ids[: row.lookup + 1], row.lookup)


def _grouped_mean(rows_BM: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean over groups of the mean within each group of prefixes: (F * prefixes, M) to (F, M)."""
    per_fact_FPM = rows_BM.unflatten(0, (-1, sum(sizes)))
    return torch.stack([part_FPM.mean(1) for part_FPM in per_fact_FPM.split(list(sizes), dim=1)]).mean(0)


def _adjusted(
    model: LanguageModel, moments: Moments, layer: int, key_FM: Tensor, sizes: Sequence[int], weight: float
) -> Tensor:
    """(lambda C + K K^T)^-1 K of each group of keys, (F, M) in float64."""
    if set(sizes) == {1}:
        return moments.regularised_each(model.decoder, layer, key_FM, weight)
    parts = key_FM.split(list(sizes))
    return torch.cat([moments.regularised(model.decoder, layer, key_NM, weight) for key_NM in parts])


class _States:
    """The rows' states on their way up: entering a layer, or after it once `block` has run, with its change added."""

    def __init__(self, model: LanguageModel, inputs: Sequence[Row], layer: int) -> None:
        self.decoder = model.decoder
        self.lookup_B = torch.tensor([row.lookup for row in inputs], device=self.decoder.device)
        word_BTD = self.decoder.words(model.tokens.pad([row.ids for row in inputs], self.decoder.device))
        self.hidden_BTD = self.decoder.blocks(self.decoder.embed(word_BTD), 0, layer)

    def block(self, layer: int) -> Tensor:
        """Run one block over all rows; returns the inputs of its down-projection (B, T, M)."""
        seen: list[Tensor] = []

        def read(site: Site, at: int, value_BTX: Tensor) -> None:
            if site == "key":
                seen.append(value_BTX)

        self.hidden_BTD, _ = self.decoder.block(layer, self.hidden_BTD, at_site=read)
        return seen[0]

    def onward(self, first: int, stop: int, row: int) -> Tensor:
        """States after layer stop-1 of the rows from `row` on, from here; nothing is kept of it."""
        return self.decoder.blocks(self.hidden_BTD[row:], first, stop)

    def at_lookup(self, value_BTX: Tensor, row: int) -> Tensor:
        """Values at the lookup positions of the rows from `row` on."""
        at_B = self.lookup_B[row:]
        return value_BTX[torch.arange(len(at_B), device=at_B.device), at_B]

    def add(self, added_BTD: Tensor) -> None:
        """A change of the layer just run adds this to the states after it."""
        self.hidden_BTD = self.hidden_BTD + added_BTD

    def advance(self, first: int, stop: int) -> None:
        """Run the unedited layers first..stop-1 over all rows."""
        self.hidden_BTD = self.decoder.blocks(self.hidden_BTD, first, stop)
