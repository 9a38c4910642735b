"""What the forward pass asks of a model family, and the changes of weights that differ from row to row.

The pass is decoder.py's, the families are in families/. Shape letters as in decoder.py.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from artifact.lm.decoder import Decoder


class RowChange(Protocol):
    """A change of one linear layer's weight that differs from row to row of a batch."""

    def output(self, input_XI: Tensor) -> Tensor:
        """What the change adds to the layer's output, (B, T, O)."""
        ...


RowEdits = Mapping[str, RowChange]
"""Linear layer's name (without ".weight") -> its change for the rows of this batch."""


class Family(Protocol):
    """What differs between model families; one small file each."""

    causal: bool
    """A token sees those to its left and itself (a decoder), or all (an encoder)."""
    parallel: bool
    """Attention and MLP both read the block's input (GPT-J) instead of one after the other (GPT-2)."""
    input_first: bool
    """Linear weights are stored (I, O), as GPT-2's Conv1D does, instead of (O, I)."""
    rms_norm: bool
    """Norms divide by the root mean square (Llama) instead of taking the mean off as well and adding a bias."""
    attention_scale: float | None
    """Factor on the products of queries and keys; None: one over the root of a head's width."""
    attention_cap: float | None
    """Those products x become cap * tanh(x / cap) (Gemma 2); None: they stay. `logit_cap`: the same of logits."""
    logit_cap: float | None
    blocks: str
    """Name of the list of blocks; `embedding` and `final_norm` are the names of these two."""
    embedding: str
    final_norm: str
    head: str
    """Name of the output layer, used where it differs from the embedding."""
    head_bias: str
    """Name of its bias, where there is one."""
    activated: str
    """The part whose output is the site `up`: mlp_up, or mlp_gate in a gated MLP."""
    neurons: Literal["up", "key"]
    """The site whose entries count as neurons: before the activation function, or after it."""

    def embed(self, decoder: "Decoder", word_BTD: Tensor, position_XT: Tensor) -> Tensor: ...
    def projections(
        self, decoder: "Decoder", layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple:
        """Queries, keys, values, each (B, H, T, K), rotated where the family rotates them; H may be less in the last
        two, if it divides the queries' (grouped heads).

        position_XT holds every token's position, alike in all rows (1, T) or of each row (B, T).
        """
        ...

    def name(self, part: str, layer: int) -> str:
        """Name of a part of a block (attn_out, mlp_up, mlp_down; mlp_gate where there is one; attn_norm and mlp_norm
        before a module, attn_after and mlp_after on what it gives, attn_sum and mlp_sum on its sum with the state) in
        transformers' words.
        """
        ...

    def has(self, part: str) -> bool:
        """Whether the family's blocks have a part, such as one of the norms."""
        ...

    def rows(self, part: str) -> slice | None:
        """Which outputs of the layer that `name` names are this part, where it holds several (Phi-3); None: all."""
        ...

    def scaled(self, weight_D: Tensor, wide_XD: Tensor, dtype: torch.dtype) -> Tensor:
        """Of a root-mean-square norm: what was divided, in float32, times its weight, in `dtype`."""
        ...

    def key(self, decoder: "Decoder", layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        """Input (..., M) of the down-projection: `up` activated and, in a gated MLP, times the up-projection."""
        ...

    def ending(self, decoder: "Decoder", hidden_ND: Tensor) -> Tensor:
        """What the output layer reads of final states: their norm, in an encoder of more that comes before it."""
        ...
