"""MEMIT: values found at the last of several layers are written into all of them, a share of what is left in each.

Covers both perspectives, many independent edits at once, and edits that write a list of facts jointly. Per layer,
lowest first: key k = mean over groups of prefixes of the mean within the group; residual = (z - current state at the
last layer) / layers left, measured again with the layers below already changed; change = residual times
((lambda C + K K^T)^-1 K)^T, solved in float64 with one factorisation of C a layer. Relation perspective, as released:
keys at the "add" prompt, values as ROME's but with every prefixed removal prompt (Protocol.memit_all_removal_prefixes).
Source: equations (2) and (3) and docs/protocol.md; golden numbers: tests/reference/{memit,rake_memit}, 1e-4 relative.
Values are optimised by value.py, solved by moments/files.py. Methods that differ from MEMIT in what they solve alone
(emmet.py, alphaedit.py) give their own `adjust`; MEMIT-Merge (arXiv 2502.07322, no published code) has facts of one key
share a value (`merge`). The site (site.py) is as published the MLP at the subject's last token. At the attention's
output projection the state is the one that the attention's output is added to: in a block whose MLP reads it, that
between the two.

Shape letters as in lm/decoder.py, and F fact, N facts of one edit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm, row_edits
from artifact.editing.memit_states import Asked, States, asked, grouped_mean
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.moments.files import Moments
from artifact.editing.objective import Objective, merged, objective
from artifact.editing.protocol import Protocol
from artifact.editing.site import PROJECTIONS, FactToken, Module
from artifact.editing.value import Terms, optimise
from artifact.errors import DoesNotFit, EditError
from artifact.facts.fact import View
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

REMOVAL_PREFIXES = 5
"""How many prefixed removal prompts were meant; the released slice counts groups and so takes all."""
T = TypeVar("T")
Adjust = Callable[[int, Tensor, Sequence[int]], Tensor]
"""From a layer, keys (F, M) and the number of facts of each group to adjusted keys (F, M), float64: a group's change of
the layer is the sum of its adjusted keys times its residuals."""


@dataclass(frozen=True)
class Written:
    """What went into one layer: keys (N, M), states at the last layer before it (N, D), the residual's share (N, D) and
    adjusted keys (N, M); float64 but for the states.
    """

    keys_NM: Tensor
    current_ND: Tensor
    residual_ND: Tensor
    adjusted_NM: Tensor

    def split(self, sizes: Sequence[int]) -> list["Written"]:
        """The same for each group of so many facts."""
        parts = (self.keys_NM, self.current_ND, self.residual_ND, self.adjusted_NM)
        return [Written(*own) for own in zip(*(part.split(list(sizes)) for part in parts), strict=True)]

    def change(self, dtype: torch.dtype) -> LowRank:
        """The change of the layer's weight."""
        return LowRank(self.adjusted_NM.t().to(dtype), self.residual_ND.to(dtype))


@dataclass(frozen=True, kw_only=True)
class MemitEdit(Edited):
    """An edit of N facts, the values z (N, D) it writes, the loss terms of each fact's steps (total, NLL, KL, penalty),
    and what was written into each layer.
    """

    values_ND: Tensor
    history: Sequence[Sequence[Terms]]
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
    adjust: Adjust | None = None,
    merge: float | None = None,
) -> list[MemitEdit | EditError]:
    """An edit for each group of views, as if each group were the only one; EditError in the place of a failed one.

    A group is written jointly: one view for a single edit, many for a mass edit. `templates` are groups of context
    prefixes ("{}" is the prompt), averaged within the group first. Groups go in batches that fit `memory`. `adjust` is
    MEMIT's (lambda C + K K^T)^-1 K by default. `merge`: views of a group whose keys at the last layer have at least
    that cosine share one value, for the prompts of all of them, and one key, their mean.
    """
    memory = memory or Memory(default_memory(model.decoder.device))

    def adjusted(layer: int, key_FM: Tensor, sizes: Sequence[int]) -> Tensor:
        return _adjusted(model, moments, layer, key_FM, sizes, hparams.mom2_update_weight)

    def _keys(part: Sequence[Asked]) -> Tensor:
        views, last = [view for one in part for view in one.views], hparams.layers[-1:]
        return keys_of(model, views, last, templates, hparams.site, hparams.fact_token)[last[0]]

    def compute(part: Sequence[Asked]) -> list[MemitEdit | EditError]:
        sizes = [len(one.views) for one in part]
        shared = _Shared.of(sizes, None if merge is None or max(sizes) == 1 else _keys(part), merge)
        edits = _memit(model, part, hparams, templates, adjust or adjusted, protocol, memory, shared)
        note = moments.note(hparams.layers)
        return [replace(one, note=note) if isinstance(one, MemitEdit) else one for one in edits]

    return in_batches(model, groups, hparams.fact_token, templates, memory, compute)


