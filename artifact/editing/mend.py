"""MEND: a trained network turns the gradient of an edit's loss into the change of a few layers' MLP weights.

Covers the gradients that the network reads and the edits it gives, many groups at once; a group is the list of requests
written jointly, mostly one. Both perspectives feed `prompt + " " + target`; the relation perspective, as released, its
"add" prompt towards the relation.

Inner weights are the two projections of each edited layer's MLP, lowest layer first, in `MendHparams.inner_order`; of
a gated MLP (Llama) the up-projection and the down-projection, while the gate stays as it is. Per
inner weight and token: x, the layer's input, and delta, the gradient of the group's mean NLL with respect to the
layer's output. The network of the weight's shape gives x~ and delta~; step * x~^T delta~ is added to the weight.
As released, rows are normalised by all rows of the edits made before and so far (mend_history.py); corrected, by the
file's statistics, and then no edit depends on another.
Source: docs/protocol.md; golden numbers: tests/reference/{mend,mend_released}, 1e-4 relative.

The published code adds a [PAD] token, so that the softmax runs over one more logit. Where the output layer is the
embedding (GPT-2) that row is the file's `pad_embedding`, or the mean of the embedding's rows, as the published code
sets it. GPT-J's output layer is its own: there the published code leaves a fresh random row with mean zero, which no
file keeps, and a logit of zero, its mean, stands in. (A resize to a tokenizer of 50257 entries would also cut GPT-J's
143 unused rows off; they are kept here.)

Shape letters as in lm/decoder.py, and N row (a token of a request), E the sum of I and O, S inner weights of one shape,
W inner weight.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.edit import Edit, Edited, LowRank, checked_norm
from artifact.editing.mend_gradients import BATCH_TOKENS, InnerWeight, Request, inner_gradients
from artifact.editing.mend_history import History
from artifact.editing.mend_network import Network
from artifact.editing.methods.mend import MendHparams
from artifact.editing.protocol import Protocol
from artifact.errors import EditError, PromptError, SettingError
from artifact.facts.fact import View, fill
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


@dataclass(frozen=True, kw_only=True)
class MendEdit(Edited):
    """An edit and its rank: the most rows, that is tokens with a gradient, that any inner weight's change has."""

    rank: int

    def told(self) -> dict[str, float | int]:
        return {**super().told(), "rank": self.rank}


def mend(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: MendHparams,
    network: Network,
    protocol: Protocol,
    history: History | None = None,
    memory: Memory | None = None,
) -> list[MendEdit | EditError]:
    """An edit for each group of requests; an EditError in the place of a failed one.

    With protocol.mend_training_mode the groups are edited one after the other, `history` being what the edits before
    them have left (None: nothing); it then holds these groups' rows too. Otherwise each edit is as if it were
    the only one. An edit keeps two factors per inner weight, of the rows' widths: 4 MB for a fact of GPT-2 XL.
    `network` must be on the model's device. Raises SettingError for a network that does not fit the model.
    """
    decoder = model.decoder
    inner = inner_weights(decoder, hparams)
    check_fit(network, inner, decoder)
    learned = network.edit_lrs.tolist()
    step_W = [learned[e] * hparams.lr_scale for e in step_order(inner, protocol.mend_steps_swapped)]
    training = (history or History()) if protocol.mend_training_mode else None
    reads = _reads(model, groups, inner, network, memory)
    with torch.no_grad():
        factors = _factors(reads, inner, network, training)
    results: list[MendEdit | EditError] = []
    for read, factors_W in zip(reads, factors, strict=True):
        if isinstance(factors_W, EditError):
            results.append(factors_W)
            continue
        assert isinstance(read, _Read)
        changes = {
            weight.name: LowRank(x_NI.t().to(decoder.dtype).clone(), (step * delta_NO).to(decoder.dtype))
            for weight, step, (x_NI, delta_NO) in zip(inner, step_W, factors_W, strict=True)
        }
        edit = Edit(changes)
        try:
            norm = checked_norm(edit, [read.loss])
        except EditError as error:
            results.append(error)
            continue
        rank = max(len(x_NI) for x_NI, _ in read.rows_W)
        results.append(MendEdit(edit=edit, norm=norm, losses=(read.loss,), rank=rank))
    return results


