"""Constrained fine-tuning: Adam on one layer's down-projection, each entry kept near its unedited value.

Covers both perspectives (the view's own prompt towards its own target), single requests and lists written jointly, many
independent edits at once, and both objectives: as released, all target tokens read at the prompt's last position with
weight and bias trained; corrected, teacher forced with the weight alone. It does not cover FT without a layer (all
weights) or a divergence term, which the released code does not have either. It never writes to the model's weights:
what is trained is a change of them in float32, so that precision does not depend on the model's dtype.
Source: docs/protocol.md; golden numbers: tests/reference/{ft,rake_ft}.

Shape letters as in lm/decoder.py, and G group of requests written jointly, A group still trained, S scored token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from artifact.editing.edit import Dense, Edit, Edited, checked_norm
from artifact.editing.methods.ft import FtHparams
from artifact.editing.protocol import Protocol
from artifact.errors import DoesNotFit, EditError, PromptError
from artifact.facts.fact import View, fill
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder, Site
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel

LOSS_FLOOR = 0.01
"""A step is taken while a chunk's loss is at least this; the passes end when their mean is below."""
_CACHED = 2**18
"""Entries of the change that are updated at a time on a CPU: four tensors of 1 MB stay in its cache."""


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
    asked, results = _asked(model, groups, protocol)
    # Prompts of one length together, so that little padding is computed.
    order = sorted(asked, key=lambda g: _longest(asked[g]))
    kept_bytes = 0

    def fitting(left: Sequence[int]) -> int:
        return _fitting(model.decoder, [asked[g] for g in left], hparams, memory.limit - kept_bytes)

    def compute(part: Sequence[int]) -> list[Edited | EditError]:
        tuned = _tune(model.decoder, [asked[g] for g in part], hparams, protocol.ft_bias)
        return [_checked(model.decoder, hparams.layer, change, losses) for change, losses in tuned]

    def alone(g: int) -> list[Edited | EditError]:
        return [
            DoesNotFit(
                f"{len(asked[g])} requests of up to {_longest(asked[g])} tokens, written jointly, do not fit the "
                "device's memory; take a larger device, or fewer facts a group"
            )
        ]

    for part, made in batches(order, fitting, compute, memory, alone):
        results |= dict(zip(part, made, strict=True))
        edits = sum(isinstance(one, Edited) for one in made)
        kept_bytes += edits * _entries(model.decoder, hparams.layer) * model.decoder.dtype.itemsize
    return [results[g] for g in range(len(groups))]


def _asked(
    model: LanguageModel, groups: Sequence[Sequence[View]], protocol: Protocol
) -> tuple[dict[int, list[_Request]], dict[int, Edited | EditError]]:
    """The requests of each group, by its place; an error in the place of one that cannot be asked."""
    asked: dict[int, list[_Request]] = {}
    refused: dict[int, Edited | EditError] = {}
    for g, views in enumerate(groups):
        try:
            asked[g] = [_request(model, view, protocol) for view in views]
        except PromptError as error:
            refused[g] = EditError(str(error))
        else:
            if not views:
                refused[g] = EditError("the group of requests is empty; give at least one view")
                del asked[g]
    return asked, refused


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
    decoder: Decoder, groups: Sequence[Sequence[_Request]], hparams: FtHparams, bias: bool
) -> list[tuple[Dense, list[float]]]:
    """The change, in float32, and each pass's loss for every group; all groups in one batch of rows."""
    trained = [_Trained(decoder, hparams, bias) for _ in groups]
    size = hparams.batch_size
    chunks = [
        _Chunk(decoder, {g: part for g, all_ in enumerate(groups) if (part := all_[at : at + size])}, hparams.layer)
        for at in range(0, max(map(len, groups)), size)
    ]
    losses_G: list[list[float]] = [[] for _ in groups]
    active = list(range(len(groups)))
    for _ in range(hparams.num_steps):
        summed = dict.fromkeys(active, 0.0)
        for chunk in chunks:
            live = {g: trained[g] for g in active if g in chunk.requests}
            for g, loss in zip(live, chunk.step(live) if live else (), strict=True):
                summed[g] += loss * len(chunk.requests[g])
        for g in active:
            losses_G[g].append(summed[g] / len(groups[g]))
        # A loss that is not a number is not above the floor either: its group is an error and goes no further.
        active = [g for g in active if losses_G[g][-1] >= LOSS_FLOOR]
        if not active:
            break
    return [(one.change, losses) for one, losses in zip(trained, losses_G, strict=True)]


