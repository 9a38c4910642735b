"""What an edit is: a change of named weights, applied to the rows of a batch without touching the model.

Covers low-rank changes (KN, MEND, ROME, MEMIT) and dense ones (FT, an edit read from a file), and their guards; and the
model that carries one. The model's own weights are never written to.

Shape letters: B batch row, T token, I input and O output width of a linear layer, R rank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.errors import EditError
from artifact.lm.decoder import Decoder
from artifact.lm.family import RowChange, RowEdits
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class LowRank:
    """A weight change left_IR @ right_RO, in (input, output) orientation."""

    left_IR: Tensor
    right_RO: Tensor

    def dense(self) -> Tensor:
        """The change as one (I, O) matrix."""
        return self.left_IR @ self.right_RO

    def norm(self) -> float:
        """Frobenius norm, in float64, without making the matrix: |LR|^2 = trace(L^T L R R^T)."""
        left_IR, right_RO = self.left_IR.double(), self.right_RO.double()
        return float(((left_IR.t() @ left_IR) * (right_RO @ right_RO.t())).sum().clamp(min=0).sqrt())

    def output(self, input_XI: Tensor) -> Tensor:
        """What the change adds to the layer's output, (..., O): the same change for every row."""
        return (input_XI @ self.left_IR) @ self.right_RO


@dataclass(frozen=True)
class Dense:
    """A full weight change (I, O) and, where the layer's bias changes too, (O,)."""

    weight_IO: Tensor | None
    bias_O: Tensor | None = None

    def norm(self) -> float:
        """Frobenius norm over weight and bias, in float64."""
        parts = [part.double().norm() for part in (self.weight_IO, self.bias_O) if part is not None]
        return float(torch.stack(parts).norm())

    def output(self, input_XI: Tensor) -> Tensor:
        """What the change adds to the layer's output, (..., O): the same change for every row."""
        added = None if self.weight_IO is None else input_XI @ self.weight_IO
        if self.bias_O is None:
            assert added is not None
            return added
        return self.bias_O.expand(*input_XI.shape[:-1], -1) if added is None else added + self.bias_O


Change = LowRank | Dense


@dataclass(frozen=True)
class LowRankRows:
    """A different low-rank change for every row of a batch."""

    left_BIR: Tensor
    right_BRO: Tensor

    def output(self, input_BTI: Tensor) -> Tensor:
        """What the changes add to the layer's output, (B, T, O)."""
        return (input_BTI @ self.left_BIR) @ self.right_BRO


@dataclass(frozen=True)
class SharedRows:
    """Rows that share few changes, dense ones among them: each change is multiplied once, with all of its rows.

    row_change[b] is the number of row b's change; None stands for a row whose edit leaves the layer as it is.
    """

    changes: Sequence[Change | None]
    row_change: Sequence[int]

    def output(self, input_BTI: Tensor) -> Tensor:
        """What the changes add to the layer's output, (B, T, O)."""
        if len(self.changes) == 1 and self.changes[0] is not None:
            return self.changes[0].output(input_BTI)
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(self.row_change):
            rows_of.setdefault(number, []).append(row)
        output_BTO: Tensor | None = None
        for number, own in rows_of.items():
            change = self.changes[number]
            if change is None:
                continue
            own_B = torch.tensor(own, device=input_BTI.device)
            added = change.output(input_BTI[own_B])
            if output_BTO is None:
                output_BTO = added.new_zeros(*input_BTI.shape[:-1], added.shape[-1])
            output_BTO = output_BTO.index_copy(0, own_B, added)
        # A batch whose rows all leave this layer alone: a zero that broadcasts.
        return input_BTI.new_zeros(1) if output_BTO is None else output_BTO