def in_batches(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    token: FactToken,
    templates: Sequence[Sequence[str]],
    memory: Memory,
    compute: "Callable[[Sequence[Asked]], Sequence[T | EditError]]",
) -> list[T | EditError]:
    """What `compute` makes of the groups' rows, one edit a group, in batches that fit `memory`."""
    flat = [template for group in templates for template in group]
    every = [asked(model, views, flat, token) for views in groups]

    def fitting(left: Sequence[Asked]) -> int:
        rows = count = longest = 0
        for one in left:
            own = [*one.prefixed, *one.bare]
            rows, longest = rows + len(own), max(longest, *(len(row.ids) for row in own))
            if rows > memory.rows(model.decoder, 0, longest):
                break
            count += 1
        return count

    def alone(one: Asked) -> list[T | EditError]:
        return [
            DoesNotFit(
                f"{len(one.views)} facts with {len(flat)} prefixes, written jointly, do not fit the device's memory; "
                "take a larger device, or fewer facts a group"
            )
        ]

    return [edit for _, edits in batches(every, fitting, compute, memory, alone) for edit in edits]


@torch.no_grad()
def keys_of(
    model: LanguageModel,
    views: Sequence[View],
    layers: Sequence[int],
    templates: Sequence[Sequence[str]],
    site: Module = "mlp",
    token: FactToken = "subject_last",
) -> dict[int, Tensor]:
    """The keys (N, M) of views in each of these layers, lowest first, as MEMIT takes them."""
    flat = [template for group in templates for template in group]
    states, keys = States(model, [asked(model, views, flat, token)], len(flat), site, layers[0]), {}
    for at, layer in enumerate(layers):
        keys[layer] = grouped_mean(states.prefixed(states.block(layer)), [len(group) for group in templates])
        if layer != layers[-1]:
            states.advance(layer + 1, layers[at + 1])
    return keys


def _memit(
    model: LanguageModel,
    groups: Sequence[Asked],
    hparams: MemitHparams,
    templates: Sequence[Sequence[str]],
    adjust: Adjust,
    protocol: Protocol,
    memory: Memory,
    shared: "_Shared",
) -> list[MemitEdit | EditError]:
    """`memit` for the groups of one batch."""
    layers = hparams.layers
    views = [view for group in groups for view in group.views]
    flat = [template for group in templates for template in group]
    removals = flat if protocol.memit_all_removal_prefixes else flat[:REMOVAL_PREFIXES]
    token = hparams.fact_token
    objectives: list[Objective] = [objective(model, view, flat, removals, protocol, token) for view in views]
    objectives = [merged([objectives[f] for f in members]) for members in shared.members]
    with torch.no_grad():
        states = States(model, groups, len(flat), hparams.site, layers[0])
        start_FD = shared.mean(states.at_last(layers[0], layers[-1] + 1))
    optimised = optimise(model, [layers[-1]] * len(objectives), objectives, start_FD, hparams, memory)
    value_FD = start_FD.float() + optimised.delta_FD
    with torch.no_grad():
        written = _write(model, states, value_FD, hparams, templates, adjust, shared)

    results: list[MemitEdit | EditError] = []
    sizes, first = shared.sizes, 0
    parts = {layer: one.split(sizes) for layer, one in written.items()}
    dtype = model.decoder.dtype
    names = {layer: model.decoder.family.name(PROJECTIONS[hparams.site].part, layer) for layer in layers}
    for number, (size, values_ND) in enumerate(zip(sizes, value_FD.split(sizes), strict=True)):
        own = {layer: parts[layer][number] for layer in layers}
        facts = slice(first, first + size)
        results.append(optimised.idle(facts) or _edited(names, own, values_ND, optimised.history[facts], dtype))
        first += size
    return results


