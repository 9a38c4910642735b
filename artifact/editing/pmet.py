"""PMET: a value for the attention's output and one for the MLP's, optimised together, each written where it is asked.

Covers both perspectives and edits that write a list of facts jointly. Two deltas at the edited token, of both modules'
outputs in the last of the layers, are optimised by one Adam: f NLL + kl_factor KL + decay (|d_mlp| / |v_mlp|^2 +
|d_attn| / |v_attn|^2). Where every target token is the likeliest in every row, f is a tenth in the next pass, and the
optimisation stops if the KL's term is at most 0.01; it stops below 0.05, too. One of the two is then thrown away unless
both modules are rewritten. Per layer and module, the attention first: change = R (w C + K K^T)^-1 K with
R = (z - the module's output at the last layer, read again) / sqrt(layers left).
As released, the square update of GPT-2's attention is added untransposed (Protocol.pmet_square_untransposed).
Source: arXiv 2308.08742; golden numbers: tests/reference/{pmet,pmet_B}, 1e-4 relative.

Shape letters as in memit.py, and A fact still optimised, S scored target token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm, row_edits
from artifact.editing.memit import REMOVAL_PREFIXES, in_batches
from artifact.editing.memit_states import Asked, at_lookups, grouped_mean
from artifact.editing.methods.pmet import PmetHparams
from artifact.editing.moments.files import Moments
from artifact.editing.objective import objective
from artifact.editing.pmet_value import Two, optimise_two
from artifact.editing.protocol import Protocol
from artifact.editing.site import PROJECTIONS, Module
from artifact.errors import EditError
from artifact.facts.fact import View
from artifact.lm.decoder import Site
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class Written:
    """What went into one module of one layer: keys (N, M), outputs at the last layer before it and what is left to
    write there (N, D), in float64 but for the outputs.
    """

    keys_NM: Tensor
    current_ND: Tensor
    target_ND: Tensor


@dataclass(frozen=True, kw_only=True)
class PmetEdit(Edited):
    """An edit of N facts, the values (N, D) of each module, each fact's loss terms, and what was written."""

    values_ND: Mapping[Module, Tensor]
    history: Sequence[Sequence[tuple[float, ...]]]
    written: Mapping[tuple[int, Module], Written]


def pmet(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: PmetHparams,
    templates: Sequence[Sequence[str]],
    moments: Mapping[Module, Moments],
    protocol: Protocol,
    memory: Memory | None = None,
) -> list[PmetEdit | EditError]:
    """An edit for each group of views, as if each group were the only one; EditError in the place of a failed one.

    `templates` are groups of context prefixes as MEMIT's, `moments` those of each rewritten module's keys.
    """
    memory = memory or Memory(default_memory(model.decoder.device))

    def compute(part: Sequence[Asked]) -> list[PmetEdit | EditError]:
        return _pmet(model, part, hparams, templates, moments, protocol, memory)

    return in_batches(model, groups, "subject_last", templates, memory, compute)


def _pmet(
    model: LanguageModel,
    groups: Sequence[Asked],
    hparams: PmetHparams,
    templates: Sequence[Sequence[str]],
    moments: Mapping[Module, Moments],
    protocol: Protocol,
    memory: Memory,
) -> list[PmetEdit | EditError]:
    flat = [template for group in templates for template in group]
    removals = flat if protocol.memit_all_removal_prefixes else flat[:REMOVAL_PREFIXES]
    views = [view for group in groups for view in group.views]
    objectives = [objective(model, view, flat, removals, protocol) for view in views]
    with torch.no_grad():
        states = _States(model, groups, hparams, [len(group) for group in templates])
        start = states.outputs(hparams.layers[0])
    found = optimise_two(model, objectives, start, hparams, memory)
    values = {module: start[module].float() + found.deltas[module] for module in hparams.modules}
    with torch.no_grad():
        written = _write(model, states, values, hparams, moments, protocol)
    edits: list[PmetEdit | EditError] = []
    first = 0
    for number, size in enumerate(states.sizes):
        own = slice(first, first + size)
        parts = {
            key: Written(one.keys_NM[own], one.current_ND[own], one.target_ND[own]) for key, one in written.items()
        }
        edits.append(_edited(states, number, {m: z[own] for m, z in values.items()}, found, own, parts))
        first += size
    note = "; ".join(filter(None, (moments[module].note(hparams.layers) for module in hparams.modules)))
    return [one if isinstance(one, EditError) else _noted(one, note) for one in edits]


