"""The passes of the value optimisation: what no delta changes is computed once, a step takes the rest.

Covers deltas at different layers in one pass: rows join it at their layer, as a trace's do (tracing/sweep.py), so that
a pass through a block takes every row that is at or above its own. In a block whose MLP reads the attention's output, a
delta there changes that MLP's output at its own token alone. A row carries the tokens that its delta reaches: those
from the lookup position on, in an encoder all.

Shape letters as in lm/decoder.py, and F delta: a fact at a layer, A delta still optimised, N packed tokens, S scored
target token.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from artifact.editing.objective import Objective, Row, until_lookup
from artifact.editing.site import Module
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder, LayerKeys, Site


@dataclass(frozen=True)
class Stored:
    """What no delta changes: of every objective's rows, once, whatever layers it is optimised for.

    `rows` are those of all different objectives, `own` those of each delta by number, `layers` the layer of each delta.
    after: by layer, states (1, N, D) after the block, of all rows' tokens from the first one that a delta reaches on,
    packed; output and entry: by layer, the outputs of the module `site` and the states (B, D) that they are added to at
    the lookup position, where a change of the output is not simply added to the state after the block; left: by layer,
    keys and values of the tokens before these.
    """

    site: Module
    aligned: Callable[[Sequence[int], Sequence[int]], Aligned]
    rows: Sequence[Row]
    own: Sequence[range]
    layers: Sequence[int]
    loss_layer: int
    after: Mapping[int, Tensor]
    output: Mapping[int, Tensor]
    entry: Mapping[int, Tensor]
    left: Mapping[int, LayerKeys]

    @classmethod
    @torch.no_grad()
    def of(
        cls, decoder: Decoder, site: Module, layers: Sequence[int], loss_layer: int, objectives: Sequence[Objective]
    ) -> "Stored":
        """One unedited pass over all rows; above the highest layer, over the tokens that no delta reaches."""
        place: dict[Objective, range] = {}
        rows: list[Row] = []
        for one in objectives:
            if one not in place:
                # The kept prompt is read at its lookup position.
                place[one] = range(len(rows), len(rows) + len(one.rows) + 1)
                rows += [*one.rows, until_lookup(one.kept)]
        passed = _Unedited(decoder, site, rows)
        passed.up(sorted(set(layers)), loss_layer)
        own = [place[one] for one in objectives]
        stored = passed.after, passed.output, passed.entry, passed.left
        return cls(site, decoder.aligned, rows, own, layers, loss_layer, *stored)


class _Unedited:
    """The unedited pass: `after`, `output`, `entry` and `left` as in Stored."""

    def __init__(self, decoder: Decoder, site: Module, rows: Sequence[Row]) -> None:
        self._decoder, self._site = decoder, site
        family = decoder.family
        normed = family.has(f"{site}_after") or family.has(f"{site}_sum")
        self._kept = normed or (site == "attn" and not family.parallel)
        self._hidden_1ND, self._whole = decoder.packed([row.ids for row in rows])
        self._first = [row.first for row in rows]
        device = decoder.device
        self._before_N = torch.tensor([at < row.first for row in rows for at in range(len(row.ids))], device=device)
        starts = accumulate((len(row.ids) for row in rows), initial=0)
        self._lookup_N = torch.tensor([at + row.lookup for at, row in zip(starts, rows, strict=False)], device=device)
        self.after: dict[int, Tensor] = {}
        self.output: dict[int, Tensor] = {}
        self.entry: dict[int, Tensor] = {}
        self.left: dict[int, LayerKeys] = {}

    def up(self, layers: Sequence[int], loss_layer: int) -> None:
        """All tokens up to the highest of the layers, and those that no delta reaches up to `loss_layer`."""
        for layer in range(layers[-1] + 1):
            keys = self._block(layer, layer in layers)
            if layer > layers[0] and any(self._first):
                longest = max(self._first)
                self.left[layer] = (keys[0][:, :, :longest].clone(), keys[1][:, :, :longest].clone())
        if not any(self._first):
            return
        device = self._decoder.device
        aligned, hidden_1ND = self._decoder.aligned(self._first), self._hidden_1ND[:, self._before_N]
        for above in range(layers[-1] + 1, loss_layer + 1):
            # Of the last block only keys and values are needed.
            none = torch.zeros(0, dtype=torch.long, device=device) if above == loss_layer else None
            hidden_1ND, self.left[above] = self._decoder.block(above, hidden_1ND, aligned=aligned, read_N=none)

    def _block(self, layer: int, kept: bool) -> LayerKeys:
        """One block over all tokens; its states are kept where a delta is at its layer."""
        seen: dict[Site, Tensor] = {}

        def read(site: Site, at: int, value_1NX: Tensor) -> None:
            if site in ("attn", self._site):
                seen[site] = value_1NX[0, self._lookup_N]

        entering_1ND, reads = self._hidden_1ND, kept and self._kept
        self._hidden_1ND, keys = self._decoder.block(
            layer, entering_1ND, aligned=self._whole, at_site=read if reads else None
        )
        if kept:
            self.after[layer] = self._hidden_1ND[:, ~self._before_N]
        if reads:
            entry_BD = entering_1ND[0, self._lookup_N]
            if self._site == "mlp":
                entry_BD = self._decoder.summed("attn", layer, entry_BD, seen["attn"])
            self.entry[layer], self.output[layer] = entry_BD, seen[self._site]
        return keys


@dataclass(frozen=True)
class _Group:
    """The rows of one layer's deltas, which join the pass after that layer's block, and the blocks up to the next
    group's.

    hidden_1ND: their states after the block; output_BD and entry_BD: Stored's of them, or None; start_N: the place of
    their lookup tokens in hidden_1ND; rows: their places among all rows. `past` and `aligned` are of all rows so far;
    read_N: the tokens read at the end of the last block, of all rows so far, or of this group's alone where it joins
    after the last block.
    """

    site: Module
    layer: int
    stop: int
    hidden_1ND: Tensor
    output_BD: Tensor | None
    entry_BD: Tensor | None
    start_N: Tensor
    rows: slice
    past: Mapping[int, LayerKeys]
    aligned: Aligned
    read_N: Tensor | None

    def joined(self, decoder: Decoder, added_BD: Tensor, mlp_BD: Tensor | None) -> Tensor:
        """The group's states (1, N, D) after its block, with its deltas added to the module's output, and where that is
        the attention's, `mlp_BD` to the MLP's.
        """
        if self.output_BD is None or self.entry_BD is None:
            added_BD = added_BD if mlp_BD is None else added_BD + mlp_BD
            return self.hidden_1ND.index_add(1, self.start_N, added_BD[None])
        state_BD = decoder.summed(self.site, self.layer, self.entry_BD, self.output_BD + added_BD)
        if self.site == "mlp":
            return self.hidden_1ND.index_copy(1, self.start_N, state_BD[None])

        def add(site: Site, at: int, value_BD: Tensor) -> Tensor | None:
            return value_BD + mlp_BD if site == "mlp" and mlp_BD is not None else None

        out_BD = decoder.after_attention(self.layer, state_BD, {}, add)
        return self.hidden_1ND.index_copy(1, self.start_N, out_BD[None])


class _Rows:
    """The rows of a batch while they are put together: `number_B` among the stored ones, `fact_B` of which delta, and
    what is read of them: `scored` (place among what is read, token, place of the delta, weight, row), `kept` by delta.
    """

    def __init__(self, stored: Stored, active: Sequence[int]) -> None:
        self._stored, self._place = stored, {fact: a for a, fact in enumerate(active)}
        lengths = [len(row.ids) - row.first for row in stored.rows]
        self._start_B = list(accumulate(lengths, initial=0))
        self._joined = self._reads = 0
        self.number_B: list[int] = []
        self.fact_B: list[int] = []
        self.scored: list[tuple[int, int, int, float, int]] = []
        self.kept: dict[int, int] = {}

    def join(self, facts: Sequence[int]) -> None:
        """The rows of these deltas come after those that are there."""
        self._joined = len(self.number_B)
        for fact in facts:
            self.number_B += self._stored.own[fact]
            self.fact_B += [fact] * len(self._stored.own[fact])

    def group(self, layer: int, stop: int, late: bool) -> _Group:
        """The rows that joined last; `late` where they join others after the last block."""
        stored, new = self._stored, slice(self._joined, len(self.number_B))
        after_1ND, device = stored.after[layer], stored.after[layer].device
        rows, own = [stored.rows[b] for b in self.number_B], self.number_B[new]
        lengths, first = [len(row.ids) - row.first for row in rows], [row.first for row in rows]
        start_B = accumulate(lengths[new], initial=0)
        lookups = [at + row.lookup - row.first for at, row in zip(start_B, rows[new], strict=False)]
        if own != list(range(len(stored.rows))):  # a copy of all would take memory for nothing
            every = [at for b in own for at in range(self._start_B[b], self._start_B[b + 1])]
            after_1ND = after_1ND[:, torch.tensor(every, device=device)]
        own_B = torch.tensor(own, device=device)
        output_BD, entry_BD = (at[layer][own_B] if layer in at else None for at in (stored.output, stored.entry))
        reads = self._read(lengths, late) if stop == stored.loss_layer + 1 else None
        return _Group(
            site=stored.site,
            layer=layer,
            stop=stop,
            hidden_1ND=after_1ND,
            output_BD=output_BD,
            entry_BD=entry_BD,
            start_N=torch.tensor(lookups, device=device),
            rows=new,
            past=self._past(layer + 1, stop, max(first)),
            aligned=stored.aligned(lengths, first),
            read_N=None if reads is None else torch.tensor(reads, device=device),
        )

    def _past(self, first: int, stop: int, longest: int) -> dict[int, LayerKeys]:
        """Stored keys and values of all rows so far, in these layers."""
        left = self._stored.left
        if self.number_B == list(range(len(self._stored.rows))) or not left:
            return {layer: left[layer] for layer in range(first, stop)} if left else {}
        number_B = torch.tensor(self.number_B, device=next(iter(left.values()))[0].device)
        parts = {
            layer: [part[number_B.to(part.device), :, :longest] for part in left[layer]] for layer in range(first, stop)
        }
        return {layer: (key, value) for layer, (key, value) in parts.items()}

    def _read(self, lengths: Sequence[int], late: bool) -> list[int]:
        """Places of the tokens read of the rows not read yet: scored ones first, then those of the kept prompts."""
        start_B = list(accumulate(lengths, initial=0))
        skipped = start_B[self._joined] if late else 0
        unread = range(self._joined if late else 0, len(self.number_B))
        prompts = Counter(self.fact_B[b] for b in unread if self._stored.rows[self.number_B[b]].target)
        places: list[int] = []
        for b in unread:
            row, fact = self._stored.rows[self.number_B[b]], self.fact_B[b]
            for j, token in enumerate(row.target):
                weight = 1 / (row.divisor * prompts[fact])
                self.scored.append((self._reads + len(places), token, self._place[fact], weight, b))
                places.append(start_B[b] + row.read - row.first + j - skipped)
        for b in unread:
            row = self._stored.rows[self.number_B[b]]
            if not row.target:
                self.kept[self.fact_B[b]] = self._reads + len(places)
                places.append(start_B[b] + row.read - row.first - skipped)
        self._reads += len(places)
        return places


@dataclass(frozen=True)
class Batch:
    """The rows of the deltas still optimised (A of them), of the tokens that these reach, lowest layer first.

    live_A: the deltas; fact_B: each row's; at_S, target_S, fact_S, weight_S and row_S: the place of each scored token's
    prediction among what is read, the token, the place of its delta among the A, its weight in its mean, and its row;
    kept_A: the places of the kept prompts' predictions.
    """

    groups: Sequence[_Group]
    live_A: Tensor
    fact_B: Tensor
    at_S: Tensor
    target_S: Tensor
    fact_S: Tensor
    weight_S: Tensor
    row_S: Tensor
    kept_A: Tensor

    @classmethod
    def of(cls, stored: Stored, active: Sequence[int]) -> "Batch":
        """The batch of these deltas."""
        device = next(iter(stored.after.values())).device
        layers = sorted({stored.layers[fact] for fact in active})
        rows, groups = _Rows(stored, active), list[_Group]()
        for layer, following in zip(layers, [*layers[1:], stored.loss_layer], strict=True):
            rows.join([fact for fact in active if stored.layers[fact] == layer])
            groups.append(rows.group(layer, following + 1, late=bool(groups) and layer == stored.loss_layer))
        at_S, target_S, fact_S, weight_S, row_S = zip(*rows.scored, strict=True)
        return cls(
            groups=groups,
            live_A=torch.tensor(active, device=device),
            fact_B=torch.tensor(rows.fact_B, device=device),
            at_S=torch.tensor(at_S, device=device),
            target_S=torch.tensor(target_S, device=device),
            fact_S=torch.tensor(fact_S, device=device),
            weight_S=torch.tensor(weight_S, dtype=torch.float32, device=device),
            row_S=torch.tensor(row_S, device=device),
            kept_A=torch.tensor([rows.kept[fact] for fact in active], device=device),
        )

    def read(self, decoder: Decoder, delta_FD: Tensor) -> tuple[Tensor, Tensor]:
        """The mean NLL of each live delta's targets (A,) and the kept prompts' log-probabilities (A, V)."""
        log_NV = self.logs(decoder, delta_FD)
        nll_S = -log_NV[self.at_S, self.target_S] * self.weight_S
        return nll_S.new_zeros(len(self.kept_A)).index_add(0, self.fact_S, nll_S), log_NV[self.kept_A]

    def logs(self, decoder: Decoder, delta_FD: Tensor, mlp_FD: Tensor | None = None) -> Tensor:
        """The log-probabilities (N, V) of all that is read; `mlp_FD` are second deltas, of the MLP's output, where the
        first are of the attention's.
        """
        hidden_1ND: Tensor | None = None
        added_BD = delta_FD[self.fact_B].to(self.groups[0].hidden_1ND.dtype)
        mlp_BD = None if mlp_FD is None else mlp_FD[self.fact_B].to(added_BD.dtype)
        for group in self.groups:
            joined_1ND = group.joined(decoder, added_BD[group.rows], None if mlp_BD is None else mlp_BD[group.rows])
            if hidden_1ND is not None and group.layer + 1 == group.stop:
                # After the last block, where of the others only what is read is left.
                hidden_1ND = torch.cat((hidden_1ND, joined_1ND[:, group.read_N]), 1)
                continue
            hidden_1ND = joined_1ND if hidden_1ND is None else torch.cat((hidden_1ND, joined_1ND), 1)
            hidden_1ND = decoder.blocks(
                hidden_1ND, group.layer + 1, group.stop, past=group.past, aligned=group.aligned, read_N=group.read_N
            )
        assert hidden_1ND is not None
        return decoder.logits(hidden_1ND[0]).log_softmax(-1)
