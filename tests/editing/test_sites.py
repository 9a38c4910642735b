"""Edits at any site, of random tiny models of every family: an edit of the attention's output projection or at another
token does what the changed weight does in transformers' own model, and a layer sweep gives the edits of single runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from family_models import DECODERS, VOCABULARY, configuration, module_of, write_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from artifact.cli import call
from artifact.editing.edit import row_edits, with_edit
from artifact.editing.memit import memit
from artifact.editing.methods import METHODS
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import key_width, read_moments
from artifact.editing.moments.sums import compute_moments
from artifact.editing.objective import Row, fact_row, objective
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import rome
from artifact.editing.site import FACT_TOKENS, Place
from artifact.errors import PromptError, SettingError
from artifact.facts.fact import PERSPECTIVES, fill
from artifact.facts.records import parse_facts
from artifact.lm.load import LanguageModel, load_folder

RELEASED = PROTOCOLS["released"]
EVERY = json.loads((Path(__file__).parent.parent / "reference" / "facts.json").read_text())
RECORDS = EVERY[:2]
TEMPLATES = ["{}", "The report said. {}"]
LAYERS = 3


def chosen(options: Sequence[Any]) -> Any:
    """Biases, grouped heads and caps, but plain rotations."""
    return options[0] if "default" in options else options[-1]


def folder_of(family: str, where: Path) -> Path:
    config = configuration(family, chosen, vocabulary=VOCABULARY, layers=LAYERS, positions=256)
    if getattr(config, "sliding_window", None):
        config.sliding_window = 256
    return write_model(where / "model", module_of(config))


@pytest.fixture(scope="module", params=["gpt2", "gptj", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_folder(folder)


@pytest.fixture(scope="module")
def facts() -> list[Any]:
    return parse_facts(RECORDS, "test")


def moments_of(model: LanguageModel, site: str) -> Any:
    texts = [
        model.tokens.ids(record["requested_rewrite"]["subject"] + " is. " + " ".join(t))
        for record in RECORDS
        for t in (record["paraphrase_prompts"], record["neighborhood_prompts"])
    ]
    return compute_moments(model, texts, range(LAYERS), "test", ridge=0.1, site=site)


def settings(**more: Any) -> RomeHparams:
    given: dict[str, Any] = {"layers": (1,), "v_loss_layer": LAYERS - 1, "v_num_grad_steps": 5, "v_weight_decay": 1e-3}
    return RomeHparams(**given | more)


@torch.no_grad()
def logits(folder: Path, model: LanguageModel, text: str, deltas: dict[str, torch.Tensor]) -> torch.Tensor:
    """What transformers' model says after a text, with the changes added to its weights."""
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    parameters = dict(peer.named_parameters())
    for name, delta in deltas.items():
        parameters[name] += delta
    return peer(torch.tensor([model.tokens.encode(text).ids])).logits[0, -1]


@torch.no_grad()
def ours(model: LanguageModel, text: str, edit: Any) -> torch.Tensor:
    decoder = model.decoder
    ids = torch.tensor([model.tokens.encode(text).ids])
    hidden = decoder.blocks(decoder.embed(decoder.words(ids)), edits=row_edits([edit], [0]))
    return decoder.logits(hidden[0, -1:])[0]


