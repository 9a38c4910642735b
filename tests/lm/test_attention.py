"""Attention written out, where products are capped, is torch's kernel where the cap is too large to matter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.lm.attention import attended


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["seen", "causal", "all"]), st.integers(1, 6), st.sampled_from([1, 2, 4]))
def test_a_cap_that_is_too_large_to_matter_changes_nothing(seed: int, sees: str, tokens: int, groups: int) -> None:
    """Whatever is masked: a query that sees no key takes nothing, and its gradient is zero."""
    draw = torch.Generator().manual_seed(seed)
    query_BHTK = torch.randn(2, 4, tokens, 8, generator=draw)
    key_BGNK, value_BGNK = torch.randn(2, 2, groups, tokens, 8, generator=draw)
    seen = torch.rand(2, 1, tokens, tokens, generator=draw) < 0.4 if sees == "seen" else None
    made = []
    for cap in (None, 1e5):
        inputs = [one.clone().requires_grad_() for one in (query_BHTK, key_BGNK, value_BGNK)]
        mixed = attended(*inputs, seen=seen, causal=sees == "causal", scale=0.3, cap=cap)
        made.append([mixed, *torch.autograd.grad(mixed.square().sum(), inputs)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
