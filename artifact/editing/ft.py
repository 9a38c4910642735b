"""Constrained fine-tuning: Adam on one layer's down-projection, each entry kept near its unedited value.

Covers both perspectives (the view's own prompt towards its own target), single requests and lists written jointly, many
independent edits at once, and both objectives: as released, all target tokens read at the prompt's last position with
weight and bias trained; corrected, teacher forced with the weight alone. It does not cover FT without a layer (all
weights) or a divergence term, which the released code does not have either. It never writes to the model's weights:
what is trained is a change of them in float32, so that precision does not depend on the model's dtype.
Source: docs/protocol.md; golden numbers: tests/reference/{ft,rake_ft}.

Shape letters as in lm/decoder.py, and G group of requests written jointly, N read position, S scored target token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.edit import Dense, Edit, Edited, checked_norm
from artifact.editing.methods.ft import FtHparams
from artifact.editing.protocol import Protocol
from artifact.errors import DoesNotFit, EditError, PromptError
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Decoder, Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

LOSS_FLOOR = 0.01
"""A step is taken while a chunk's loss is at least this; the passes end when their mean is below."""


@dataclass(frozen=True)
class _Request:
    """A prompt's tokens as they are fed, and the target: token j is scored by the logits at position at[j]."""

    ids: tuple[int, ...]
    target: tuple[int, ...]
    at: tuple[int, ...]