def _write(
    model: LanguageModel,
    states: States,
    value_FD: Tensor,
    hparams: MemitHparams,
    templates: Sequence[Sequence[str]],
    adjust: Adjust,
    shared: "_Shared",
) -> dict[int, Written]:
    """What goes into each layer of all facts, lowest first; each layer is read with those below it changed."""
    decoder, layers = model.decoder, hparams.layers
    written: dict[int, Written] = {}
    for at, layer in enumerate(layers):
        key_BTM = states.block(layer)
        key_FM = shared.mean(grouped_mean(states.prefixed(key_BTM), [len(group) for group in templates]))
        current_FD = shared.mean(states.at_last(layer + 1, layers[-1] + 1))
        residual_FD = (value_FD - current_FD).double() / (len(layers) - at)
        written[layer] = Written(key_FM.double(), current_FD, residual_FD, adjust(layer, key_FM, shared.sizes))
        if layer != layers[-1]:
            name = decoder.family.name(PROJECTIONS[hparams.site].part, layer)
            edits = [Edit({name: own.change(decoder.dtype)}) for own in written[layer].split(shared.sizes)]
            states.add(layer, row_edits(edits, states.row_group)[name].output(key_BTM))
            states.advance(layer + 1, layers[at + 1])
    return written


def _edited(
    names: Mapping[int, str],
    written: Mapping[int, Written],
    values_ND: Tensor,
    history: Sequence[Sequence[Terms]],
    dtype: torch.dtype,
) -> MemitEdit | EditError:
    """One group's edit of the weights `names`, by layer; an error where it or a loss is not finite."""
    edit = Edit({names[layer]: own.change(dtype) for layer, own in written.items()})
    try:
        norm = checked_norm(edit, [terms[0] for fact in history for terms in fact])
    except EditError as error:
        return error
    losses = [terms[0] for terms in history[0]] if len(history) == 1 else ()
    return MemitEdit(edit=edit, norm=norm, losses=losses, values_ND=values_ND, history=history, written=written)


def _adjusted(
    model: LanguageModel, moments: Moments, layer: int, key_FM: Tensor, sizes: Sequence[int], weight: float
) -> Tensor:
    """(lambda C + K K^T)^-1 K of each group of keys, (F, M) in float64."""
    if set(sizes) == {1}:
        return moments.regularised_each(model.decoder, layer, key_FM, weight)
    parts = key_FM.split(list(sizes))
    return torch.cat([moments.regularised(model.decoder, layer, key_NM, weight) for key_NM in parts])


@dataclass(frozen=True)
class _Shared:
    """The facts (by number, over all groups) that share a value, a list for each value; and each group's values."""

    members: Sequence[Sequence[int]]
    sizes: Sequence[int]

    @classmethod
    def of(cls, facts: Sequence[int], key_FM: Tensor | None, merge: float | None) -> "_Shared":
        """Groups of so many facts; those of a group whose key is like that of the value's first one join it."""
        members: list[list[int]] = []
        sizes: list[int] = []
        first = 0
        for size in facts:
            before = len(members)
            for fact in range(first, first + size):
                place = None if key_FM is None or merge is None else _like(key_FM, fact, members[before:], merge)
                if place is None:
                    members.append([fact])
                else:
                    members[before + place].append(fact)
            sizes.append(len(members) - before)
            first += size
        return cls(members, sizes)

    def mean(self, x_FX: Tensor) -> Tensor:
        """The mean over each value's facts."""
        if len(self.members) == len(x_FX):
            return x_FX
        return torch.stack([x_FX[list(members)].mean(0) for members in self.members])


def _like(key_FM: Tensor, fact: int, members: Sequence[Sequence[int]], merge: float) -> int | None:
    """The place of the first value whose first fact has a key like this one's."""
    for place, (leader, *_) in enumerate(members):
        if float(torch.cosine_similarity(key_FM[fact].double(), key_FM[leader].double(), dim=0)) >= merge:
            return place
    return None
