"""Batches, memory and windows change no number of a sweep; what a device lacks is said and survived."""

import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from artifact.errors import DoesNotFit, PromptError, SettingError
from artifact.facts.fact import Statement
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, parse_bytes
from artifact.lm.load import LanguageModel
from artifact.tracing import sweep as module
from artifact.tracing.sweep import sweep
from artifact.tracing.trace import TraceSettings, trace, trace_all

KINDS: dict[str, dict] = {
    "hidden": {},
    "mlp": {"kind": "mlp", "window": 3},
    "attn": {"kind": "attn"},
    "severed": {"sever": "mlp"},
    "severed, same noise": {"sever": "attn", "fresh_noise": False},
}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(list(KINDS)),
    tokens=st.integers(1, 7),
    facts=st.integers(2, 4),
    memory=st.sampled_from([1, 200_000, 10**9]),
    data=st.data(),
)
def test_batch_size_and_memory_change_nothing(model: LanguageModel, kind, tokens, facts, memory, data) -> None:
    """Facts of one length with other corrupted tokens each, together or alone, in one batch or cell by cell."""
    ids = [data.draw(st.lists(st.integers(1, 700), min_size=tokens, max_size=tokens)) for _ in range(facts)]
    spans = [sorted(data.draw(st.sets(st.integers(0, tokens - 1), min_size=1))) for _ in range(facts)]
    cells = TraceSettings(0.5, samples=2, **KINDS[kind]).cells(model.decoder.layers)
    together = sweep(model.decoder, ids, spans, cells, Memory(memory))
    for f in range(facts):
        alone = sweep(model.decoder, [ids[f]], [spans[f]], cells, Memory(10**9))
        assert together.answer_F[f] == alone.answer_F[0]
        np.testing.assert_allclose(together.scores_FTL[f], alone.scores_FTL[0], rtol=0, atol=1e-6)
        assert together.corrupted_F[f] == pytest.approx(alone.corrupted_F[0], abs=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(kind=st.sampled_from(list(KINDS)), facts=st.integers(1, 3), data=st.data())
def test_chosen_tokens_alone_are_the_same_cells(model: LanguageModel, kind, facts, data) -> None:
    """And others cost nothing: their cells are nan."""
    tokens = 6
    ids = [data.draw(st.lists(st.integers(1, 700), min_size=tokens, max_size=tokens)) for _ in range(facts)]
    spans = [sorted(data.draw(st.sets(st.integers(0, tokens - 1), min_size=1))) for _ in range(facts)]
    only = [data.draw(st.sets(st.integers(0, tokens - 1))) for _ in range(facts)]
    cells = TraceSettings(0.5, samples=2, **KINDS[kind]).cells(model.decoder.layers)
    whole, part = (sweep(model.decoder, ids, spans, cells, Memory(10**9), only_F=one) for one in (None, only))
    assert part.corrupted_F == whole.corrupted_F and part.answer_F == whole.answer_F
    for f in range(facts):
        others = [token for token in range(tokens) if token not in only[f]]
        chosen = sorted(only[f])
        assert np.isnan(part.metrics_QFTL[:, f, others]).all()
        np.testing.assert_allclose(part.metrics_QFTL[:, f, chosen], whole.metrics_QFTL[:, f, chosen], rtol=0, atol=1e-5)


def test_tokens_that_nobody_asked_for_are_not_computed(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[int] = []
    scores = module._Token.scores
    monkeypatch.setattr(
        module._Token, "scores", lambda self, memory: restored.append(self.token) or scores(self, memory)
    )
    statements = [
        Statement(0, "The capital of France is", "France"),
        Statement(1, "The capital of Japan is", "Japan"),
        Statement(2, "Nothing", "Somebody"),
    ]
    found = trace_all(model, statements, TraceSettings(0.3), only=[[4], [4], [0]])
    assert restored == [4] and isinstance(found[2], PromptError)
    whole = trace_all(model, statements, TraceSettings(0.3))
    for one, other in zip(found[:2], whole[:2], strict=True):
        assert np.isnan(one.scores[:4]).all() and one.clean == other.clean
        np.testing.assert_allclose(one.scores[4], other.scores[4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
def test_restoring_everything_gives_the_clean_probability(model: LanguageModel, kind: str) -> None:
    """In a prompt of one token, that token's states are everything."""
    layers = model.decoder.layers
    chosen = TraceSettings(0.5, kind=kind, window=2 * layers, samples=3)
    found = sweep(model.decoder, [[11]], [[0]], chosen.cells(layers), Memory(10**9))
    if kind == "hidden":
        np.testing.assert_allclose(found.scores_FTL, found.clean_F[0], rtol=0, atol=1e-6)
    else:  # the corrupted embedding itself still flows on beside the restored module
        assert (found.scores_FTL == found.scores_FTL[0, 0, 0]).all()
    assert found.corrupted_F[0] != pytest.approx(found.clean_F[0], abs=1e-4)


def test_many_facts_in_their_order_with_errors_in_their_place(model: LanguageModel) -> None:
    statements = [
        Statement(0, "The capital of France is", "France"),
        Statement(1, "The capital of France is", "Spain"),
        Statement(2, "Marie Curie worked for", "Marie Curie"),
        Statement(3, "The capital of Japan is", "Japan"),
    ]
    found = trace_all(model, statements, TraceSettings(0.3))
    assert isinstance(found[1], PromptError)
    for number in (0, 2, 3):
        alone = trace(model, statements[number], TraceSettings(0.3))
        assert (found[number].case_id, found[number].tokens) == (number, alone.tokens)
        np.testing.assert_allclose(found[number].scores, alone.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_counts_the_runs_that_are_kept(kind: str, model: LanguageModel, monkeypatch) -> None:
    """Besides the clean one: two corrupted runs where one is scored and the other's outputs are frozen, else one."""
    kept: list[weakref.ref] = []
    alive, counted = [], []
    really_run, really_score, really_count = Decoder.run, module._Token.scores, Memory.facts

    def run(*given, **named):
        made = really_run(*given, **named)
        kept.append(weakref.ref(made.states_LBTD[-1]))
        return made

    def scores(*given):
        alive.append(sum(one() is not None for one in kept))
        return really_score(*given)

    def facts(*given):
        counted.append(given[4])
        return really_count(*given)

    for owner, name, instead in ((Decoder, "run", run), (module._Token, "scores", scores), (Memory, "facts", facts)):
        monkeypatch.setattr(owner, name, instead)
    trace(model, Statement(0, "The capital of France is", "France"), TraceSettings(0.3, **KINDS[kind]))
    assert max(alive) - 1 == max(counted) == (2 if kind == "severed" else 1)


def test_out_of_memory_halves_the_batch_and_says_so(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    statement, said = Statement(0, "The capital of France is", "France"), []
    expected = trace(model, statement, TraceSettings(0.3))
    whole = module._Token._sweep
    refused = []

    def sweep_once(self, centres):
        if len(centres) > 1:
            refused.append(len(centres))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, centres)

    monkeypatch.setattr(module._Token, "_sweep", sweep_once)
    found = trace(model, statement, TraceSettings(0.3), Memory(10**9, said.append))
    assert refused and all(line.startswith("out of memory: going on with batches for ") for line in said)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)


def test_out_of_memory_for_several_facts_goes_on_with_fewer(model: LanguageModel, monkeypatch) -> None:
    import artifact.tracing.trace as tracing

    statements = [Statement(n, f"The capital of {s} is", s) for n, s in enumerate(("France", "Japan", "Italy"))]
    expected = trace_all(model, statements, TraceSettings(0.3))

    def one_only(decoder, ids_FT, *rest):
        if len(ids_FT) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sweep(decoder, ids_FT, *rest)

    monkeypatch.setattr(tracing, "sweep", one_only)
    found = trace_all(model, statements, TraceSettings(0.3), Memory(10**9))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)


def test_a_fact_that_never_fits_is_an_error_of_its_case(model: LanguageModel, monkeypatch) -> None:
    import artifact.tracing.trace as tracing

    def refused(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tracing, "sweep", refused)
    statements = [Statement(n, f"The capital of {s} is", s) for n, s in enumerate(("France", "Japan"))]
    found = trace_all(model, statements, TraceSettings(0.3), Memory(10**9))
    assert [str(one)[:40] for one in found] == [f"case {n}: one fact of 5 tokens, 10 samples" for n in (0, 1)]
    assert all(isinstance(one, DoesNotFit) for one in found)


def test_windows_that_are_alike_share_a_row(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window wider than the model is one group of rows, whatever its centre."""
    layers = model.decoder.layers
    seen = []
    block = type(model.decoder).block

    def counted(self, layer, hidden_BTD, **more):
        seen.append(hidden_BTD.shape[0])
        return block(self, layer, hidden_BTD, **more)

    monkeypatch.setattr(type(model.decoder), "block", counted)
    cells = TraceSettings(0.5, kind="mlp", window=2 * layers, samples=4).cells(layers)
    sweep(model.decoder, [[5, 6]], [[1]], cells, Memory(10**9))
    assert seen == [1] * layers + [4] * layers + [4] * layers  # clean, corrupted, one restored token


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 15 * 10**8), ("2T", 2 * 10**12)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "lots", "-1GB", "0GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingError, match="is not a size; give one such as 8GB"):
        parse_bytes(text)
