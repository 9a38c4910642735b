"""Rows of one batch that do not simply follow each other: packed into one row, at positions of their own.

Shape letters as in lm/decoder.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """B rows of different lengths as one row of all their N tokens: only attention pads them, to T tokens each.

    at_N: the place of each token among the B * T padded ones.
    """

    at_N: Tensor
    rows: int
    tokens: int

    def to(self, device: torch.device) -> "Packing":
        """The same on another device."""
        return replace(self, at_N=self.at_N.to(device))

    def padded(self, x_1HNK: Tensor) -> Tensor:
        """(1, H, N, K) as (B, H, T, K), with zeros where a row has no token."""
        x_NHK = x_1HNK[0].transpose(0, 1)
        padded_PHK = x_NHK.new_zeros(self.rows * self.tokens, *x_NHK.shape[1:]).index_copy_(0, self.at_N, x_NHK)
        return padded_PHK.unflatten(0, (self.rows, self.tokens)).transpose(1, 2)

    def packed(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) as (1, N, D)."""
        return x_BTD.flatten(0, 1).index_select(0, self.at_N)[None]


@dataclass(frozen=True)
class Aligned:
    """Rows whose tokens do not simply follow P stored ones: other positions, other keys seen.

    position_BT: position of each token, (1, N) where rows are packed; seen_B1TK: which of the P+T keys (stored ones
    first) each token sees.
    """

    position_BT: Tensor
    seen_B1TK: Tensor
    packing: Packing | None = None

    def to(self, device: torch.device) -> "Aligned":
        """The same on another device."""
        if self.seen_B1TK.device == device:
            return self
        packing = self.packing.to(device) if self.packing else None
        return Aligned(self.position_BT.to(device), self.seen_B1TK.to(device), packing)

    @classmethod
    def padded(cls, lengths: Sequence[int], device: torch.device) -> "Aligned":
        """Rows that are padded on the right to one length and see all of their own tokens."""
        position_T = torch.arange(max(lengths), device=device)
        seen_BT = position_T < torch.tensor(lengths, device=device)[:, None]
        return cls(position_T[None], seen_BT[:, None, None].expand(-1, 1, len(position_T), -1))

    @classmethod
    def packed(
        cls, lengths: Sequence[int], device: torch.device, left: Sequence[int] | None = None, causal: bool = True
    ) -> "Aligned":
        """Rows of so many tokens, packed, each after the first `left` of its P stored ones (default: none); where not
        `causal`, they see all of their row.
        """
        left = left or [0] * len(lengths)
        tokens, stored = max(lengths), max(left)
        every = [(row, token) for row, length in enumerate(lengths) for token in range(length)]
        position_N = torch.tensor([left[row] + token for row, token in every], device=device)
        at_N = torch.tensor([row * tokens + token for row, token in every], device=device)
        real_BP = torch.arange(stored, device=device) < torch.tensor(left, device=device)[:, None]
        if causal:
            own_BTT = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril().expand(len(lengths), -1, -1)
        else:
            own_BTT = cls.padded(lengths, device).seen_B1TK[:, 0]
        parts = real_BP[:, None].expand(-1, tokens, -1), own_BTT
        return cls(position_N[None], torch.cat(parts, dim=2)[:, None], Packing(at_N, len(lengths), tokens))