class _Trained:
    """One group's change of the weight (I, O) and bias (O,), and of each Adam's averages, in float32.

    first_ holds the average of its gradients and second_ that of their squares, both weighted towards the latest.
    """

    def __init__(self, decoder: Decoder, hparams: FtHparams, bias: bool) -> None:
        name = decoder.family.name("mlp_down", hparams.layer)
        weight, bias_O = decoder.weights[f"{name}.weight"], decoder.weights.get(f"{name}.bias")
        self._hparams, self._steps = hparams, 0
        self._unedited = [weight if decoder.family.input_first else weight.t()]
        if bias and bias_O is not None:
            self._unedited.append(bias_O)
        self._changes, self._first, self._second = (
            [torch.zeros(part.shape, device=decoder.device) for part in self._unedited] for _ in range(3)
        )

    @property
    def change(self) -> Dense:
        return Dense(self._changes[0], self._changes[1] if len(self._changes) > 1 else None)

    def added(self, key_NM: Tensor) -> Tensor:
        """What the change adds to the output (N, D) for these inputs, in their dtype."""
        weight_IO, *bias = (part.to(key_NM.dtype) for part in self._changes)
        return Dense(weight_IO, bias[0] if bias else None).output(key_NM)

    def step(self, key_NM: Tensor, gradient_ND: Tensor) -> None:
        """One step of Adam for the inputs of a pass and the gradient of the output.

        The weight's gradient is their product. On a CPU it is made for a part of the rows at a time, and these are
        updated while they are in its cache: each entry of the change and of its averages is read and written once.
        """
        self._steps += 1
        rows = len(self._changes[0])
        part = rows if key_NM.device.type == "cuda" else max(1, _CACHED // gradient_ND.shape[1])
        for at in range(0, rows, part):
            own = slice(at, at + part)
            self._update(0, own, key_NM[:, own].t() @ gradient_ND)
        if len(self._changes) > 1:
            self._update(1, slice(None), gradient_ND.sum(0))

    def _update(self, number: int, rows: slice, gradient: Tensor) -> None:
        gradient, decay = gradient.float(), self._hparams.weight_decay
        every = self._changes, self._first, self._second
        change, first, second = (parts[number][rows] for parts in every)
        if decay:
            # The decay is of the whole weight, of which only the change is trained.
            gradient.add_(self._unedited[number][rows].to(change.device) + change, alpha=decay)
        before = torch.full((), float(self._steps - 1), device=change.device)
        adam(
            [change], [gradient], [first], [second], [], [before], fused=True, foreach=False, amsgrad=False,
            beta1=0.9, beta2=0.999, lr=self._hparams.lr, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
        if self._hparams.most is not None:
            change.clamp_(-self._hparams.most, self._hparams.most)


class _Chunk:
    """The requests of one step, by group, with what the change leaves as it is: stored once, without gradient.

    That is the down-projection's input (and its output, where the family norms that) and the output of its block; from
    there on every token is computed again.
    """

    def __init__(self, decoder: Decoder, requests: dict[int, Sequence[_Request]], layer: int) -> None:
        self.decoder, self.layer, self.requests = decoder, layer, requests
        seen: dict[Site, Tensor] = {}

        def read(site: Site, at: int, value_1NX: Tensor) -> None:
            if at == layer and (site == "key" or (site == "mlp" and decoder.family.has("mlp_after"))):
                seen[site] = value_1NX[0]

        with torch.no_grad():
            hidden_1ND, aligned = decoder.packed([request.ids for group in requests.values() for request in group])
            hidden_1ND = decoder.blocks(hidden_1ND, 0, layer + 1, aligned=aligned, at_site=read)
        sizes = [sum(len(request.ids) for request in group) for group in requests.values()]
        self._keys = dict(zip(requests, seen["key"].split(sizes), strict=True))
        self._mlp = dict(zip(requests, seen["mlp"].split(sizes), strict=True)) if "mlp" in seen else None
        self._hidden = dict(zip(requests, hidden_1ND[0].split(sizes), strict=True))
        self._read: _Read | None = None

    def step(self, live: Mapping[int, _Trained]) -> list[float]:
        """The mean loss over each live group's requests; those not below the floor take a step."""
        if self._read is None or self._read.live != tuple(live):
            self._read = _Read.of(tuple(live), self.requests, self.decoder.device)
        added_ND = torch.cat([trained.added(self._keys[g]) for g, trained in live.items()]).requires_grad_()
        moved_ND = added_ND
        if self._mlp is not None:
            moved_ND = self.decoder.moved(self.layer, torch.cat([self._mlp[g] for g in live]), added_ND)
        hidden_ND = torch.cat([self._hidden[g] for g in live]) + moved_ND
        loss_A = self._read.losses(self.decoder, self.layer + 1, hidden_ND)
        losses = loss_A.tolist()
        taken = [a for a, loss in enumerate(losses) if loss >= LOSS_FLOOR]
        if taken:
            (gradient_ND,) = torch.autograd.grad(loss_A[taken].sum(), added_ND)
            gradients = gradient_ND.split([len(self._keys[g]) for g in live])
            for a, (g, trained) in enumerate(live.items()):
                if a in taken:  # with a gradient of zero Adam's averages would move the others on
                    trained.step(self._keys[g], gradients[a])
        return losses


@dataclass(frozen=True)
class _Read:
    """Where the live groups' rows are read: read_N, places among all packed tokens, and for each scored token which of
    those.

    weight_S: 1 / (tokens of its target * requests of its group); counts: scored tokens of each group.
    """

    live: tuple[int, ...]
    aligned: Aligned
    read_N: Tensor
    place_S: Tensor
    target_S: Tensor
    weight_S: Tensor
    counts: list[int]

    @classmethod
    def of(cls, live: tuple[int, ...], requests: Mapping[int, Sequence[_Request]], device: torch.device) -> "_Read":
        places: dict[int, int] = {}
        scored: list[tuple[int, int, float]] = []
        lengths, start = [len(request.ids) for g in live for request in requests[g]], 0
        for g in live:
            for request in requests[g]:
                weight = 1 / (len(request.target) * len(requests[g]))
                for token, at in zip(request.target, request.at, strict=True):
                    scored.append((places.setdefault(start + at, len(places)), token, weight))
                start += len(request.ids)
        place_S, target_S, weight_S = (torch.tensor(column, device=device) for column in zip(*scored, strict=True))
        counts = [sum(len(request.target) for request in requests[g]) for g in live]
        aligned, read_N = Aligned.packed(lengths, device), torch.tensor(list(places), device=device)
        return cls(live, aligned, read_N, place_S, target_S, weight_S, counts)

    def losses(self, decoder: Decoder, first: int, hidden_ND: Tensor) -> Tensor:
        """Each group's mean loss (A,), from the states entering block `first`."""
        hidden_1ND = decoder.blocks(hidden_ND[None], first, aligned=self.aligned, read_N=self.read_N)
        log_NV = decoder.logits(hidden_1ND[0]).log_softmax(-1)
        nll_S = -log_NV[self.place_S, self.target_S] * self.weight_S
        return torch.stack([part.sum() for part in nll_S.split(self.counts)])


def _longest(group: Sequence[_Request]) -> int:
    return max(len(request.ids) for request in group)


def _entries(decoder: Decoder, layer: int) -> int:
    """Entries of the down-projection's weight and, where it has one, bias."""
    name = decoder.family.name("mlp_down", layer)
    parts = (decoder.weights.get(f"{name}.{part}") for part in ("weight", "bias"))
    return sum(part.numel() for part in parts if part is not None)


def _fitting(decoder: Decoder, groups: Sequence[Sequence[_Request]], hparams: FtHparams, limit: int) -> int:
    """How many of the groups, shortest first, fit `limit` bytes together, at least one.

    A group takes its change, Adam's two averages and one to spare, in float32, and one at a time a gradient; a row of
    a step what a block keeps for its gradient (about 16 D a token) and its logits with theirs; a row of any step its
    stored input.
    """
    entries, size = _entries(decoder, hparams.layer), decoder.dtype.itemsize
    fixed, step_rows, stored_rows, reads = 4 * entries, 0, 0, 0
    for count, group in enumerate(groups):
        fixed += 4 * 4 * entries
        step_rows += min(len(group), hparams.batch_size)
        stored_rows += len(group)
        reads += sum(len(set(request.at)) for request in group[: hparams.batch_size])
        token = size * 16 * decoder.width * (decoder.layers - hparams.layer)
        stored = size * (entries // decoder.width + decoder.width)
        rows = _longest(group) * (step_rows * token + stored_rows * stored)
        if count and fixed + rows + 4 * 4 * reads * len(decoder.head_VD) > limit:
            return count
    return len(groups)
