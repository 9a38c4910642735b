"""Attention: values mixed by the products of queries and keys, in a kernel of torch's or, capped, written out.

Shape letters as in lm/decoder.py; N is the number of keys, stored ones among them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attended(
    query_BHTK: Tensor,
    key_BGNK: Tensor,
    value_BGNK: Tensor,
    *,
    seen: Tensor | None,
    causal: bool,
    scale: float | None,
    cap: float | None,
) -> Tensor:
    """Values mixed for every query (B, H, T, K); keys and values have as many heads, or G that divide H.

    A query sees the keys that `seen` says, those up to its own where `causal`, or all; one that sees none gets zeros.
    Products are multiplied by `scale` (default: one over the root of K); with a `cap` (Gemma 2) a product x becomes
    cap * tanh(x / cap).
    """
    key_BHNK, value_BHNK = _for_each_query(key_BGNK, query_BHTK), _for_each_query(value_BGNK, query_BHTK)
    if cap is None:
        return F.scaled_dot_product_attention(
            query_BHTK, key_BHNK, value_BHNK, attn_mask=seen, is_causal=causal, scale=scale
        )
    product_BHTN = query_BHTK @ key_BHNK.transpose(2, 3) * (scale or query_BHTK.shape[-1] ** -0.5)
    product_BHTN = (product_BHTN / cap).tanh() * cap
    if causal:
        seen = torch.ones(product_BHTN.shape[-2:], dtype=torch.bool, device=product_BHTN.device).tril()
    if seen is not None:
        product_BHTN = product_BHTN.masked_fill(~seen, torch.finfo(product_BHTN.dtype).min)
    share_BHTN = product_BHTN.float().softmax(-1)
    if seen is not None:
        share_BHTN = share_BHTN * seen.any(-1, keepdim=True)  # as torch's kernel does, and unlike a softmax
    return share_BHTN.to(value_BHNK.dtype) @ value_BHNK


def seen_after(start: int, tokens: int, device: torch.device) -> Tensor | None:
    """Which of the P+T keys each of the T queries sees, (T, P+T); None where plain causality or everything is meant."""
    if start == 0 or tokens == 1:
        return None
    return torch.ones(tokens, start + tokens, dtype=torch.bool, device=device).tril(start)


def _for_each_query(stored_BGNK: Tensor, query_BHTK: Tensor) -> Tensor:
    """Keys or values of N tokens and G groups for every head of the queries: repeated for the heads of its group."""
    group = query_BHTK.shape[1] // stored_BGNK.shape[1]
    # Repeated here: the attention kernel that float32 takes on a GPU knows no groups.
    return stored_BGNK if group == 1 else stored_BGNK.repeat_interleave(group, dim=1)