def count_rows(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: MendHparams,
    network: Network,
    history: History,
    most: int | None = None,
    memory: Memory | None = None,
) -> None:
    """Add to `history` what editing the first `most` groups (None: all) leaves, without making their edits.

    All groups are computed, as `mend` would, so that the rows are the same bit for bit.
    """
    inner = inner_weights(model.decoder, hparams)
    check_fit(network, inner, model.decoder)
    for read in _reads(model, groups, inner, network, memory)[:most]:
        if not isinstance(read, EditError):
            for weight, (x_NI, delta_NO) in zip(inner, read.rows_W, strict=True):
                history.add(weight.shape, x_NI, delta_NO)


Rows = tuple[Tensor, Tensor]
"""x (N, I) and delta (N, O) of one inner weight."""


@dataclass(frozen=True)
class _Read:
    """What the network reads for one group: its rows per inner weight, and its loss."""

    rows_W: list[Rows]
    loss: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and all(bool(part.isfinite().all()) for rows in self.rows_W for part in rows)


def _reads(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    inner: Sequence[InnerWeight],
    network: Network,
    memory: Memory | None,
) -> list[_Read | EditError]:
    """What the network reads for every group; an EditError for one that the model cannot be asked with."""
    reads: dict[int, _Read | EditError] = {}
    requests: dict[int, list[Request]] = {}
    for number, views in enumerate(groups):
        try:
            if not views:
                raise EditError("the group holds no request; expected one or more")
            requests[number] = [request(model, view) for view in views]
        except (EditError, PromptError) as error:
            reads[number] = EditError(str(error))
    pad_D = pad_row(network, model.decoder)
    for part in _parts(requests):
        gradients = inner_gradients(model, [requests[number] for number in part], inner, pad_D, memory)
        split_W = [
            list(zip(x_NI.split(counts), delta_NO.split(counts), strict=True))
            for x_NI, delta_NO, counts in zip(gradients.x_W, gradients.delta_W, gradients.counts_W, strict=True)
        ]
        for g, number in enumerate(part):
            read = _Read([groups_w[g] for groups_w in split_W], gradients.loss_G[g])
            # Rows that are not numbers would spoil the statistics of all edits to come.
            reads[number] = read if read.finite else EditError(f"the loss ({read.loss}) or its gradient is not finite")
    return [reads[number] for number in range(len(groups))]


def _factors(
    reads: Sequence[_Read | EditError], inner: Sequence[InnerWeight], network: Network, training: History | None
) -> list[list[Rows] | EditError]:
    """x~ and delta~ per inner weight of every group, or an EditError.

    In training mode a group's rows are counted before they are normalised, weight by weight. They stay counted where
    one weight has too few of them for a standard deviation: then the group is an error.
    """
    failed: dict[int, EditError] = {}
    rows: dict[int, list[Rows]] = {}
    for number, read in enumerate(reads):
        if isinstance(read, EditError):
            failed[number] = read
            continue
        if training is None:
            pairs = zip(inner, read.rows_W, strict=True)
            rows[number] = [network.transforms[weight.shape].normalise(*of_weight) for weight, of_weight in pairs]
            continue
        counted = _counted(read, inner, training)
        if isinstance(counted, EditError):
            failed[number] = counted
        else:
            rows[number] = counted
    for w, weight in enumerate(inner if rows else ()):
        # All groups together, so that the network's own weights are read once.
        u_NI, v_NO = (torch.cat(part) for part in zip(*(own[w] for own in rows.values()), strict=True))
        x_NI, delta_NO = network.transforms[weight.shape].after_normalising(u_NI, v_NO, weight.mode)
        counts = [len(own[w][0]) for own in rows.values()]
        for own, factors in zip(
            rows.values(), zip(x_NI.split(counts), delta_NO.split(counts), strict=True), strict=True
        ):
            own[w] = factors
    return [failed[number] if number in failed else rows[number] for number in range(len(reads))]


def _counted(read: _Read, inner: Sequence[InnerWeight], training: History) -> list[Rows] | EditError:
    """A group's rows, counted and normalised with all rows counted by then."""
    normalised: list[Rows] = []
    lonely = ""
    for weight, rows in zip(inner, read.rows_W, strict=True):
        training.add(weight.shape, *rows)
        if training.count(weight.shape) > 1:
            normalised.append(training.normalise(weight.shape, *rows))
        else:
            lonely = weight.name
    if lonely:
        return EditError(
            f"{lonely} has seen a single row so far, and the released normalisation needs two; give a longer sentence, "
            "or records edited before (--history)"
        )
    return normalised