def ft(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: FtHparams,
    protocol: Protocol,
    memory: Memory | None = None,
) -> list[Edited | EditError]:
    """An edit for each group of views, as if each were the only one; an EditError in the place of one that fails.

    A group's views are written jointly into one dense change of the down-projection of `hparams.layer` (weight (M, D)
    in (input, output) orientation, bias (D,) where protocol.ft_bias and the layer has one). `losses` holds each pass's
    mean loss over the group's requests, each request's the mean over its target's tokens. Groups go in batches that
    fit `memory`.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    found: dict[int, Edited | EditError] = {}
    asked: dict[int, list[_Request]] = {}
    for g, views in enumerate(groups):
        try:
            asked[g] = [_request(model, view, protocol) for view in views]
        except PromptError as error:
            found[g] = EditError(str(error))
        else:
            if not views:
                found[g] = EditError("the group of requests is empty; give at least one view")
                del asked[g]

    # Prompts of one length together, so that little padding is computed.
    order = sorted(asked, key=lambda g: _longest(asked[g]))
    kept_bytes = 0

    def fitting(left: Sequence[int]) -> int:
        return _fitting(model.decoder, [asked[g] for g in left], hparams, memory.limit - kept_bytes)

    def compute(part: Sequence[int]) -> list[Edited | EditError]:
        tuned = _tune(model.decoder, model.tokens.end_id, [asked[g] for g in part], hparams, protocol.ft_bias)
        return [_checked(model.decoder, hparams.layer, change, losses) for change, losses in tuned]

    def alone(g: int) -> list[Edited | EditError]:
        return [
            DoesNotFit(
                f"{len(asked[g])} requests of up to {_longest(asked[g])} tokens, written jointly, do not fit the "
                "device's memory; take a larger device, or fewer facts a group"
            )
        ]

    for part, made in batches(order, fitting, compute, memory, alone):
        found |= dict(zip(part, made, strict=True))
        edits = sum(isinstance(one, Edited) for one in made)
        kept_bytes += edits * _entries(model.decoder, hparams.layer) * model.decoder.dtype.itemsize
    return [found[g] for g in range(len(groups))]


def _request(model: LanguageModel, view: View, protocol: Protocol) -> _Request:
    """What is fed and read for one view; PromptError when the model cannot be asked with it."""
    text = fill(view.template, view.subject)
    prompt = model.tokens.encode(text)
    target = tuple(model.tokens.continuation(f" {view.target}"))
    last = len(prompt.ids) - 1
    if protocol.ft_at_last_position:
        return _Request(prompt.ids, target, (last,) * len(target))
    return _Request(model.tokens.fed(prompt, target), target, tuple(range(last, last + len(target))))


def _checked(decoder: Decoder, layer: int, change: Dense, losses: Sequence[float]) -> Edited | EditError:
    """The edit of a change; an error where nothing was changed, or it or its loss is not finite."""
    name = decoder.family.name("mlp_down", layer)
    if losses[0] < LOSS_FLOOR and not change.norm():
        return EditError(
            f"the model already says so: the loss was already below {LOSS_FLOOR} ({losses[0]:.2g}) before the first "
            "step, so nothing was changed; give a target that it does not say yet"
        )
    assert change.weight_IO is not None
    bias_O = None if change.bias_O is None else change.bias_O.to(decoder.dtype)
    edit = Edit({name: Dense(change.weight_IO.to(decoder.dtype), bias_O)})
    try:
        return Edited(edit=edit, norm=checked_norm(edit, losses), losses=losses)
    except EditError as error:
        return error


def _tune(
    decoder: Decoder, end_id: int, groups: Sequence[Sequence[_Request]], hparams: FtHparams, bias: bool
) -> list[tuple[Dense, list[float]]]:
    """The change, in float32, and each pass's loss for every group; all groups in one batch of rows."""
    weight = decoder.weights[f"{decoder.family.name('mlp_down', hparams.layer)}.weight"]
    bias_O = decoder.weights.get(f"{decoder.family.name('mlp_down', hparams.layer)}.bias")
    weight_IO = weight if decoder.family.input_first else weight.t()
    unedited = [weight_IO, bias_O] if bias and bias_O is not None else [weight_IO]
    changes_G = [
        [torch.zeros(part.shape, device=decoder.device, requires_grad=True) for part in unedited] for _ in groups
    ]
    # Fused, Adam keeps no more than its two moments; elsewhere one tensor at a time does the same.
    optimiser = torch.optim.Adam(
        [change for changes in changes_G for change in changes], lr=hparams.lr, fused=decoder.device.type == "cuda"
    )
    size = hparams.batch_size
    chunks = [
        _Chunk(decoder, end_id, {g: part for g, all_ in enumerate(groups) if (part := all_[at : at + size])}, hparams)
        for at in range(0, max(map(len, groups)), size)
    ]
    losses_G: list[list[float]] = [[] for _ in groups]
    active = list(range(len(groups)))
    for _ in range(hparams.num_steps):
        summed = dict.fromkeys(active, 0.0)
        for chunk in chunks:
            live = [g for g in active if g in chunk.requests]
            if not live:
                continue
            loss_A = chunk.losses(live, [_dense(changes_G[g]) for g in live])
            values = loss_A.tolist()
            for g, value in zip(live, values, strict=True):
                summed[g] += value * len(chunk.requests[g])
            taken = [a for a, value in enumerate(values) if value >= LOSS_FLOOR]
            if not taken:
                continue
            optimiser.zero_grad()
            loss_A[taken].sum().backward()
            moving = {live[a] for a in taken}
            for g, changes in enumerate(changes_G):
                for change, start in zip(changes, unedited, strict=True):
                    if g not in moving:
                        # Without a gradient Adam leaves it alone; with a zero one its momentum would move it on.
                        change.grad = None
                    elif hparams.weight_decay and change.grad is not None:
                        # The decay is of the whole weight, of which only the change is trained.
                        change.grad.add_(start + change.detach(), alpha=hparams.weight_decay)
            optimiser.step()
            if hparams.most is not None:
                with torch.no_grad():
                    for g in moving:
                        for change in changes_G[g]:
                            change.clamp_(-hparams.most, hparams.most)
        for g in active:
            losses_G[g].append(summed[g] / len(groups[g]))
        # A loss that is not a number is not above the floor either: its group is an error and goes no further.
        active = [g for g in active if losses_G[g][-1] >= LOSS_FLOOR]
        if not active:
            break
    return [
        (_dense([change.detach() for change in changes]), losses)
        for changes, losses in zip(changes_G, losses_G, strict=True)
    ]


def _dense(changes: Sequence[Tensor]) -> Dense:
    return Dense(changes[0], changes[1] if len(changes) > 1 else None)


