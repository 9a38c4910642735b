"""Sums of second moments over texts: what they are, in which batches, and their files."""

from pathlib import Path

import numpy as np
import torch

from artifact.editing.moments.files import read_moments
from artifact.editing.moments.sums import KeySums, compute_moments, write_moments
from artifact.lm.device import Memory

TEXTS = ["The capital of France is Paris", "The report said", "Yes"]


def test_computed_moments_are_means_over_real_tokens(model) -> None:
    """Padding does not count, and batches do not matter: equal to one text at a time, from the whole pass."""
    decoder = model.decoder
    total, count = torch.zeros(256, 256, dtype=torch.float64), 0
    for text in TEXTS:
        ids_BT = torch.tensor([model.tokens.ids(text)])
        with torch.no_grad():
            keys = decoder.run(decoder.words(ids_BT), keep=("key",)).outputs["key"][1][0].double()
        total, count = total + keys.t() @ keys, count + len(keys)
    ids = [model.tokens.ids(text) for text in TEXTS]
    found = compute_moments(model, ids, (1,), "test").matrix(decoder, 1)
    torch.testing.assert_close(found, total / count, rtol=1e-5, atol=1e-6)
    ridged = compute_moments(model, ids, (1,), "test", ridge=0.5).matrix(decoder, 1)
    torch.testing.assert_close(ridged - found, 0.5 * found.diagonal().mean() * torch.eye(256, dtype=torch.float64))


def test_written_sums_have_the_published_layout(model, reference, tmp_path) -> None:
    sums = KeySums(model, (0, 2))
    sums.add([model.tokens.ids(text) for text in TEXTS])
    paths = write_moments(tmp_path, model, sums, len(TEXTS))
    for path, (layer, total_MM) in zip(paths, sums.totals_MM.items(), strict=True):
        golden = np.load(next((reference / "moments" / Path(model.name).name).rglob(f"transformer.h.{layer}.*.npz")))
        assert path.name == f"{model.decoder.family.name('mlp_down', layer)}_float32_mom2_3.npz"
        found = np.load(path)
        assert {name: found[name].dtype for name in found} == {name: golden[name].dtype for name in golden}
        assert (found["mom2.count"], found["sample_size"]) == (sums.tokens, 3)
        np.testing.assert_array_equal(found["mom2.mom2"], total_MM.float())
        read = read_moments(tmp_path).matrix(model.decoder, layer)
        assert torch.equal(read, total_MM.float().double() / sums.tokens)


def test_a_batch_of_texts_fits_the_budget(model) -> None:
    sums, texts = KeySums(model, (0,)), [[1] * 8] * 64
    counts = [sums.fitting(texts, Memory(limit)) for limit in (1, 10**6, 10**9)]
    assert counts[0] == 1 < counts[1] < counts[2] == 64
