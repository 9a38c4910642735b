"""The benchmarks of edits and of their evaluation compare what they say: same requests, same steps, same results.

Speeds are no test. Weights are drawn wider than GPT-2's, so that a model of 32 dimensions has vectors of an edit's
size: with tiny ones the value optimisation only amplifies rounding.
"""

import msgspec
import pytest
import torch

from artifact.bench import edit, loops_gradient, shapes
from artifact.bench.edit import bench_edit
from artifact.bench.evaluate import bench_evaluate
from artifact.bench.facts import synthetic_facts, synthetic_prefixes, word_tokens
from artifact.bench.generate import bench_generate
from artifact.bench.given import random_moments
from artifact.bench.loops import Looped, Peer
from artifact.cli import call
from artifact.editing.edit import Edit, LowRank
from artifact.editing.hparams import Hparams
from artifact.editing.methods import METHODS, MethodName
from artifact.editing.methods.kn import KnHparams
from artifact.errors import EditError
from artifact.lm.device import Memory
from artifact.lm.load import from_module

_SIZE = {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 997, "initializer_range": 0.2}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
TINY = {
    "gpt2": {"model_type": "gpt2", **_SIZE, **_ENDS},
    "gpt-j": {"model_type": "gptj", "rotary_dim": 8, "tie_word_embeddings": False, **_SIZE, **_ENDS},
}
_SPREAD = {"v_num_grad_steps": 6, "layers": (0, 1)}
FEWER = {"rome": {"v_num_grad_steps": 6}, "ft": {"num_steps": 6}} | dict.fromkeys(
    ("memit", "emmet", "alphaedit"), _SPREAD
)
"""Fewer steps than the shapes', to save time, and two layers for MEMIT's kind: the second is read with the first
changed."""


@pytest.fixture(params=TINY)
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each family in turn, at a tiny size."""
    monkeypatch.setitem(shapes.SHAPES, request.param, TINY[request.param])
    return request.param


def run(shape: str, method: MethodName, target_tokens: int, hparams: Hparams | None = None) -> edit.EditBench:
    if hparams is None:
        hparams = METHODS[method].hparams_for("tiny", 3)  # the shapes' own name layers beyond a tiny model's
        if method in FEWER:
            hparams = msgspec.structs.replace(hparams, **FEWER[method])
    return bench_edit(
        shape,
        "cpu",
        method,
        facts=2,
        loop_facts=2,
        memory=Memory(10**9),
        target_tokens=target_tokens,
        hparams=hparams,
        count=False,
    )


@pytest.mark.parametrize("target_tokens", [1, 2])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.loop])
def test_both_ways_make_the_same_edits(method: MethodName, target_tokens: int, shape: str) -> None:
    found = run(shape, method, target_tokens)
    assert found.difference < 1e-4
    steps = {"kn": 20, "mend": 1}.get(method, 6)
    assert found.our_steps == found.loop_steps == (steps, steps)
    assert found.timing.loop_facts == 2 and found.timing.ratio > 0
    assert any("the same steps both ways" in line for line in found.lines())
    if method == "kn":
        assert found.neurons is not None and found.neurons[0] > 0 and found.neurons[1] == 0
    if method == "memit":
        assert found.solve is not None and found.solve.width == 128 and found.solve.seconds > 0


def test_a_different_edit_shows(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference and the steps are of the two results, not of one with itself."""

    def other(*given: object) -> Looped:
        found = loop(*given)
        changes = {name: LowRank(change.left_IR, 1.5 * change.right_RO) for name, change in found.edit.changes.items()}
        return Looped(Edit(changes), found.steps - 1)

    loop = loops_gradient.mend_loop
    monkeypatch.setattr(loops_gradient, "mend_loop", other)
    found = run(shape, "mend", 1)
    assert found.difference == pytest.approx(1 / 3, abs=1e-3)
    assert any("NOT the same steps" in line for line in found.lines())


