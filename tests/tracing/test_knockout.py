"""Attention knockout against the golden numbers (1e-5), transformers' own models, and properties of any model."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from family_models import DECODERS, ENCODERS, check_table, configuration, masked_model, module_of
from hypothesis import given, settings

from artifact.errors import ModelError, PromptError, SettingError
from artifact.facts.fact import Statement
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory
from artifact.lm.families import FAMILIES
from artifact.lm.load import LanguageModel, from_module
from artifact.tracing.cut import Cut, Flow, knock_out
from artifact.tracing.edges import EDGES, Edge, places, scaled_window
from artifact.tracing.knockout import knockout, knockout_all
from artifact.tracing.windows import around

GOLDEN = sorted((Path(__file__).parent.parent / "reference" / "knockout").glob("*.npz"))
STATEMENT = Statement(0, "The capital of France is", "France")


def cut_ids(decoder: Decoder, ids: list[int], pairs: list[tuple], window: int, **more: Any) -> Flow:
    """The flow of one fact's ids under each set of pairs."""
    cuts = [Cut(0, tuple(one)) for one in pairs]
    return knock_out(decoder, [ids], cuts, around(decoder.layers, window), more.pop("memory", Memory(10**9)), **more)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden(file: Path, tiny) -> None:
    golden, decoder = np.load(file), tiny(file.stem.split("_")[0]).decoder
    ids = golden["input_ids"].tolist()
    last = len(ids) - 1
    groups = {
        group: np.argwhere(golden[f"mask_{group}"][last] == 0)[:, 0] for group in ("subject", "nonsubject", "last")
    }
    for window in (1, 3, 9):
        pairs = [[(last, key) for key in keys] for keys in groups.values()]
        found = cut_ids(decoder, ids, [*pairs, *([(last, key)] for key in range(len(ids)))], window)
        assert found.answer_F == [golden["answer_id"]]
        assert found.before_F[0] == pytest.approx(float(golden["base_score"]), abs=1e-5)
        for row, group in enumerate(groups):
            expected_L = golden[f"scores_{group}_w{window}"]
            np.testing.assert_allclose(found.after_CL[row], expected_L, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.after_CL[3:], golden[f"scores_token_w{window}"], rtol=0, atol=1e-5)
    alone = cut_ids(decoder, ids, [[(last, key) for key in range(last)]], 2 * decoder.layers)
    np.testing.assert_allclose(alone.after_CL, float(golden["score_all_blocked"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_from_text(file: Path, tiny, reference: Path) -> None:
    """The same numbers from prompt and subject: roles are found as the reference has them."""
    golden, entry = np.load(file), json.loads((reference / "knockout" / "index.json").read_text())["cases"][file.stem]
    found = knockout(
        tiny(file.stem.split("_")[0]),
        Statement(0, entry["prompt"], entry["subject"]),
        [EDGES["last-subject"], EDGES["last-relation"], EDGES["last-last"]],
        window=3,
    )
    assert (list(found.tokens), found.answer) == (entry["tokens"], entry["answer"])
    for cut, group in zip(found.cuts, ("subject", "nonsubject", "last"), strict=True):
        np.testing.assert_allclose(cut.after, golden[f"scores_{group}_w3"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_equals_one_pass_a_window_through_transformers(name: str) -> None:
    module = module_of(configuration(name, lambda choices: choices[-1], layers=4))
    decoder = from_module(module)
    ids = torch.randint(3, 40, (1, 7), generator=torch.Generator().manual_seed(1))
    where = places(7, (2, 3))
    pairs = [edge.pairs(where) for edge in EDGES.values()]
    windows = around(decoder.layers, 2)
    found = knock_out(decoder, ids.tolist(), [Cut(0, one) for one in pairs], windows, Memory(10**9))
    for row, one in enumerate(pairs):
        for layer, window in enumerate(windows):
            with torch.no_grad(), _blocked(module, one, window):
                probability = module(ids, use_cache=False).logits[0, -1].softmax(-1)[found.answer_F[0]]
            assert found.after_CL[row, layer] == pytest.approx(float(probability), abs=1e-5)
    assert np.ptp(found.after_CL) > 1e-3  # the edges matter in this model
    check_table({(name, "knockout"): "yes"})


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="attention knockout needs a decoder"):
        knockout(masked_model(name, layers=1)[0], STATEMENT, list(EDGES.values()), 1)
    check_table({(name, "knockout"): "no"})


@contextmanager
def _blocked(module: Any, pairs: Sequence[tuple[int, int]], layers: Sequence[int]) -> Iterator[None]:
    """Within the block, these (reading, read) pairs get the lowest score that there is in these layers."""

    def mask(_: Any, args: Any, named: dict[str, Any]) -> Any:
        hidden_BTD = named["hidden_states"] if "hidden_states" in named else args[0]
        tokens = hidden_BTD.shape[1]
        open_TT = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        for reading, read in pairs:
            open_TT[reading, read] = False
        lowest = torch.finfo(hidden_BTD.dtype).min
        return args, named | {"attention_mask": torch.zeros(tokens, tokens).masked_fill(~open_TT, lowest)[None, None]}

    blocks = module.get_submodule(FAMILIES[module.config.model_type].blocks)
    parts = [_attention(blocks[layer]) for layer in layers]
    handles = [part.register_forward_pre_hook(mask, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attention(block: Any) -> Any:
    (name,) = {"attn", "self_attn", "attention"} & {name for name, _ in block.named_children()}
    return block.get_submodule(name)


@settings(max_examples=12, deadline=None)
@given(tokens=st.integers(2, 7), window=st.integers(1, 8), small=st.booleans(), data=st.data())
def test_properties(model: LanguageModel, tokens: int, window: int, small: bool, data: st.DataObject) -> None:
    """Without edges nothing changes; cuts of several facts together, in little memory, are those of each alone; a token
    that none reads in any layer might as well be another."""
    ids = [data.draw(st.lists(st.integers(1, 700), min_size=tokens, max_size=tokens)) for _ in range(2)]
    pair = st.tuples(st.integers(0, tokens - 1), st.integers(0, tokens - 1)).filter(lambda p: p[1] <= p[0])
    pairs = [tuple(data.draw(st.sets(pair, max_size=6))) for _ in range(3)]
    cuts = [Cut(fact, pairs[n]) for n, fact in enumerate((0, 1, 1))]
    windows = around(model.decoder.layers, window)
    memory = Memory(1 if small else 10**9)
    together = knock_out(model.decoder, ids, cuts, windows, memory, extraction=True)
    for row, cut in enumerate(cuts):
        alone = cut_ids(model.decoder, ids[cut.fact], [cut.pairs], window, extraction=True)
        # Products of another shape round otherwise: of a probability near a half 1.1e-6 was seen in float32.
        np.testing.assert_allclose(together.after_CL[row], alone.after_CL[0], rtol=0, atol=5e-6)
        np.testing.assert_array_equal(together.first_XCLL[:, row], alone.first_XCLL[:, 0])
        if not cut.pairs:
            assert (together.after_CL[row] == together.before_F[cut.fact]).all()
    token = data.draw(st.integers(0, tokens - 2))
    unread = [(reading, token) for reading in range(token + 1, tokens)]
    answers = set()
    for other in (ids[0][token], 5, 600):
        changed = [*ids[0][:token], other, *ids[0][token + 1 :]]
        flow = cut_ids(model.decoder, changed, [unread], 2 * model.decoder.layers)
        with torch.no_grad():
            final_1TD = _unread_run(model.decoder, changed, token)
            probability = float(model.decoder.logits(final_1TD[:, -1]).softmax(-1)[0, flow.answer_F[0]])
        assert flow.after_CL[0] == pytest.approx(probability, abs=5e-6)
        answers.add(round(float(model.decoder.logits(final_1TD[:, -1]).max()), 3))
    assert len(answers) == 1


def _unread_run(decoder: Decoder, ids: list[int], token: int) -> torch.Tensor:
    """A whole pass in which a padding mask hides `token` from the others."""
    from artifact.lm.aligned import Aligned

    tokens = len(ids)
    seen_TK = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    seen_TK[torch.arange(tokens) != token, token] = False
    aligned = Aligned(torch.arange(tokens)[None], seen_TK[None, None])
    return decoder.blocks(decoder.embed(decoder.words(torch.tensor([ids]))), aligned=aligned)


def test_extraction_and_lens_are_those_of_whole_passes(model: LanguageModel) -> None:
    """Attention's and the MLP's output at the last position times the head, with and without a cut, layer by layer."""
    found = knockout(model, STATEMENT, [EDGES["last-subject"], EDGES["relation-subject"]], window=1)
    decoder, ids = model.decoder, list(model.tokens.encode(STATEMENT.prompt).ids)
    with torch.no_grad():
        run = decoder.run(decoder.words(torch.tensor([ids])), ("attn", "mlp"))
        for module in ("attn", "mlp"):
            head = [int((out[0, -1] @ decoder.head_VD.T).argmax()) for out in run.outputs[module]]
            assert found.extracted[module] == [n for n, token in enumerate(head) if token == found.answer_id]
        lens = [decoder.logits(state[0]).softmax(-1)[:, found.answer_id] for state in run.states_LBTD[1:]]
    np.testing.assert_allclose(found.lens, torch.stack(lens, 1), rtol=0, atol=1e-6)
    assert found.lens[-1][-1] == pytest.approx(found.before, abs=1e-6)
    assert found.extracted["mlp"] or found.extracted["attn"]
    for cut in found.cuts:
        for module in ("attn", "mlp"):
            for centre, layers in enumerate(cut.extracted[module]):
                # Below the window nothing has changed.
                below = [layer for layer in found.extracted[module] if layer < centre]
                assert [layer for layer in layers if layer < centre] == below
    blocked = knockout(model, STATEMENT, [EDGES["last-subject"]], window=2 * decoder.layers)
    assert blocked.cuts[0].after[0] < 0.5 < blocked.before
    assert all(blocked.cuts[0].extracted[module][0] == [] for module in ("attn", "mlp"))


def test_many_statements_in_their_order_with_errors_in_their_place(model: LanguageModel) -> None:
    statements = [
        STATEMENT,
        Statement(1, "The capital of France is", "Spain"),
        Statement(2, "Marie Curie worked for", "Marie Curie"),
        Statement(3, "The capital of Japan is", "Japan"),
    ]
    found = knockout_all(model, statements, list(EDGES.values()), 3, extraction=False)
    assert isinstance(found[1], PromptError)
    for number in (0, 2, 3):
        alone = knockout(model, statements[number], list(EDGES.values()), 3, extraction=False)
        assert (found[number].case_id, found[number].extracted, found[number].lens) == (number, None, None)
        for one, other in zip(found[number].cuts, alone.cuts, strict=True):
            np.testing.assert_allclose(one.after, other.after, rtol=0, atol=1e-6)
    subject_first = found[2].cuts[list(EDGES).index("subject-relation")]
    assert (subject_first.removed, set(subject_first.after)) == (0, {found[2].before})


def test_roles_and_windows() -> None:
    assert places(6, (2, 3), opening=1) == {"last": (5,), "relation": (1, 4), "subject": (2, 3)}
    assert Edge("relation", "subject").pairs(places(6, (2, 3))) == ((4, 2), (4, 3))
    assert Edge("last", "last").pairs(places(6, (2, 3))) == ((5, 5),)
    assert [scaled_window(layers) for layers in (48, 28, 6, 1)] == [9, 5, 1, 1]
    assert [scaled_window(24, window) for window in (1, 3, 5, 9, 10)] == [1, 2, 3, 5, 5], "halves are rounded up"
    with pytest.raises(SettingError, match="window must be from 1"):
        knockout_all(None, [], [], 0)
