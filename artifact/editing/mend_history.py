"""MEND's normalisation as the released code really does it: estimated over all edits made so far.

The released wrapper never leaves training mode, so the trained file's means and standard deviations are thrown away at
the first edit of a process. From then on the rows of every edit (inputs x and output gradients delta of each inner
weight) are counted per weight shape, weight after weight in inner order, and each weight's rows are normalised with all
rows counted by then, its own among them. So every edit depends on those made before it, in their order, although the
weights are restored after each.

Covers the running statistics of one sequence of edits; runs/order.py says which edits came before.
Source: docs/protocol.md; golden numbers: tests/reference/mend_released (rows 1e-5, changes 1e-4 relative).

Shape letters as in mend.py: N row, I input and O output width of an inner weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.editing.mend_network import EPSILON

Shape = tuple[int, int]


@dataclass(frozen=True)
class Running:
    """Of the rows seen so far: how many, their mean (X,) and the sum of squared deviations from it (X,), float64."""

    count: int
    mean_X: Tensor
    square_X: Tensor

    def with_rows(self, row_NX: Tensor) -> "Running":
        """Those and N rows more, merged pairwise (Chan, Golub and LeVeque 1983): no large sums are subtracted."""
        added = len(row_NX)
        if not added:
            return self
        row_NX = row_NX.double()
        mean_X = row_NX.mean(0)
        square_X = (row_NX - mean_X).square().sum(0)
        total, apart_X = self.count + added, mean_X - self.mean_X
        return Running(
            total,
            self.mean_X + apart_X * (added / total),
            self.square_X + square_X + apart_X.square() * (self.count * added / total),
        )

    def normalised(self, row_NX: Tensor) -> Tensor:
        """Rows less the mean, over the unbiased standard deviation, float32; `count` must be two or more."""
        std_X = (self.square_X / (self.count - 1)).sqrt()
        return ((row_NX.double() - self.mean_X) / (std_X + EPSILON)).float()

    def to(self, device: torch.device | str) -> "Running":
        return Running(self.count, self.mean_X.to(device), self.square_X.to(device))


class History:
    """Statistics of x and of delta over the edits of one process, by weight shape."""

    def __init__(self) -> None:
        self._running: dict[Shape, tuple[Running, Running]] = {}

    def count(self, shape: Shape) -> int:
        """Rows seen so far by the weights of a shape."""
        return self._running[shape][0].count if shape in self._running else 0

    def add(self, shape: Shape, x_NI: Tensor, delta_NO: Tensor) -> None:
        """Count the rows of one inner weight of one edit."""
        x, delta = self._running.get(shape) or (_none(x_NI), _none(delta_NO))
        self._running[shape] = x.with_rows(x_NI), delta.with_rows(delta_NO)

    def normalise(self, shape: Shape, x_NI: Tensor, delta_NO: Tensor) -> tuple[Tensor, Tensor]:
        """Rows normalised with all that was counted for their shape, two rows at least."""
        x, delta = self._running[shape]
        return x.normalised(x_NI), delta.normalised(delta_NO)

    def copy(self, device: torch.device | str) -> "History":
        """The same on a device, for another sequence that goes on from here."""
        history = History()
        history._running = {shape: (x.to(device), delta.to(device)) for shape, (x, delta) in self._running.items()}
        return history


def _none(row_NX: Tensor) -> Running:
    zero_X = row_NX.new_zeros(row_NX.shape[1], dtype=torch.float64)
    return Running(0, zero_X, zero_X)
