"""Causal tracing against the golden numbers (1e-5), and properties that hold for any model."""

import hashlib
import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from artifact.errors import SettingError
from artifact.facts.fact import Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.tracing.corruption import embedding_spread
from artifact.tracing.sweep import sweep
from artifact.tracing.trace import TraceSettings, trace

GOLDEN = sorted((Path(__file__).parent.parent / "reference" / "trace").glob("*.npz"))
KEYS: dict[str, dict] = {
    "scores_state": {},
    "scores_mlp_w10": {"kind": "mlp"},
    "scores_mlp_w3": {"kind": "mlp", "window": 3},
    "scores_attn_w10": {"kind": "attn"},
    "scores_attn_w3": {"kind": "attn", "window": 3},
    "severed_none": {},
    "severed_mlp": {"sever": "mlp"},
    "severed_attn": {"sever": "attn"},
    "severed_mlp_same_noise": {"sever": "mlp", "fresh_noise": False},
    "severed_attn_same_noise": {"sever": "attn", "fresh_noise": False},
}


def trace_ids(decoder, ids, span, chosen: TraceSettings, memory: int = 10**9):
    """Answer id, clean and corrupted probability and scores of one fact's ids."""
    found = sweep(decoder, [ids], [list(span)], chosen.cells(decoder.layers), Memory(memory))
    return found.answer_F[0], found.clean_F[0], found.corrupted_F[0], found.scores_FTL[0]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden(file: Path, key: str, tiny) -> None:
    golden = np.load(file)
    if key not in golden:
        assert key.startswith("severed"), "some facts have no severed traces, but all have the others"
        pytest.skip(f"{file.name} has no {key}")
    model = tiny(file.stem.split("_")[0])
    answer_id, clean, corrupted, scores_TL = trace_ids(
        model.decoder,
        golden["input_ids"].tolist(),
        range(*golden["corrupt_range"]),
        TraceSettings(float(golden["noise_level"]), **KEYS[key]),
    )
    assert answer_id == golden["answer_id"]
    assert clean == pytest.approx(float(golden["high_score"]), abs=1e-5)
    assert corrupted == pytest.approx(float(golden["low_score"]), abs=1e-5)
    np.testing.assert_allclose(scores_TL, golden[key], rtol=0, atol=1e-5)


def test_golden_from_text(reference: Path, tiny) -> None:
    """The same numbers from prompt, subject and fact file: spans and noise level are found as the reference did."""
    index = json.loads((reference / "trace" / "index.json").read_text())
    for name, part in index.items():
        model = tiny(name)
        level = 3 * embedding_spread(model.decoder, model.tokens, part["subjects"])
        assert level == pytest.approx(part["noise_level"], rel=1e-6)
        subject = {f["case_id"]: f["corrupt_substring"] for f in part["files"] if f["corrupt"] == "subject"}
        for entry in part["files"]:
            golden = np.load(reference / "trace" / entry["file"])
            entity = entry["corrupt"] == "subject"
            found = trace(
                model,
                Statement(entry["case_id"], entry["prompt"], subject[entry["case_id"]]),
                TraceSettings(level, perspective="entity" if entity else "relation", relation_span="after"),
            )
            assert found.tokens == tuple(entry["tokens"])
            assert list(found.span) == list(range(*golden["corrupt_range"]))
            assert found.answer == entry["answer"]
            assert (found.clean, found.corrupted) == pytest.approx((entry["high"], entry["low"]), abs=1e-5)
            np.testing.assert_allclose(found.scores, golden["scores_state"], rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    ids=st.lists(st.integers(1, 700), min_size=2, max_size=9),
    kind=st.sampled_from(["hidden", "mlp", "attn"]),
    window=st.integers(1, 8),
    data=st.data(),
)
def test_properties(model: LanguageModel, ids: list[int], kind: str, window: int, data: st.DataObject) -> None:
    """Cells before the corruption keep the corrupted score; the last token's last state is the clean run; all are
    probabilities; one sweep equals restoring one cell at a time."""
    span = sorted(data.draw(st.sets(st.integers(0, len(ids) - 1), min_size=1)))
    chosen = TraceSettings(0.5, kind=kind, window=window, samples=3)
    decoder = model.decoder
    with torch.no_grad():
        answer_id, clean, corrupted, scores_TL = trace_ids(decoder, ids, span, chosen)
        assert (scores_TL[: span[0]] == corrupted).all()
        assert ((scores_TL >= 0) & (scores_TL <= 1)).all()
        if kind == "hidden":
            assert scores_TL[-1, -1] == pytest.approx(clean, abs=1e-5)
            np.testing.assert_allclose(scores_TL[:-1, -1], corrupted, rtol=0, atol=1e-6)
        token = data.draw(st.integers(span[0], len(ids) - 1))
        layer = data.draw(st.integers(0, decoder.layers - 1))
        expected = _one_cell(model, ids, span, chosen, token, layer, answer_id)
        assert scores_TL[token, layer] == pytest.approx(expected, abs=1e-5)


def _one_cell(model, ids, span, chosen, token, layer, answer_id) -> float:
    """The plain way: one whole pass for one cell."""
    from artifact.tracing.corruption import corrupt_words, noise

    decoder = model.decoder
    word_1TD = decoder.words(torch.tensor([ids]))
    keep = ("hidden", "mlp", "attn")
    clean = decoder.run(word_1TD, keep)
    layers = chosen.cells(decoder.layers).windows[layer]
    word_STD = corrupt_words(word_1TD, span, chosen.noise_level, noise(chosen.samples, len(span), decoder.width))

    def restore(site, at, value):
        if site == chosen.kind and at in layers:
            value = value.clone()
            value[:, token] = clean.outputs[site][at][:, token]
            return value
        return None

    final = decoder.run(word_STD, at_site=restore).states_LBTD[-1][:, -1]
    return float(decoder.logits(final).softmax(-1)[:, answer_id].mean())


def test_tracing_leaves_weights_alone(model: LanguageModel) -> None:
    before = model.weights_hash()
    trace(model, Statement(0, "The capital of France is", "France"), TraceSettings(0.3))
    assert model.weights_hash() == before
    assert before != hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({"samples": 0}, "samples"),
        ({"window": 0}, "window"),
        ({"kind": "mlp", "sever": "mlp"}, "--kind hidden"),
    ],
)
def test_settings_refuse(bad: dict, names: str) -> None:
    with pytest.raises(SettingError, match=names):
        TraceSettings(0.3, **bad)
    with pytest.raises(SettingError, match="noise"):
        TraceSettings(float("nan"))