@pytest.mark.parametrize("family", DECODERS)
def test_an_attention_edit_is_the_change_of_the_weight(family, facts, tmp_path) -> None:
    """The same logits as transformers' model with the changed weight; the loss that the value optimisation ended with
    is that of transformers' model with the delta added to the module's output."""
    folder, number = folder_of(family, tmp_path), DECODERS.index(family)
    model, token, perspective = load_folder(folder), FACT_TOKENS[number % 3], PERSPECTIVES[number % 2]
    hparams = settings(site="attn", fact_token=token)
    view = facts[0].view(perspective)
    (found,) = rome(model, [view], hparams, TEMPLATES[:1], moments_of(model, "attn"), RELEASED)
    ((name, delta),) = found.edit.tensors(model.decoder).items()
    assert name == f"{model.decoder.family.name('attn_out', 1)}.weight"
    assert delta.shape == model.decoder.weights[name].shape and delta.norm() > 0
    prompt = fill(view.template, view.subject)
    expected = logits(folder, model, prompt, {name: delta})
    torch.testing.assert_close(ours(model, prompt, found.edit), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(folder, model, prompt, {})).abs().max() > 1e-3
    rows = objective(model, view, TEMPLATES[:1], TEMPLATES[:1], RELEASED, token).rows
    nll = [loss_with(folder, name.removesuffix(".weight"), row, found.delta_D) for row in rows]
    assert sum(nll) / len(rows) == pytest.approx(found.history[-1][1], rel=1e-3)


@torch.no_grad()
def loss_with(folder: Path, part: str, row: Row, delta_D: torch.Tensor) -> float:
    """The NLL of a row's target in transformers' model whose `part` puts out so much more at its token."""
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def add(_: Any, __: Any, output_BTD: torch.Tensor) -> torch.Tensor:
        output_BTD[:, row.lookup] += delta_D
        return output_BTD

    peer.get_submodule(part).register_forward_hook(add)
    log_TV = peer(torch.tensor([row.ids])).logits[0, -len(row.target) :].log_softmax(-1)
    return -float(log_TV[torch.arange(len(row.target)), list(row.target)].sum()) / row.divisor


@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_a_layer_sweep_gives_the_edits_of_single_runs(site, model, facts) -> None:
    hparams, moments = settings(site=site, fact_token="relation_last"), moments_of(model, site)
    views = [facts[0].view("relation"), facts[1].view("entity")]
    places = [(view, layer) for view in views for layer in (2, 0, 1)]
    together = rome(
        model, [v for v, _ in places], hparams, TEMPLATES, moments, RELEASED, layers=[layer for _, layer in places]
    )
    for (view, layer), found in zip(places, together, strict=True):
        single = msgspec.structs.replace(hparams, layers=(layer,))
        (alone,) = rome(model, [view], single, TEMPLATES, moments, RELEASED)
        assert found.edit.changes.keys() == alone.edit.changes.keys()
        torch.testing.assert_close(found.right_D, alone.right_D, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(torch.tensor(found.history), torch.tensor(alone.history), rtol=1e-4, atol=1e-4)


def test_memit_writes_its_values_into_the_attention(folder, model, facts) -> None:
    """With next to no weight on the second moments, the edited model has the wanted state at the bare prompt."""
    hparams = MemitHparams(
        layers=(0, 1),
        v_loss_layer=LAYERS - 1,
        v_num_grad_steps=4,
        mom2_update_weight=1e-9,
        site="attn",
        fact_token="last",
        clamp_norm_factor=4.0,
    )
    view, family = facts[0].view("entity"), model.decoder.family
    (found,) = memit(model, [[view]], hparams, [["{}"]], moments_of(model, "attn"), RELEASED)
    deltas = found.edit.tensors(model.decoder)
    assert set(deltas) == {f"{family.name('attn_out', layer)}.weight" for layer in (0, 1)}
    prompt = fill(view.template, view.subject)
    torch.testing.assert_close(
        ours(model, prompt, found.edit), logits(folder, model, prompt, deltas), rtol=1e-4, atol=1e-4
    )
    seen: dict[str, torch.Tensor] = {}
    edited = with_edit(model, found.edit).decoder

    def read(site: str, layer: int, value: torch.Tensor) -> None:
        if layer == 1:
            seen[site] = value

    with torch.no_grad():
        states = edited.run(edited.words(torch.tensor([model.tokens.encode(prompt).ids])), at_site=read).states_LBTD
    state = states[2] if family.parallel else states[1] + seen["attn"]
    torch.testing.assert_close(state[0, -1], found.values_ND[0], rtol=1e-3, atol=1e-3)


def test_an_edit_on_top_of_another_is_one_of_the_changed_weights(folder, model, facts, tmp_path) -> None:
    """`then`: the second edit of `kloc edit --on` is that of a model whose files hold the first; nothing is written."""
    request, first, second, alone = (tmp_path / f"{n}" for n in ("request.json", "1.safetensors", "2", "3"))
    request.write_text(json.dumps(RECORDS[0]))
    hparams, prefixes = tmp_path / "hparams.json", tmp_path / "prefixes.json"
    hparams.write_text(json.dumps({"layers": [1], "v_num_grad_steps": 4}))
    prefixes.write_text(json.dumps(TEMPLATES))
    before = model.weights_hash()
    shared = ["--method", "rome", "--request", request, "--hparams", hparams, "--prefixes", prefixes]
    shared += ["--site", "attn", "--token", "last"]

    def run(where: Path, *words: object) -> None:
        command = ["edit", "--model", where, *shared, *words]
        assert call([str(word) for word in command]) == 0

    out = tmp_path / "moments"
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text for record in EVERY for text in record["neighborhood_prompts"]))
    words = ["moments", "--model", folder, "--site", "attn", "--layers", "1", "--texts", texts, "--out", out]
    assert call([str(word) for word in words]) == 0
    assert read_moments(out, "attn").matrix(model.decoder, 1).shape == (key_width(model.decoder, 1, "attn"),) * 2
    shared += ["--moments", out]
    run(folder, "--out", first)
    run(folder, "--perspective", "relation", "--on", first, "--out", second)
    assert call([str(w) for w in ["apply", "--model", folder, "--edit", first, "--out", tmp_path / "edited"]]) == 0
    run(tmp_path / "edited", "--perspective", "relation", "--any-model", "--out", alone)
    (found,), (expected,) = load_file(second).values(), load_file(alone).values()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert model.weights_hash() == before == load_folder(folder).weights_hash()