def test_a_failed_edit_is_raised(shape: str) -> None:
    picky = KnHparams(refine=True, adaptive_threshold=0.99, p=0.9)  # no neuron is the best of all prompts
    with pytest.raises(EditError, match="no neuron"):
        run(shape, "kn", 1, picky)


@pytest.mark.parametrize("target_tokens", [1, 2])
def test_both_ways_score_the_same(target_tokens: int, shape: str) -> None:
    found = bench_evaluate(shape, "cpu", facts=3, loop_facts=2, target_tokens=target_tokens, count=False)
    assert found.difference < 1e-4
    assert found.compared == 2 * 2 * (1 + 2 + 10 + 1 + 2)


def test_weights_are_put_back(shape: str) -> None:
    """Bit for bit, since this package's edits are computed on the same tensors."""
    module = shapes.random_module(shape, "cpu", torch.float32).requires_grad_(False)
    decoder = from_module(module)
    peer = Peer(module, decoder.family, word_tokens(997, decoder.positions))
    name = peer.name("mlp_down", 1)
    before = decoder.weights[f"{name}.weight"].clone()
    with peer.restored(name):
        peer.add(name, torch.ones(128, 32))
        assert not torch.equal(decoder.weights[f"{name}.weight"], before)
    assert torch.equal(decoder.weights[f"{name}.weight"], before)


def test_requests_are_of_counterfacts_lengths() -> None:
    tokens = word_tokens(50257, 1024)
    for fact in synthetic_facts(50257, 20, target_tokens=2):
        assert len(tokens.ids(f" {fact.subject}")) == 3 and len(tokens.ids(f" {fact.object_new}")) == 2
        assert 8 <= len(tokens.ids(fact.prompt)) <= 10 and len(fact.neighbourhood) == 10
        assert all(len(tokens.ids(prompt)) == 15 for prompt in fact.paraphrases)
        assert tokens.encode(fact.prompt).find(fact.subject)[-1] < len(tokens.ids(fact.prompt)) - 1
        assert {view.perspective for view in fact.views()} == {"entity", "relation"}
    prefixes = synthetic_prefixes(50257, ((5, 10), (10, 10)))
    assert [len(tokens.ids(prefix.replace(" {}", ""))) for prefix in prefixes[1:]] == [6] * 10 + [11] * 10
    assert max(tokens.ids(" ".join(fact.prompt for fact in synthetic_facts(50257, 20)))) > 25_000


def test_random_moments_are_well_conditioned(shape: str) -> None:
    decoder = from_module(shapes.random_module(shape, "cpu", torch.float32))
    matrix_MM = random_moments(decoder, 1)
    values_M = torch.linalg.eigvalsh(matrix_MM.double())
    assert matrix_MM.shape == (128, 128) and values_M.max() / values_M.min() < 100
    assert 0.01 < values_M.min() < 0.02  # AlphaEdit's threshold is 0.02
    assert torch.equal(matrix_MM, random_moments(decoder, 1)) and not torch.equal(matrix_MM, random_moments(decoder, 2))


def test_command_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(shapes.SHAPES, "gpt2", TINY["gpt2"])
    assert call(["bench", "edit", "--method", "memit", "--device", "cpu", "--facts", "2", "--loop-facts", "1"]) == 0
    out = capsys.readouterr().out
    assert "memit: one fact at a time" in out and "(over 1)" in out and "(2 together)" in out
    assert "GFLOP a fact" in out and "solve alone" in out and "times as fast" in out
    assert call(["bench", "evaluate", "--device", "cpu", "--facts", "2", "--no-operations"]) == 0
    out = capsys.readouterr().out
    assert "evaluate: one case at a time" in out and "largest difference of 64 NLLs" in out and "GFLOP" not in out


def test_both_ways_generate_the_same(shape: str) -> None:
    found = bench_generate(shape, "cpu", facts=3, loop_facts=2, tokens=6, count=False)
    assert (found.compared, found.same) == (4, 4) and found.timing.ratio > 0
    assert "4 of 4 texts the same both ways" in list(found.lines())[-1]
