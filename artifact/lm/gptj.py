"""GPT-J: attention and MLP in parallel on one norm, rotary positions on the first `rotary` entries of each head."""

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder, RowEdits

_PARTS = {
    "attn_norm": "ln_1",
    "attn_query": "attn.q_proj",
    "attn_key": "attn.k_proj",
    "attn_value": "attn.v_proj",
    "attn_out": "attn.out_proj",
    "mlp_up": "mlp.fc_in",
    "mlp_down": "mlp.fc_out",
}


class GPTJ:
    """Family of EleutherAI/gpt-j-6b."""

    parallel = True
    input_first = False
    rms_norm = False
    blocks = "transformer.h"
    embedding = "transformer.wte"
    final_norm = "transformer.ln_f"
    activated = "mlp_up"
    required = {"activation_function": "gelu_new"}

    def __init__(self, rotary: int) -> None:
        self.rotary = rotary

    def name(self, part: str, layer: int) -> str:
        return f"{self.blocks}.{layer}.{_PARTS[part]}"

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        query, key, value = (
            decoder.heads_apart(decoder.linear(self.name(f"attn_{part}", layer), normed_BTD, edits))
            for part in ("query", "key", "value")
        )
        return self._rotate(query, position_XT), self._rotate(key, position_XT), value

    def key(self, decoder: Decoder, layer: int, up_BTM: Tensor, normed_BTD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_BTM, approximate="tanh")

    def _rotate(self, x_BHTK: Tensor, position_XT: Tensor) -> Tensor:
        """Rotate neighbouring pairs of the first `rotary` entries by position times 10000^(-2i/rotary)."""
        position = position_XT[:, None, :, None].float()  # spread over heads and pairs
        pairs = torch.arange(0, self.rotary, 2, dtype=torch.float32, device=x_BHTK.device)
        angle = position * 10000.0 ** (-pairs / self.rotary)
        cos, sin = angle.cos().to(x_BHTK.dtype), angle.sin().to(x_BHTK.dtype)
        turned, rest = x_BHTK[..., : self.rotary], x_BHTK[..., self.rotary :]
        even, odd = turned[..., 0::2], turned[..., 1::2]
        rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return torch.cat((rotated, rest), dim=-1)
