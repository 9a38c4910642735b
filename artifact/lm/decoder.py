"""The forward pass of a language model, written out, for experiments on its inside: of a decoder, which reads from left
to right, or of an encoder (BERT), whose tokens all see each other.

Covers what hooks cannot give cheaply: start at any layer from stored states, run any suffix of tokens against stored
keys and values, logits only where they are read, and a different weight edit for every row of a batch. A family file
(families/) says what its weights are called and how its blocks differ. It does not cover loading (load.py), tokens
(tokens.py), the choice of the next token (editing/prefixes.py, evaluation/generate.py), or sliding windows: a model
with one takes no text longer than its window (families/).

Sites, one vocabulary everywhere: `hidden` (block output), `mlp`, `attn` (module outputs), at (layer, token); `mixed`
is the input of the attention's output projection (the heads' weighted values side by side), `normed` the input of the
MLP's up-projection, `up` its output before the activation function, `key` the input of its down-projection. In a gated
MLP (Llama), which multiplies two projections of `normed`, `up` is the gate projection's output: the one that goes
through the activation function; `key` is the product. Where a family norms what a module gives before it is added
(OLMo 2, Gemma 2), or the sum with it (BERT), `mlp` and `attn` are the outputs before that norm.

Shape letters: B batch row, T token, P stored token left of the first one, L layer, D model width, M MLP width, H head,
K head width, G head of keys and values, V vocabulary, I and O input and output width of a linear layer, R rank of an
edit, N any number of rows or tokens, X any axes. tests/test_shapes.py holds names to their letters.

Tested equal to transformers' logits (float32, 1e-4 relative) on every family: tests/lm/test_decoder.py,
tests/lm/test_llama.py and tests/lm/test_conformance.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.lm.aligned import Aligned
from artifact.lm.attention import attended, seen_after
from artifact.lm.family import Family, RowEdits

Site = Literal["hidden", "mlp", "attn", "mixed", "normed", "up", "key"]
AtSite = Callable[[Site, int, Tensor], Tensor | None]
"""Called at every site with (site, layer, value_BT?); what it returns, if anything, takes the value's place."""
LayerKeys = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, H, T, K); H is that of keys and values, where queries have more heads."""


@dataclass(frozen=True)
class Run:
    """What one pass over all tokens leaves behind.

    states_LBTD: the L+1 states entering block 0..L-1 and leaving the last; `outputs[site]` the L module outputs, for
    the sites that were asked for; `keys` each layer's keys and values.
    """

    states_LBTD: list[Tensor]
    outputs: dict[str, list[Tensor]]
    keys: list[LayerKeys]


class Decoder:
    """A model's weights and its forward pass.

    weights: transformers' parameter names -> tensors, all of one dtype; never changed by any method. All are on one
    device, or each block's on its own card (lm/cards.py) and the rest on the first one, which is `device`. Then states,
    and what is seen at a site, are on the first card for everyone outside, and keys and values on their block's.
    """

    def __init__(
        self, family: Family, weights: dict[str, Tensor], *, layers: int, heads: int, epsilon: float, positions: int
    ) -> None:
        self.family = family
        self.weights = weights
        self.layers = layers
        self.heads = heads
        self.epsilon = epsilon
        self.positions = positions
        self.embedding_VD = weights[f"{family.embedding}.weight"]
        self.width = self.embedding_VD.shape[1]

    def with_weights(self, weights: dict[str, Tensor]) -> "Decoder":
        """The same decoder over other weights."""
        return Decoder(
            self.family,
            weights,
            layers=self.layers,
            heads=self.heads,
            epsilon=self.epsilon,
            positions=self.positions,
        )

    @property
    def device(self) -> torch.device:
        return self.embedding_VD.device

    def card(self, layer: int) -> torch.device:
        """Where a block's weights are."""
        return self.weights[f"{self.family.name('mlp_down', layer)}.weight"].device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_VD.dtype

    def words(self, ids_BT: Tensor) -> Tensor:
        """Word embeddings (B, T, D), before positions: where causal tracing adds its noise."""
        return F.embedding(ids_BT, self.embedding_VD)

    def embed(self, word_BTD: Tensor, start: int = 0, aligned: Aligned | None = None) -> Tensor:
        """The state entering block 0 for word embeddings at positions `start`, start+1, ..., or as `aligned` says."""
        return self.family.embed(self, word_BTD, self._positions(start, word_BTD, aligned))

    def packed(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Aligned]:
        """The states (1, N, D) entering block 0 for texts (ids) of different lengths, packed, and their alignment."""
        aligned = self.aligned([len(text) for text in texts])
        ids_1N = torch.tensor([[token for text in texts for token in text]], device=self.device)
        return self.embed(self.words(ids_1N), aligned=aligned), aligned

    def aligned(self, lengths: Sequence[int], left: Sequence[int] | None = None) -> Aligned:
        """Rows of so many tokens, packed, each after the first `left` of its stored ones (default: none)."""
        return Aligned.packed(lengths, self.device, left, causal=self.family.causal)

    def padded(self, lengths: Sequence[int]) -> Aligned | None:
        """What rows of so many tokens see that are padded on the right; None of a decoder, which never sees padding."""
        return None if self.family.causal else Aligned.padded(lengths, self.device)

    def _positions(self, start: int, x_BTD: Tensor, aligned: Aligned | None) -> Tensor:
        if aligned is not None:
            return aligned.position_BT
        return torch.arange(start, start + x_BTD.shape[1], device=x_BTD.device)[None]

    def block(
        self,
        layer: int,
        hidden_BTD: Tensor,
        *,
        past: LayerKeys | None = None,
        aligned: Aligned | None = None,
        edits: RowEdits | None = None,
        at_site: AtSite | None = None,
        read_N: Tensor | None = None,
    ) -> tuple[Tensor, LayerKeys]:
        """One block: (B, T, D) in, (B, T, D) out with the new tokens' keys and values.

        `past` holds the keys and values of the P tokens to the left (its batch must be B); the T tokens given stand at
        positions P, P+1, ... and see those and each other, causally in a decoder, unless `aligned` says otherwise.
        Where `aligned` packs the rows, hidden_BTD is (1, N, D). `read_N`: the tokens whose output is wanted (default:
        all).
        """
        hidden_BTD, new = self._block(layer, hidden_BTD, past, aligned, edits, at_site, read_N)
        return hidden_BTD.to(self.device), new

    def _block(
        self,
        layer: int,
        hidden_BTD: Tensor,
        past: LayerKeys | None,
        aligned: Aligned | None,
        edits: RowEdits | None,
        at_site: AtSite | None,
        read_N: Tensor | None,
    ) -> tuple[Tensor, LayerKeys]:
        """`block`, whose output stays on the block's card."""
        family, card = self.family, self.card(layer)
        edits = edits or {}
        if card != self.device:
            hidden_BTD, aligned = hidden_BTD.to(card), aligned.to(card) if aligned else None
            past = (past[0].to(card), past[1].to(card)) if past else None
            read_N, at_site = None if read_N is None else read_N.to(card), _from_first(at_site, self.device)
        normed_BTD = self._normed("attn_norm", layer, hidden_BTD)
        mixed_BTD, new = self._mixed(layer, normed_BTD, past, aligned, edits)
        if read_N is not None:
            mixed_BTD, hidden_BTD, normed_BTD = (x.index_select(1, read_N) for x in (mixed_BTD, hidden_BTD, normed_BTD))
        mixed_BTD = _visit(at_site, "mixed", layer, mixed_BTD)
        attn_BTD = self.linear(family.name("attn_out", layer), mixed_BTD, edits)
        attn_BTD = _visit(at_site, "attn", layer, attn_BTD)
        if not family.parallel:
            hidden_BTD = self.summed("attn", layer, hidden_BTD, attn_BTD)
            return self._after_attention(layer, hidden_BTD, edits, at_site), new
        if family.has("mlp_norm"):  # GPT-J has one norm for both modules
            normed_BTD = self._normed("mlp_norm", layer, hidden_BTD)
        mlp_BTD = self._mlp(layer, normed_BTD, edits, at_site)
        # The order of this sum is transformers', so that float32 results agree to the last bits.
        return _visit(at_site, "hidden", layer, attn_BTD + mlp_BTD + hidden_BTD), new

    def _mixed(
        self, layer: int, normed_BTD: Tensor, past: LayerKeys | None, aligned: Aligned | None, edits: RowEdits
    ) -> tuple[Tensor, LayerKeys]:
        """The heads' weighted values side by side (B, T, D), and the new tokens' keys and values."""
        left = 0 if past is None else past[0].shape[2]
        position_XT = self._positions(left, normed_BTD, aligned)
        query_BHTK, key_BHTK, value_BHTK = self.family.projections(self, layer, normed_BTD, position_XT, edits)
        packing = aligned.packing if aligned else None
        if packing is not None:
            query_BHTK, key_BHTK, value_BHTK = map(packing.padded, (query_BHTK, key_BHTK, value_BHTK))
        new = (key_BHTK, value_BHTK)
        if past is not None:
            key_BHTK = torch.cat((past[0], key_BHTK), dim=2)
            value_BHTK = torch.cat((past[1], value_BHTK), dim=2)
        causal, tokens = self.family.causal, normed_BTD.shape[1]
        seen = seen_after(left, tokens, normed_BTD.device) if causal else None
        mixed_BHTK = attended(
            query_BHTK,
            key_BHTK,
            value_BHTK,
            seen=aligned.seen_B1TK if aligned else seen,
            causal=causal and aligned is None and left == 0 and tokens > 1,
            scale=self.family.attention_scale,
            cap=self.family.attention_cap,
        )
        mixed_BTD = mixed_BHTK.transpose(1, 2).flatten(2)
        if packing is not None:
            mixed_BTD = packing.packed(mixed_BTD)
        return mixed_BTD, new

    def after_attention(self, layer: int, hidden_XD: Tensor, edits: RowEdits, at_site: AtSite | None = None) -> Tensor:
        """A block's output (..., D), where it is not parallel, from states (..., D) with the attention's output."""
        card = self.card(layer)
        at_site = at_site if card == self.device else _from_first(at_site, self.device)
        return self._after_attention(layer, hidden_XD.to(card), edits, at_site).to(self.device)

    def _after_attention(self, layer: int, hidden_XD: Tensor, edits: RowEdits, at_site: AtSite | None) -> Tensor:
        mlp_XD = self._mlp(layer, self._normed("mlp_norm", layer, hidden_XD), edits, at_site)
        return _visit(at_site, "hidden", layer, self.summed("mlp", layer, hidden_XD, mlp_XD))

    def _mlp(self, layer: int, normed_XD: Tensor, edits: RowEdits, at_site: AtSite | None) -> Tensor:
        """The output (..., D) of the block's MLP."""
        family = self.family
        normed_XD = _visit(at_site, "normed", layer, normed_XD)
        up_XM = _visit(at_site, "up", layer, self.project(family.activated, layer, normed_XD, edits))
        key_XM = _visit(at_site, "key", layer, family.key(self, layer, up_XM, normed_XD, edits))
        return _visit(at_site, "mlp", layer, self.linear(family.name("mlp_down", layer), key_XM, edits))

    def blocks(
        self,
        hidden_BTD: Tensor,
        first: int = 0,
        stop: int | None = None,
        *,
        past: Mapping[int, LayerKeys] | list[LayerKeys] | None = None,
        aligned: Aligned | None = None,
        edits: RowEdits | None = None,
        at_site: AtSite | None = None,
        read_N: Tensor | None = None,
    ) -> Tensor:
        """Blocks first..stop-1 (all that are left by default) over (B, T, D); `past` by layer.

        With `read_N` only these tokens are given, and the last block computes no others.
        """
        stop = self.layers if stop is None else stop
        for layer in range(first, stop):
            left, read = past[layer] if past else None, read_N if layer == stop - 1 else None
            hidden_BTD, _ = self._block(layer, hidden_BTD.to(self.card(layer)), left, aligned, edits, at_site, read)
        hidden_BTD = hidden_BTD.to(self.device)
        return hidden_BTD if read_N is None or first < stop else hidden_BTD[:, read_N]

    def run(self, word_BTD: Tensor, keep: tuple[Site, ...] = (), at_site: AtSite | None = None) -> Run:
        """A pass over whole prompts from word embeddings, keeping states, keys and values, and `keep`'s outputs."""
        outputs: dict[str, list[Tensor]] = {site: [] for site in keep}

        def visit(site: Site, layer: int, value: Tensor) -> Tensor | None:
            replaced = at_site(site, layer, value) if at_site else None
            if site in outputs:
                outputs[site].append(value if replaced is None else replaced)
            return replaced

        states, keys = [self.embed(word_BTD)], []
        for layer in range(self.layers):
            hidden_BTD, layer_keys = self.block(layer, states[-1], at_site=visit)
            states.append(hidden_BTD)
            keys.append(layer_keys)
        return Run(states, outputs, keys)

    def onward(
        self,
        word_BTD: Tensor,
        keys: list[LayerKeys],
        edits: RowEdits | None = None,
        aligned: Aligned | None = None,
    ) -> Tensor:
        """Final states (B, T, D) of the next tokens of texts whose earlier tokens have their keys and values, by layer,
        in `keys`: an empty list for the first tokens. The new tokens' are added to it. `aligned`: their positions and
        what they see, where texts are of different lengths.
        """
        hidden_BTD = self.embed(word_BTD, keys[0][0].shape[2] if keys else 0, aligned)
        for layer in range(self.layers):
            past = keys[layer] if layer < len(keys) else None
            hidden_BTD, new = self.block(layer, hidden_BTD, past=past, aligned=aligned, edits=edits)
            if past is None:
                keys.append(new)
            else:
                keys[layer] = (torch.cat((past[0], new[0]), 2), torch.cat((past[1], new[1]), 2))
        return hidden_BTD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) in float32 for final states (N, D), of the next token or, in an encoder, of the token itself:
        give only the positions that are read.
        """
        ending_ND = self.family.ending(self, hidden_ND)
        return self.capped(F.linear(ending_ND, self.head_VD, self.weights.get(self.family.head_bias))).float()

    def capped(self, logits_X: Tensor) -> Tensor:
        """Logits as the family caps them: cap * tanh(x / cap), or as they are."""
        cap = self.family.logit_cap
        return logits_X if cap is None else (logits_X / cap).tanh() * cap

    @property
    def head_VD(self) -> Tensor:
        """The output layer; the embedding itself where the two are tied."""
        return self.weights.get(f"{self.family.head}.weight", self.embedding_VD)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """The family's norm over the last dimension, where its weight is."""
        weight = self.weights[f"{name}.weight"]
        x = x.to(weight.device)
        if self.family.rms_norm:
            wide = x.float()
            divided = wide * (wide.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
            return self.family.scaled(weight, divided, x.dtype)
        return F.layer_norm(x, (self.width,), weight, self.weights[f"{name}.bias"], self.epsilon)

    def _normed(self, part: str, layer: int, x: Tensor) -> Tensor:
        """`x` through a norm of a block, or as it is where the family's blocks have no such norm."""
        return self.norm(self.family.name(part, layer), x) if self.family.has(part) else x

    def added(self, module: Literal["attn", "mlp"], layer: int, output_XD: Tensor) -> Tensor:
        """What a module's output adds to the state: itself, or its norm where the family has one there."""
        return self._normed(f"{module}_after", layer, output_XD).to(output_XD.device)

    def summed(self, module: Literal["attn", "mlp"], layer: int, state_XD: Tensor, output_XD: Tensor) -> Tensor:
        """The state (..., D) after a module: its output added, and the sum normed where the family norms it."""
        sum_XD = state_XD + self.added(module, layer, output_XD)
        return self._normed(f"{module}_sum", layer, sum_XD).to(sum_XD.device)

    def mlp_from(self, layer: int, neurons_XM: Tensor, normed_XD: Tensor) -> Tensor:
        """The MLP's output (..., D) from its neurons (Family.neurons) and `normed`, on the device where they are."""
        card = self.card(layer)
        key_XM = neurons_XM.to(card)
        if self.family.neurons == "up":
            key_XM = self.family.key(self, layer, key_XM, normed_XD.to(card), {})
        return self.linear(self.family.name("mlp_down", layer), key_XM, {}).to(neurons_XM.device)

    def moved(self, layer: int, mlp_XD: Tensor, change_XD: Tensor) -> Tensor:
        """By how much the state after a block moves when its MLP's output does: as much, but for a norm after it."""
        if not self.family.has("mlp_after"):
            return change_XD
        return self.added("mlp", layer, mlp_XD + change_XD) - self.added("mlp", layer, mlp_XD)

    def project(self, part: str, layer: int, input_XI: Tensor, edits: RowEdits) -> Tensor:
        """The linear layer that is a part of a block, or the part of a layer that holds several."""
        return self.linear(self.family.name(part, layer), input_XI, edits, self.family.rows(part))

    def linear(self, name: str, input_XI: Tensor, edits: RowEdits, rows: slice | None = None) -> Tensor:
        """The linear layer `name`, with its rows' edits where there are any; of its outputs all, or `rows`."""
        weight, bias, change = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), edits.get(name)
        weight_OI = weight.t() if self.family.input_first else weight
        if rows is not None:
            weight_OI, bias = weight_OI[rows], None if bias is None else bias[rows]
        output_XO = F.linear(input_XI, weight_OI, bias)
        if change is None:
            return output_XO
        changed_XO = change.output(input_XI.to(self.device)).to(output_XO.device)
        return output_XO + (changed_XO if rows is None else changed_XO[..., rows])

    def heads_apart(self, x_BTD: Tensor, heads: int | None = None) -> Tensor:
        """(B, T, D) as (B, H, T, K) with so many `heads` (default: as many as queries have)."""
        return x_BTD.unflatten(-1, (heads or self.heads, -1)).transpose(1, 2)


def _from_first(at_site: AtSite | None, first: torch.device) -> AtSite | None:
    """A visitor that is given values on the first card, wherever they are, and whose answers go back there."""
    if at_site is None:
        return None

    def visit(site: Site, layer: int, value: Tensor) -> Tensor | None:
        replaced = at_site(site, layer, value.to(first))
        return None if replaced is None else replaced.to(value.device)

    return visit


def _visit(at_site: AtSite | None, site: Site, layer: int, value: Tensor) -> Tensor:
    replaced = at_site(site, layer, value) if at_site else None
    return value if replaced is None else replaced
