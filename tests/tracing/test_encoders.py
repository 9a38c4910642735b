"""Traces of encoders equal one pass a cell through transformers' own model: every token, both views, all kinds."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from family_models import ENCODERS, MASKED, masked_model

from artifact.errors import ModelError, PromptError
from artifact.facts.fact import Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.tracing.averages import role_tokens, trace_numbers
from artifact.tracing.corruption import noise
from artifact.tracing.edges import EDGES
from artifact.tracing.kinds import TRACE_KINDS, TraceKind
from artifact.tracing.knockout import knockout
from artifact.tracing.trace import Trace, TraceSettings, greedy_answers, screen, trace, trace_all

LAYERS, SAMPLES, LEVEL = 3, 2, 0.5
STATEMENT = Statement(0, "The capital of France is", "France")
IN_THE_MIDDLE = {"bert": "The [MASK] of France is Paris", "roberta": "The <mask> of France is Paris"}


@pytest.fixture(scope="module", params=ENCODERS)
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    return masked_model(request.param, LAYERS)


class Loop:
    """One pass a cell: hooks on the module that corrupt, freeze and restore; rows are the clean run, then samples."""

    def __init__(self, module: Any, family: Any, ids: Sequence[int], span: Sequence[int], read: int) -> None:
        self.module, self.family, self.read, self.span = module, family, read, list(span)
        self.ids_BT = torch.tensor([list(ids)] * (1 + SAMPLES))

    def part(self, site: str, layer: int) -> Any:
        names = {"mlp": self.family.name("mlp_down", layer), "attn": self.family.name("attn_out", layer)}
        return self.module.get_submodule(names.get(site, f"{self.family.blocks}.{layer}"))

    @contextmanager
    def hooked(self, part: Any, change: Any) -> Iterator[None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            change(output[0] if isinstance(output, tuple) else output)

        handle = part.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def probabilities(self, draw: int, changes: Sequence[tuple[str, int, Any]]) -> torch.Tensor:
        """At the read position, under noise and these changes of outputs (site, layer, function)."""
        unit = noise(SAMPLES, len(self.span), self.module.config.hidden_size, draw)

        def corrupt(output_BTD: torch.Tensor) -> None:
            output_BTD[1:, self.span] = (output_BTD[1:, self.span].double() + LEVEL * torch.as_tensor(unit)).float()

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(self.hooked(self.module.get_submodule(self.family.embedding), corrupt))
            for site, layer, change in changes:
                stack.enter_context(self.hooked(self.part(site, layer), change))
            return self.module(self.ids_BT).logits[:, self.read].softmax(-1)

    def cell(self, kind: TraceKind, window: range, token: int, fresh: bool, answer: int) -> float:
        frozen: dict[tuple[str, int], torch.Tensor] = {}

        def keep(site: str, layer: int) -> Any:
            def change(output_BTD: torch.Tensor) -> None:
                frozen[site, layer] = output_BTD[1:, token].clone()

            return change

        def freeze(site: str, layer: int) -> Any:
            def change(output_BTD: torch.Tensor) -> None:
                output_BTD[1:, token] = frozen[site, layer]

            return change

        def restore(output_BTD: torch.Tensor) -> None:
            output_BTD[1:, token] = output_BTD[0, token]

        severed = [(site, layer) for site in kind.severed for layer in range(LAYERS)]
        if severed:
            self.probabilities(0, [(*one, keep(*one)) for one in severed])
        changes = [(*one, freeze(*one)) for one in severed]
        changes += [(kind.site, layer, restore) for layer in window]
        return float(self.probabilities(int(bool(severed) and fresh), changes)[1:, answer].mean())


def expected_of(loop: Loop, settings: TraceSettings, answer: int) -> np.ndarray:
    windows = settings.trace_kind.windows(LAYERS, settings.window)
    return np.array(
        [
            [loop.cell(settings.trace_kind, window, token, settings.fresh_noise, answer) for window in windows]
            for token in range(loop.ids_BT.shape[1])
        ]
    )


FRESH = [(name, True) for name, one in TRACE_KINDS.items() if one.severed]
"""The kinds whose frozen values and scored run may have different noise."""


@pytest.mark.parametrize(("kind", "fresh"), [*((name, False) for name in TRACE_KINDS), *FRESH])
@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_a_trace_equals_one_pass_a_cell(both: Any, perspective: Any, kind: str, fresh: bool) -> None:
    model, module = both
    of_kind = TRACE_KINDS[kind]
    settings = TraceSettings(LEVEL, of_kind.kind, 2, SAMPLES, of_kind.sever, fresh_noise=fresh, perspective=perspective)
    found = trace(model, STATEMENT, settings)
    ids = model.tokens.encode(STATEMENT.prompt).ids
    assert ids == tuple(MASKED[model.name]()(STATEMENT.prompt + IN_THE_MIDDLE[model.name][3:10] + ".")["input_ids"])
    assert found.mask == len(ids) - 3
    assert found.span == ((4,) if perspective == "entity" else (1, 2, 3, 5))
    loop = Loop(module, model.decoder.family, ids, found.span, found.mask)
    clean = loop.probabilities(0, [])[0]
    assert found.answer_id == int(clean.argmax()) and found.clean == pytest.approx(float(clean.max()), abs=1e-6)
    np.testing.assert_allclose(found.scores, expected_of(loop, settings, found.answer_id), rtol=1e-4, atol=1e-6)
    moved = np.abs(np.array(found.scores) - found.corrupted).max(1)
    # Tokens on the left of the first corrupted one and on the right of the mask count, too.
    assert (moved > 1e-6).all()


def test_many_facts_of_other_lengths_and_masks_in_little_memory(both: Any) -> None:
    model, _ = both
    statements = [
        STATEMENT,
        Statement(1, "The report said the capital of Japan is", "Japan"),
        Statement(2, IN_THE_MIDDLE[model.name], "France"),
        Statement(3, "The capital of Japan is", "Spain"),
    ]
    settings = TraceSettings(LEVEL, "mlp", 2, SAMPLES)
    found = trace_all(model, statements, settings, Memory(1))
    assert isinstance(found[3], PromptError)
    answers = greedy_answers(model, statements)
    for number in range(3):
        alone, one = trace(model, statements[number], settings), found[number]
        assert isinstance(one, Trace)
        np.testing.assert_allclose(one.scores, alone.scores, rtol=0, atol=1e-6)
        assert (one.answer_id, one.mask) == (answers[number], alone.mask)
    middle = found[2]
    assert isinstance(middle, Trace) and middle.mask == 2
    told = middle.told()
    assert set(told["metrics"]) == {"logp", "ld"} and told["foils"] == middle.foils
    for name, one in told["metrics"].items():
        np.testing.assert_allclose(one["scores"], middle.metrics[name].scores, rtol=1e-5)
    assert role_tokens("relation", len(told["tokens"]), told["subject"], told["span"], 2)["last token"] == (2,)
    numbers = trace_numbers("entity", told)
    assert numbers[2] == 0.0  # the last corrupted token is not where the answer is read
    assert "mask" not in Trace(**vars(middle) | {"mask": None}).told()


def test_screen_is_the_gradient_of_every_token(both: Any) -> None:
    """Moving a little towards the clean value changes the metric by that part of the screen's effect."""
    model, _ = both
    settings = TraceSettings(1e-3, "mlp", 1, SAMPLES)
    exact = trace(model, STATEMENT, settings).metrics["logp"]
    approximate = screen(model, STATEMENT, settings, "logp")
    np.testing.assert_allclose(approximate, np.array(exact.scores) - exact.corrupted, rtol=0, atol=2e-6)


def test_what_an_encoder_is_refused(both: Any) -> None:
    model, _ = both
    mask = IN_THE_MIDDLE[model.name].split()[1]
    with pytest.raises(PromptError, match="has 2 masks .*; give one, or none at its end"):
        model.tokens.encode(f"{mask} is {mask} of France")
    with pytest.raises(
        PromptError, match=r"has \d+ word pieces, and an encoder's mask stands for one; give a text of one"
    ):
        model.tokens.continuation(" Ouagadougou")
    with pytest.raises(ModelError, match=f"attention knockout needs a decoder, and {model.name} is an encoder; give"):
        knockout(model, STATEMENT, list(EDGES.values()), 1)