@dataclass(frozen=True)
class Edit:
    """Linear layer's name (transformers' words, without ".weight") -> its change; and, of an edit in context, the text
    that is put before every prompt.
    """

    changes: Mapping[str, Change]
    context: str = ""

    def norm(self) -> float:
        """Frobenius norm over all changed weights."""
        return float(torch.tensor([change.norm() for change in self.changes.values()], dtype=torch.float64).norm())

    def tensors(self, decoder: Decoder) -> dict[str, Tensor]:
        """New minus old by transformers' parameter name, in the orientation transformers stores."""
        tensors = {}
        for name, change in self.changes.items():
            whole = _whole(change)
            weight_IO, bias_O = whole.weight_IO, whole.bias_O
            if weight_IO is not None:
                tensors[f"{name}.weight"] = weight_IO if decoder.family.input_first else weight_IO.t()
            if bias_O is not None:
                tensors[f"{name}.bias"] = bias_O
        return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Edited:
    """An edit with what its record keeps: the Frobenius norm of its change and, where a loss is minimised, the loss of
    each forward pass; `note` says what else a reader must know of it. Methods with more to record extend it.
    """

    edit: Edit
    norm: float
    losses: Sequence[float] = field(default=())
    note: str = ""

    def told(self) -> dict[str, Any]:
        """What a record keeps: figures, and the note where there is one."""
        record: dict[str, Any] = {"norm": self.norm}
        if self.losses:
            record |= {"loss": self.losses[-1], "steps": len(self.losses)}
        return record | ({"note": self.note} if self.note else {})


def added_up(edits: Sequence[Edit]) -> Edit:
    """One edit that changes every weight by what all of them change it by; a single one is given back as it is."""
    if len(edits) == 1:
        return edits[0]
    sums: dict[str, Dense] = {}
    for edit in edits:
        for name, change in edit.changes.items():
            own, before = _whole(change), sums.get(name, Dense(None))
            sums[name] = Dense(_sum(before.weight_IO, own.weight_IO), _sum(before.bias_O, own.bias_O))
    return Edit(sums, "".join(edit.context for edit in edits))


def with_edit(model: LanguageModel, edit: Edit) -> LanguageModel:
    """The model with an edit written into its weights; the tensors that it leaves alone are shared, none is changed."""
    decoder = model.decoder
    weights = dict(decoder.weights)
    for name, added in edit.tensors(decoder).items():
        weights[name] = weights[name] + added.to(weights[name])
    return replace(model, decoder=decoder.with_weights(weights))


def _whole(change: Change) -> Dense:
    return Dense(change.dense()) if isinstance(change, LowRank) else change


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one + other if one is not None and other is not None else one if other is None else other


def checked_norm(edit: Edit, losses: Sequence[float] = ()) -> float:
    """The norm of an edit; EditError when it changes nothing, or when it or a loss on its way is not finite."""
    for step, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            raise EditError(f"the loss of pass {step} is {loss}; expected a finite number; give a smaller step size")
    norm = edit.norm()
    if not 0 < norm < float("inf"):
        raise EditError(f"the weight change has norm {norm}; expected a finite number above zero")
    return norm


def row_edits(edits: Sequence[Edit], row_edit: Sequence[int]) -> RowEdits:
    """The changes of a batch whose row b carries edits[row_edit[b]]; edits may change different layers."""
    used = sorted(set(row_edit))
    place = {number: at for at, number in enumerate(used)}
    row_change = [place[number] for number in row_edit]
    names = dict.fromkeys(name for number in used for name in edits[number].changes)
    changed: dict[str, RowChange] = {}
    for name in names:
        changes = [edits[number].changes.get(name) for number in used]
        if len(used) == 1 or any(isinstance(change, Dense) for change in changes):
            changed[name] = SharedRows(changes, row_change)
        else:
            changed[name] = _padded([change if isinstance(change, LowRank) else None for change in changes], row_change)
    return changed


def _padded(changes: Sequence[LowRank | None], row_change: Sequence[int]) -> LowRankRows:
    """Low-rank changes at the highest of their ranks: what is missing is zero and adds nothing."""
    first, *others = [change for change in changes if change is not None]
    rank = max(change.left_IR.shape[1] for change in (first, *others))
    nothing = LowRank(first.left_IR[:, :0], first.right_RO[:0])
    lefts, rights = [], []
    for change in changes:
        own = change or nothing
        lefts.append(F.pad(own.left_IR, (0, rank - own.left_IR.shape[1])))
        rights.append(F.pad(own.right_RO, (0, 0, 0, rank - own.right_RO.shape[0])))
    index = torch.tensor(list(row_change), device=first.left_IR.device)
    return LowRankRows(torch.stack(lefts)[index], torch.stack(rights)[index])
