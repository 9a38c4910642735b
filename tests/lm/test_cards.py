"""A model larger than one card: its blocks spread over two stand-in cards give the processor's numbers."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import standin
import torch
from family_models import VOCABULARY, configuration, module_of, write_model

from artifact.editing.edit_file import read_edit, write_edit
from artifact.editing.ft import ft
from artifact.editing.kn import attributions
from artifact.editing.memit import memit
from artifact.editing.mend import inner_weights, request
from artifact.editing.mend_gradients import inner_gradients
from artifact.editing.methods.ft import FtHparams
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.methods.mend import MendHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.sums import compute_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import rome
from artifact.errors import ModelError
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, described, load_folder
from artifact.runs.resolve import _factors, factor_bytes
from artifact.tracing.trace import TraceSettings, trace

RELEASED, MEMORY, LAYERS = PROTOCOLS["released"], Memory(10**9), 4


@pytest.fixture(scope="module", params=["gptj", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parallel family, and one with norms after its modules."""
    config = configuration(request.param, Random(2).choice, vocabulary=VOCABULARY, layers=LAYERS, positions=128)
    return write_model(tmp_path_factory.mktemp("cards") / request.param, module_of(config))


def traced(model: LanguageModel, facts: dict[int, Fact]) -> Any:
    statement = Statement(case_id=0, prompt="The Needle is in", subject="The Needle")
    chosen = [TraceSettings(0.5, kind=kind, window=2, samples=2) for kind in ("hidden", "mlp")]
    chosen.append(TraceSettings(0.5, kind="hidden", samples=2, sever="mlp"))
    return [trace(model, statement, one).scores for one in chosen]


def edited(model: LanguageModel, facts: dict[int, Fact]) -> Any:
    views = [facts[0].view("entity"), facts[1].view("relation")]
    moments = compute_moments(model, [[5, 9, 300, 41], [17, 2, 80]] * 20, [2, 3], "texts")
    hparams = RomeHparams(layers=(2,), v_loss_layer=3, v_num_grad_steps=2)
    written = rome(model, views, hparams, ["{}"], moments, RELEASED, MEMORY)
    many = MemitHparams(layers=(2, 3), v_loss_layer=3, v_num_grad_steps=2, mom2_update_weight=10.0)
    written += memit(model, [[view] for view in views], many, [["{}"]], moments, RELEASED, MEMORY)
    tuned = ft(model, [[view] for view in views], FtHparams(layers=(2,), num_steps=2), RELEASED)
    edits = [one for one in (*written, *tuned) if not isinstance(one, Exception)]
    tensors = [{name: part.cpu() for name, part in one.edit.tensors(model.decoder).items()} for one in edits]
    scores = score_cases(model, [facts[0]], edits[0].edit, MEMORY)
    return tensors, [msg.views for msg in scores]


def read(model: LanguageModel, facts: dict[int, Fact]) -> Any:
    target = model.tokens.continuation(" Paris")
    (found_LM,) = attributions(model, ["The capital is"], [target], 2, MEMORY)
    inner = inner_weights(model.decoder, MendHparams(layers=(2, 3)))
    rows = inner_gradients(model, [[request(model, facts[0].view("entity"))]], inner, None)
    return found_LM.cpu(), [(x.cpu(), delta.cpu()) for x, delta in zip(rows.x_W, rows.delta_W, strict=True)]


