"""`kloc bench where` on a tiny shape: the sweep's edits are the single ones, whatever the module."""

import pytest

from artifact.bench.shapes import SHAPES
from artifact.bench.where import bench_where


@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_the_sweep_gives_the_single_edits(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = SHAPES["gpt2"] | {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 3000}
    monkeypatch.setitem(SHAPES, "gpt2", tiny)
    found = bench_where("gpt2", "cpu", site, "last", count=False)
    assert found.layers == found.timing.facts == 3
    assert found.difference < 1e-3
    assert "3 layers in one sweep" in list(found.lines())[-1]
