"""What an edit is: a change of named weights, applied to the rows of a batch without touching the model.

Covers low-rank changes (ROME) and dense ones (an edit read from a file), their guards, and their file form. It does not
compute edits (rome.py) and never writes to a model's weights.

Shape letters: B batch row, T token, I input and O output width of a linear layer, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact.errors import EditError
from artifact.lm.decoder import Decoder, RowEdits


@dataclass(frozen=True)
class LowRank:
    """A weight change left_IR @ right_RO, in (input, output) orientation."""

    left_IR: Tensor
    right_RO: Tensor

    def dense(self) -> Tensor:
        """The change as one (I, O) matrix."""
        return self.left_IR @ self.right_RO


@dataclass(frozen=True)
class Dense:
    """A full weight change (I, O) and, where the layer's bias changes too, (O,)."""

    weight_IO: Tensor | None
    bias_O: Tensor | None = None

    def output(self, input_BTI: Tensor) -> Tensor:
        """What the change adds to the layer's output, (B, T, O): the same change for every row."""
        added = None if self.weight_IO is None else input_BTI @ self.weight_IO
        if self.bias_O is None:
            assert added is not None
            return added
        return self.bias_O.expand(*input_BTI.shape[:-1], -1) if added is None else added + self.bias_O


@dataclass(frozen=True)
class LowRankRows:
    """A different low-rank change for every row of a batch."""

    left_BIR: Tensor
    right_BRO: Tensor

    def output(self, input_BTI: Tensor) -> Tensor:
        """What the changes add to the layer's output, (B, T, O)."""
        return (input_BTI @ self.left_BIR) @ self.right_BRO


@dataclass(frozen=True)
class Edit:
    """Linear layer's name (transformers' words, without ".weight") -> its change."""

    changes: Mapping[str, LowRank]

    def norm(self) -> float:
        """Frobenius norm over all changed weights."""
        return float(torch.stack([c.dense().float().norm() for c in self.changes.values()]).norm())

    def tensors(self, decoder: Decoder) -> dict[str, Tensor]:
        """New minus old by transformers' parameter name, in the orientation transformers stores."""
        return {
            f"{name}.weight": (change.dense() if decoder.family.input_first else change.dense().t()).contiguous().cpu()
            for name, change in self.changes.items()
        }


def rows(edits: Sequence[Edit], row_edit: Sequence[int]) -> RowEdits:
    """Row edits for a batch whose row b carries edits[row_edit[b]]; all edits change the same layers at one rank."""
    names = edits[0].changes.keys()
    if any(edit.changes.keys() != names for edit in edits):
        raise EditError("the edits of one batch must change the same layers; score them in separate batches")
    index = torch.tensor(list(row_edit))
    return {
        name: LowRankRows(
            torch.stack([edit.changes[name].left_IR for edit in edits])[index],
            torch.stack([edit.changes[name].right_RO for edit in edits])[index],
        )
        for name in names
    }


def read_edit(path: Path, decoder: Decoder) -> RowEdits:
    """The edit in a safetensors file as `kloc edit` writes it, for every row alike.

    Raises EditError when the file is unreadable, names a weight the model lacks, has another shape, or is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EditError(
            f"{path}: is no readable safetensors file ({error}); give a file written by kloc edit"
        ) from None
    if not tensors:
        raise EditError(f"{path}: holds no weight change; give a file written by kloc edit")
    found: dict[str, dict[str, Tensor]] = {}
    for parameter, delta in tensors.items():
        weight = decoder.weights.get(parameter)
        layer, _, part = parameter.rpartition(".")
        if weight is None or not layer.startswith("transformer.h."):
            raise EditError(f"{path}: {parameter} is no weight of this model's blocks; give an edit of this model")
        if delta.shape != weight.shape or not bool(delta.isfinite().all()):
            raise EditError(
                f"{path}: {parameter} must be finite and of shape {tuple(weight.shape)}, got {tuple(delta.shape)}; "
                "give an edit of this model"
            )
        delta = delta.to(weight.device, weight.dtype)
        found.setdefault(layer, {})[part] = delta.t() if part == "weight" and not decoder.family.input_first else delta
    return {layer: Dense(parts.get("weight"), parts.get("bias")) for layer, parts in found.items()}
