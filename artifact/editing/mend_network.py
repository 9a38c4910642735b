"""MEND's trained network: one transform per weight shape, learned step sizes, and the row of the [PAD] token.

Covers what the network computes. Shape letters as in mend.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

EPSILON = 1e-7
"""Added to a standard deviation before dividing by it, as published."""


@dataclass(frozen=True)
class LowRankLayer:
    """One layer of a network: h + max(0, (u v h + bias) * scale + shift), scale and shift by mode."""

    u_ER: Tensor
    v_RE: Tensor
    bias_E: Tensor
    shift_SE: Tensor
    scale_SE: Tensor

    def __call__(self, h_NE: Tensor, mode: int) -> Tensor:
        inner_NE = (h_NE @ self.v_RE.t()) @ self.u_ER.t() + self.bias_E
        return h_NE + (inner_NE * self.scale_SE[mode] + self.shift_SE[mode]).clamp(min=0)

    def to(self, device: torch.device | str) -> "LowRankLayer":
        return LowRankLayer(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Transform:
    """The network of one weight shape: normalisation of x ("u") and delta ("v"), then low-rank layers over both."""

    u_mean_I: Tensor
    u_std_I: Tensor
    v_mean_O: Tensor
    v_std_O: Tensor
    layers: tuple[LowRankLayer, ...]

    def __call__(self, x_NI: Tensor, delta_NO: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """x~ (N, I) and delta~ (N, O); `mode` is the weight's place among the inner weights of its shape."""
        return self.after_normalising(*self.normalise(x_NI, delta_NO), mode)

    def normalise(self, x_NI: Tensor, delta_NO: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as the trained file normalises them."""
        u_NI = (x_NI - self.u_mean_I) / (self.u_std_I + EPSILON)
        return u_NI, (delta_NO - self.v_mean_O) / (self.v_std_O + EPSILON)

    def after_normalising(self, u_NI: Tensor, v_NO: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """The same for rows that were normalised otherwise (mend_history.py)."""
        h_NE = torch.cat((u_NI, v_NO), dim=1)
        for layer in self.layers:
            h_NE = layer(h_NE, mode)
        return h_NE[:, : u_NI.shape[1]], h_NE[:, u_NI.shape[1] :]

    def to(self, device: torch.device | str) -> "Transform":
        u_mean_I, u_std_I = self.u_mean_I.to(device), self.u_std_I.to(device)
        v_mean_O, v_std_O = self.v_mean_O.to(device), self.v_std_O.to(device)
        return Transform(u_mean_I, u_std_I, v_mean_O, v_std_O, tuple(layer.to(device) for layer in self.layers))


@dataclass(frozen=True)
class Network:
    """MEND's trained network, float32: one transform per weight shape (I, O), learned step sizes (W,), and the row that
    the published code's [PAD] token adds to the embedding.

    `pad_embedding` is that row (D,), or None; then `pad_is_mean` says whether it is the mean of the model's embedding
    or there is no such row at all. `source` says in words where the network comes from, `weights_sha256` which model's
    weights it was trained for, where its file says so.
    """

    transforms: Mapping[tuple[int, int], Transform]
    edit_lrs: Tensor
    pad_embedding: Tensor | None
    source: str
    pad_is_mean: bool = False
    weights_sha256: str | None = None

    def to(self, device: torch.device | str) -> "Network":
        """The same network on a device."""
        pad_D = None if self.pad_embedding is None else self.pad_embedding.to(device)
        transforms = {shape: transform.to(device) for shape, transform in self.transforms.items()}
        return replace(self, transforms=transforms, edit_lrs=self.edit_lrs.to(device), pad_embedding=pad_D)