def inner_weights(decoder: Decoder, hparams: MendHparams) -> list[InnerWeight]:
    """The weights that MEND edits, lowest layer first, in the inner order within a layer."""
    inner: list[InnerWeight] = []
    for layer in hparams.layers:
        for part in hparams.inner_order:
            name = decoder.family.name(part, layer)
            rows, columns = decoder.weights[f"{name}.weight"].shape
            shape = (rows, columns) if decoder.family.input_first else (columns, rows)
            inner.append(InnerWeight(name, layer, part, shape, sum(other.shape == shape for other in inner)))
    return inner


def check_fit(network: Network, inner: Sequence[InnerWeight], decoder: Decoder) -> None:
    """Raise SettingError unless the network has a transform with enough modes, and a step size, per inner weight."""
    needed = sorted({weight.shape for weight in inner})
    if sorted(network.transforms) != needed:
        raise SettingError(
            f"MEND network ({network.source}): is for weights of shapes {_words(network.transforms)}, this model's "
            f"are {_words(needed)}; give the network of this model"
        )
    for shape in needed:
        modes = sum(weight.shape == shape for weight in inner)
        for layer in network.transforms[shape].layers:
            if layer.shift_SE.shape[0] != modes:
                raise SettingError(
                    f"MEND network ({network.source}): was trained for {layer.shift_SE.shape[0]} weights of shape "
                    f"{shape}, the hyperparameters name {modes}; give the layers it was trained for"
                )
    if len(network.edit_lrs) != len(inner):
        raise SettingError(
            f"MEND network ({network.source}): has {len(network.edit_lrs)} step sizes for {len(inner)} inner weights; "
            "give the layers it was trained for"
        )
    if network.pad_embedding is not None and network.pad_embedding.shape != (decoder.width,):
        raise SettingError(
            f"MEND network ({network.source}): pad_embedding is {tuple(network.pad_embedding.shape)}, this model's "
            f"width is {decoder.width}; give the network of this model"
        )


def step_order(inner: Sequence[InnerWeight], swapped: bool) -> list[int]:
    """For each inner weight, which of the learned step sizes is applied to it.

    They were learned in the inner weights' order. `swapped` deals them out in the order in which the model lists its
    parameters, the up-projection of a layer first, as the released code does.
    """
    if not swapped:
        return list(range(len(inner)))
    listed = sorted(range(len(inner)), key=lambda w: (inner[w].layer, inner[w].part != "mlp_up"))
    return [listed.index(w) for w in range(len(inner))]


def pad_row(network: Network, decoder: Decoder) -> Tensor | None:
    """The output layer's row (D,) for the published code's [PAD] token; None where there is none."""
    if network.pad_embedding is None and not network.pad_is_mean:
        return None
    if decoder.head_VD is not decoder.embedding_VD:
        return torch.zeros(decoder.width, device=decoder.device, dtype=decoder.dtype)
    if network.pad_embedding is not None:
        return network.pad_embedding.to(decoder.device, decoder.dtype)
    return decoder.embedding_VD.mean(0)


def request(model: LanguageModel, view: View) -> Request:
    """What MEND is fed for a view: the prompt and " " + target, whose tokens are scored.

    Raises PromptError for a text the model cannot be asked with.
    """
    return sentence(model, fill(view.template, view.subject), view.target)


def sentence(model: LanguageModel, prompt: str, target: str) -> Request:
    """The ids of a prompt and of all of " " + target after it, scored at the target."""
    before, after = model.tokens.encode(prompt), model.tokens.continuation(f" {target}")
    return Request(model.tokens.fed(before, [*after, after[-1]]), len(after))


def _parts(requests: Mapping[int, Sequence[Request]]) -> list[list[int]]:
    """Group numbers in parts of at most BATCH_TOKENS padded tokens, one group at least."""
    parts: list[list[int]] = []
    room = 0
    for number, group in sorted(requests.items(), key=lambda item: len(item[1][0].ids)):
        tokens = len(group) * max(len(request.ids) for request in group)
        if not parts or tokens > room:
            parts.append([])
            room = BATCH_TOKENS
        parts[-1].append(number)
        room -= tokens
    return parts


def _words(shapes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(map(str, sorted(shapes))) or "none"