class _Chunk:
    """The requests of one step, by group, with what the change leaves as it is: stored once, without gradient.

    That is the down-projection's input and the output of its block; from there on every token is computed again.
    """

    def __init__(
        self, decoder: Decoder, end_id: int, requests: dict[int, Sequence[_Request]], hparams: FtHparams
    ) -> None:
        self.decoder, self.layer, self.requests = decoder, hparams.layer, requests
        rows = [request.ids for group in requests.values() for request in group]
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[end_id] * (width - len(row))] for row in rows], device=decoder.device)
        seen: list[Tensor] = []

        def read(site: Site, layer: int, value: Tensor) -> None:
            if site == "key" and layer == self.layer:
                seen.append(value)

        with torch.no_grad():
            hidden_BTD = decoder.blocks(decoder.embed(decoder.words(ids_BT)), 0, self.layer + 1, at_site=read)
        sizes = [len(group) for group in requests.values()]
        self._keys = dict(zip(requests, seen[0].split(sizes), strict=True))
        self._hidden = dict(zip(requests, hidden_BTD.split(sizes), strict=True))
        self._read: _Read | None = None

    def losses(self, live: Sequence[int], changes: Sequence[Dense]) -> Tensor:
        """The mean loss over each live group's requests (A,), with its own change."""
        if self._read is None or self._read.live != tuple(live):
            self._read = _Read.of(live, self.requests, self.decoder.device)
        read, parts = self._read, []
        for g, change in zip(live, changes, strict=True):
            assert change.weight_IO is not None
            dtype = self.decoder.dtype
            cast = Dense(change.weight_IO.to(dtype), None if change.bias_O is None else change.bias_O.to(dtype))
            parts.append(self._hidden[g] + cast.output(self._keys[g]))
        hidden_BTD = self.decoder.blocks(torch.cat(parts), self.layer + 1)
        log_NV = self.decoder.logits(hidden_BTD[read.row_N, read.at_N]).log_softmax(-1)
        nll_S = -log_NV[read.read_S, read.target_S] * read.weight_S
        return torch.stack([part.sum() for part in nll_S.split(read.counts)])


@dataclass(frozen=True)
class _Read:
    """Where the live groups' rows are read: N positions (row, token), and for each scored token which of those.

    weight_S: 1 / (tokens of its target * requests of its group); counts: scored tokens of each group.
    """

    live: tuple[int, ...]
    row_N: Tensor
    at_N: Tensor
    read_S: Tensor
    target_S: Tensor
    weight_S: Tensor
    counts: list[int]

    @classmethod
    def of(cls, live: Sequence[int], requests: dict[int, Sequence[_Request]], device: torch.device) -> "_Read":
        places: dict[tuple[int, int], int] = {}
        scored: list[tuple[int, int, float]] = []
        counts, row = [], 0
        for g in live:
            before = len(scored)
            for request in requests[g]:
                weight = 1 / (len(request.target) * len(requests[g]))
                for token, at in zip(request.target, request.at, strict=True):
                    scored.append((places.setdefault((row, at), len(places)), token, weight))
                row += 1
            counts.append(len(scored) - before)
        row_N, at_N = (torch.tensor(column, device=device) for column in zip(*places, strict=True))
        read_S, target_S, weight_S = (torch.tensor(column, device=device) for column in zip(*scored, strict=True))
        return cls(tuple(live), row_N, at_N, read_S, target_S, weight_S, counts)


def _longest(group: Sequence[_Request]) -> int:
    return max(len(request.ids) for request in group)


def _entries(decoder: Decoder, layer: int) -> int:
    """Entries of the down-projection's weight and, where it has one, bias."""
    name = decoder.family.name("mlp_down", layer)
    parts = (decoder.weights.get(f"{name}.{part}") for part in ("weight", "bias"))
    return sum(part.numel() for part in parts if part is not None)


def _fitting(decoder: Decoder, groups: Sequence[Sequence[_Request]], hparams: FtHparams, limit: int) -> int:
    """How many of the groups, shortest first, fit `limit` bytes together, at least one.

    A group takes its change, the gradient, Adam's two moments and one to spare, in float32; a row of a step what a
    block keeps for its gradient (about 16 D a token) and its logits with theirs; a row of any step its stored input.
    """
    entries, size = _entries(decoder, hparams.layer), decoder.dtype.itemsize
    fixed, step_rows, stored_rows, reads = 0, 0, 0, 0
    for count, group in enumerate(groups):
        fixed += 5 * 4 * entries
        step_rows += min(len(group), hparams.batch_size)
        stored_rows += len(group)
        reads += sum(len(set(request.at)) for request in group[: hparams.batch_size])
        token = size * 16 * decoder.width * (decoder.layers - hparams.layer)
        stored = size * (entries // decoder.width + decoder.width)
        rows = _longest(group) * (step_rows * token + stored_rows * stored)
        if count and fixed + rows + 4 * 4 * reads * len(decoder.head_VD) > limit:
            return count
    return len(groups)
