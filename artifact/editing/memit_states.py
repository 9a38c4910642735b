"""What MEMIT and PMET read on a fact's prompts: their rows, and MEMIT's states on the way up through the layers.

Shape letters as in lm/decoder.py, and F fact, P prefix.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from artifact.editing.objective import Row, fact_row, until_lookup
from artifact.editing.site import PROJECTIONS, FactToken, Module
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Site
from artifact.lm.load import LanguageModel


class Asked(NamedTuple):
    """A group of views written jointly, and their prompts' rows up to the edited token: with every prefix, and
    bare.
    """

    views: Sequence[View]
    prefixed: Sequence[Row]
    bare: Sequence[Row]


def asked(model: LanguageModel, views: Sequence[View], flat: Sequence[str], token: FactToken) -> Asked:
    """A group of views with the rows of its prompts; `flat` are the prefixes of all groups of them."""

    def until(template: str, view: View) -> Row:
        return until_lookup(fact_row(model, template, view.subject, token=token))

    return Asked(
        views,
        [until(fill(t, view.template), view) for view in views for t in flat],
        [until(view.template, view) for view in views],
    )


class States:
    """The rows' states on their way up: entering a layer, or after it once `block` has run, with its change added.

    Rows are every fact's prompts with its prefixes, group by group, then every fact's bare prompt; sizes: facts of each
    group; row_group: each row's group.
    """

    def __init__(self, model: LanguageModel, groups: Sequence[Asked], prefixes: int, site: Module, layer: int) -> None:
        self._decoder, self._key = model.decoder, PROJECTIONS[site].key
        self._enters = site == "attn" and not model.decoder.family.parallel
        self.sizes = [len(group.views) for group in groups]
        group_F = [number for number, size in enumerate(self.sizes) for _ in range(size)]
        self.row_group = [number for number in group_F for _ in range(prefixes)] + group_F
        self._bare = prefixes * len(group_F)
        inputs = [row for group in groups for row in group.prefixed] + [row for group in groups for row in group.bare]
        self._lookup_B = torch.tensor([row.lookup for row in inputs], device=self._decoder.device)
        word_BTD = self._decoder.words(model.tokens.pad([row.ids for row in inputs], self._decoder.device))
        self._hidden_BTD = self._decoder.blocks(self._decoder.embed(word_BTD), 0, layer)
        self._entry_BTD = self._hidden_BTD

    def block(self, layer: int) -> Tensor:
        """Run one block over all rows; returns the inputs of the edited projection (B, T, M)."""
        key_BTM, self._entry_BTD, self._hidden_BTD = self._run(layer, self._hidden_BTD)
        return key_BTM

    def _run(self, layer: int, hidden_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One block's key (B, T, M), the state that the module's output is added to, and the block's output."""
        seen: dict[Site, Tensor] = {}

        def read(site: Site, at: int, value_BTX: Tensor) -> None:
            if site in (self._key, "attn"):
                seen[site] = value_BTX

        after_BTD, _ = self._decoder.block(layer, hidden_BTD, at_site=read)
        return seen[self._key], hidden_BTD + seen["attn"] if self._enters else after_BTD, after_BTD

    def prefixed(self, value_BTX: Tensor) -> Tensor:
        """Values at the lookup positions of the prompts with prefixes."""
        return at_lookups(value_BTX[: self._bare], self._lookup_B[: self._bare])

    def at_last(self, first: int, stop: int) -> Tensor:
        """States (F, D) of layer stop-1 at the lookup position of every fact's bare prompt; nothing is kept of it.

        The rows' states stand before block `first`, or in the block just run where that is `stop`.
        """
        entry_FTD = self._entry_BTD[self._bare :]
        if first < stop:
            before_FTD = self._decoder.blocks(self._hidden_BTD[self._bare :], first, stop - 1)
            _, entry_FTD, _ = self._run(stop - 1, before_FTD)
        return at_lookups(entry_FTD, self._lookup_B[self._bare :])

    def add(self, layer: int, added_BTD: Tensor) -> None:
        """A change of the layer just run adds this to its module's output."""
        self._entry_BTD = self._entry_BTD + added_BTD
        entry_BTD = self._entry_BTD
        self._hidden_BTD = self._decoder.after_attention(layer, entry_BTD, {}) if self._enters else entry_BTD

    def advance(self, first: int, stop: int) -> None:
        """Run the unedited layers first..stop-1 over all rows."""
        self._hidden_BTD = self._decoder.blocks(self._hidden_BTD, first, stop)


def at_lookups(value_BTX: Tensor, at_B: Tensor) -> Tensor:
    """Each row's value at its own position (B, X)."""
    return value_BTX[torch.arange(len(at_B), device=at_B.device), at_B]


def grouped_mean(rows_BM: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean over groups of the mean within each group of prefixes: (F * prefixes, M) to (F, M)."""
    per_fact_FPM = rows_BM.unflatten(0, (-1, sum(sizes)))
    return torch.stack([part_FPM.mean(1) for part_FPM in per_fact_FPM.split(list(sizes), dim=1)]).mean(0)