def _write(
    model: LanguageModel,
    states: "_States",
    values: Mapping[Module, Tensor],
    hparams: PmetHparams,
    moments: Mapping[Module, Moments],
    protocol: Protocol,
) -> dict[tuple[int, Module], Written]:
    """What goes into each module of each layer, lowest first; each is read with those before it changed."""
    decoder, written = model.decoder, dict[tuple[int, Module], Written]()
    for at, layer in enumerate(hparams.layers):
        for module in hparams.modules:
            key_FM = states.keys(layer, module).double()
            current_FD = states.outputs(layer)[module]
            target_FD = (values[module] - current_FD).double()
            written[layer, module] = Written(key_FM, current_FD, target_FD)
            residual_FD = target_FD / (len(hparams.layers) - at) ** 0.5
            weight, own = hparams.mom2_update_weight, moments[module]
            parts = zip(key_FM.split(states.sizes), residual_FD.split(states.sizes), strict=True)
            for number, (key_NM, residual_ND) in enumerate(parts):
                left_MN = own.regularised(decoder, layer, key_NM, weight).t().to(decoder.dtype)
                right_ND = residual_ND.to(decoder.dtype)
                square = module == "attn" and len(left_MN) == right_ND.shape[1] and decoder.family.input_first
                if square and protocol.pmet_square_untransposed:
                    left_MN, right_ND = right_ND.t(), left_MN.t()
                name = decoder.family.name(PROJECTIONS[module].part, layer)
                states.changes[number][name] = LowRank(left_MN, right_ND)
        if layer != hparams.layers[-1]:
            states.advance(layer, hparams.layers[at + 1])
    return written


def _edited(
    states: "_States",
    number: int,
    values_ND: Mapping[Module, Tensor],
    found: Two,
    facts: slice,
    written: Mapping[tuple[int, Module], Written],
) -> PmetEdit | EditError:
    """One group's edit; an error where nothing was changed, or it or a loss is not finite."""
    if (idle := found.idle(facts)) is not None:
        return idle
    edit, history = Edit(states.changes[number]), found.history[facts]
    try:
        norm = checked_norm(edit, [terms[0] for fact in history for terms in fact])
    except EditError as error:
        return error
    losses = [terms[0] for terms in history[0]] if len(history) == 1 else ()
    return PmetEdit(edit=edit, norm=norm, losses=losses, values_ND=values_ND, history=history, written=written)


def _noted(edited: PmetEdit, note: str) -> PmetEdit:
    return PmetEdit(**{**vars(edited), "note": note})


class _States:
    """The rows' states before a layer, with each group's `changes` so far: every fact's prompts with its prefixes,
    group by group, then every fact's bare prompt.
    """

    def __init__(
        self, model: LanguageModel, groups: Sequence[Asked], hparams: PmetHparams, prefixes: Sequence[int]
    ) -> None:
        decoder = self._decoder = model.decoder
        self._prefixes, self._last = prefixes, hparams.layers[-1]
        self.sizes = [len(group.views) for group in groups]
        group_F = [number for number, size in enumerate(self.sizes) for _ in range(size)]
        self._row_group = [number for number in group_F for _ in range(sum(prefixes))] + group_F
        self._bare = len(group_F) * sum(prefixes)
        rows = [row for group in groups for row in group.prefixed] + [row for group in groups for row in group.bare]
        self._lookup_B = torch.tensor([row.lookup for row in rows], device=decoder.device)
        word_BTD = decoder.words(model.tokens.pad([row.ids for row in rows], decoder.device))
        self._hidden_BTD = decoder.blocks(decoder.embed(word_BTD), 0, hparams.layers[0])
        self.changes: list[dict[str, LowRank]] = [{} for _ in groups]

    def keys(self, layer: int, module: Module) -> Tensor:
        """The mean key (F, M) of each fact, over groups of prefixes; the states stand before the layer."""
        seen = self._run(slice(0, self._bare), layer, layer + 1, PROJECTIONS[module].key)
        return grouped_mean(at_lookups(seen, self._lookup_B[: self._bare]), self._prefixes)

    def outputs(self, layer: int) -> dict[Module, Tensor]:
        """Both modules' outputs (F, D) at the last layer, of the bare prompts; the states stand before `layer`."""
        bare, found = slice(self._bare, None), dict[Module, Tensor]()
        for module in PROJECTIONS:
            seen = self._run(bare, layer, self._last + 1, module)
            found[module] = at_lookups(seen, self._lookup_B[self._bare :])
        return found

    def advance(self, layer: int, following: int) -> None:
        """Run the layers from this one to before the following one."""
        self._hidden_BTD = self._decoder.blocks(self._hidden_BTD, layer, following, edits=self._edits(slice(None)))

    def _run(self, rows: slice, first: int, stop: int, site: Site) -> Tensor:
        """What a site of the last of these blocks takes or gives, of some of the rows."""
        seen: list[Tensor] = []

        def read(at: Site, layer: int, value_BTX: Tensor) -> None:
            if at == site and layer == stop - 1:
                seen.append(value_BTX)

        self._decoder.blocks(self._hidden_BTD[rows], first, stop, edits=self._edits(rows), at_site=read)
        return seen[0]

    def _edits(self, rows: slice) -> dict:
        return dict(row_edits([Edit(own) for own in self.changes], self._row_group[rows]))