def test_the_relations_last_token_is_the_last_that_is_not_the_subjects(model) -> None:
    ends = fact_row(model, "The capital of {}", "Japan", token="relation_last")
    assert model.tokens.decode(ends.ids[: ends.lookup + 1]).endswith("The capital of")
    goes_on = fact_row(model, "The capital of {} is", "Japan", token="relation_last")
    assert goes_on == fact_row(model, "The capital of {} is", "Japan", token="last")
    with pytest.raises(PromptError, match="no relation token"):
        fact_row(model, "{}", "Japan", token="relation_last")


def test_a_published_file_may_name_the_module_that_is_edited(model, tmp_path) -> None:
    file = tmp_path / "hparams.json"
    out = model.decoder.family.name("attn_out", 0).replace(".0.", ".{}.")
    file.write_text(json.dumps({"rewrite_module_tmp": out, "layers": [1]}))
    rome_hparams = METHODS["rome"].hparams_for
    assert rome_hparams("x", LAYERS, file, model.decoder, Place("attn")).site == "attn"
    with pytest.raises(SettingError, match="rewrite_module_tmp"):
        rome_hparams("x", LAYERS, file, model.decoder)
    with pytest.raises(SettingError, match="takes no --site"):
        METHODS["ft"].hparams_for("x", LAYERS, place=Place("attn"))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.sites])
def test_a_file_moves_no_edit_of_a_method_that_has_one_place(name: str, tmp_path: Path) -> None:
    method, file = METHODS[name], tmp_path / "hparams.json"
    for field, value in (("site", "attn"), ("fact_token", "relation_last")):
        if hasattr(method.scaled(LAYERS), field):
            file.write_text(json.dumps({field: value}))
            with pytest.raises(SettingError, match=rf"hparams.json: .*{field}( must be|`)"):
                method.hparams_for("x", LAYERS, file)
            file.write_text(json.dumps({field: getattr(method.scaled(LAYERS), field)}))
            assert method.hparams_for("x", LAYERS, file) == method.hparams_for("x", LAYERS)