def alike(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            alike(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("work", [traced, edited, read], ids=lambda work: work.__name__)
def test_two_cards_give_the_processors_numbers(
    work: Callable[..., Any], folder: Path, facts: dict[int, Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = work(load_folder(folder), facts)
    with standin.devices() as ledgers:
        model = spread_model(folder, monkeypatch)
        found = work(model, facts)
        assert all(ledger.peak > 0 for ledger in ledgers)
    alike(found, expected)


def test_an_edit_s_file_is_scored_over_two_cards(
    folder: Path, facts: dict[int, Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change of a weight on the second card, read from its file; and FT's decay of such a weight."""
    hparams, view = FtHparams(layers=(3,), num_steps=2, weight_decay=0.1), facts[0].view("entity")

    def scored(model: LanguageModel) -> Any:
        (made,) = ft(model, [[view]], hparams, RELEASED)
        assert not isinstance(made, Exception)
        write_edit(tmp_path / "edit.safetensors", made.edit, model, {"method": "ft"})
        edit = read_edit(tmp_path / "edit.safetensors", model).edit
        return [one.views for one in score_cases(model, [facts[0]], edit, MEMORY)]

    expected = scored(load_folder(folder))
    with standin.devices():
        found = scored(spread_model(folder, monkeypatch))
    alike(found, expected)


def spread_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """The model over both cards, as if neither held it alone."""
    with monkeypatch.context() as patch:
        patch.setattr("artifact.lm.load.cards_for", lambda device, size: ["cuda:0", "cuda:1"])
        patch.setattr("artifact.lm.load.spread", lambda blocks, first, free: [0, 0, 1, 1])
        return load_folder(folder, device="cuda")


def test_blocks_stand_on_their_cards_and_bytes_are_balanced(folder: Path) -> None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with standin.devices(int(0.95 * size)) as ledgers:
        model = load_folder(folder, device="cuda")  # too large for one card
        decoder = model.decoder
        cards = [decoder.card(layer) for layer in range(LAYERS)]
        assert cards[-1] == torch.device("cuda:1") and decoder.device == torch.device("cuda:0")
        for name, weight in decoder.weights.items():
            in_block = name.startswith(f"{decoder.family.blocks}.")
            layer = int(name.removeprefix(f"{decoder.family.blocks}.").partition(".")[0]) if in_block else None
            assert weight.device == (decoder.device if layer is None else cards[layer]), name
        held = [ledger.live for ledger in ledgers]
        block = max(
            sum(weight.numel() for name, weight in decoder.weights.items() if f".{layer}." in name)
            for layer in range(LAYERS)
        )
        assert sum(held) == 4 * sum(weight.numel() for weight in decoder.weights.values())
        first = held[0] - 4 * block * cards.count(decoder.device)
        assert abs(held[0] - held[1]) <= max(4 * block, first)
        with torch.no_grad():
            run = decoder.run(decoder.words(torch.tensor([[5, 6, 7]], device=decoder.device)))
        for layer, (key_BHTK, value_BHTK) in enumerate(run.keys):
            assert key_BHTK.device == value_BHTK.device == cards[layer]


def test_blocks_leave_room_for_what_stands_beside_them(folder: Path) -> None:
    """As the second moments of a run, which all stand on the first card: `kloc doctor --estimate --cards` plans so."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with standin.devices(2 * size):
        plain = load_folder(folder, device="cuda")
        assert {plain.decoder.card(layer) for layer in range(LAYERS)} == {torch.device("cuda:0")}  # fits one card
        del plain
        model = load_folder(folder, device="cuda", beside=lambda family, sizes: round(1.5 * size))
        assert {model.decoder.card(layer) for layer in range(LAYERS)} == {torch.device("cuda:1")}
        assert model.decoder.device == torch.device("cuda:0")


def test_a_run_asks_for_the_room_of_its_second_moments(folder: Path) -> None:
    model = load_folder(folder)
    _, family, sizes = described(folder)
    for methods in (("memit",), ("rome", "rets"), ("ft", "kn")):
        asked = _factors(model.name, methods, family, sizes)
        assert asked == factor_bytes(model, methods) and (asked > 0) == (methods != ("ft", "kn"))


def test_a_model_too_large_for_all_cards_is_refused(folder: Path) -> None:
    with standin.devices(2000), pytest.raises(ModelError, match="of GPU memory in float32"):
        load_folder(folder, device="cuda")
