"""Context prefixes: the goldens of the released code, the corrected way, small vocabularies, and given files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import llama_module, write_folder

from artifact.cli import call
from artifact.editing import prefixes
from artifact.editing.objective import fact_row
from artifact.editing.prefixes import (
    OPENED_LENGTH,
    OPENERS,
    Drawn,
    draw,
    draw_groups,
    draw_prefixes,
    read_groups,
    read_prefixes,
    sample,
)
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import DeviceError, SettingError
from artifact.lm.device import Memory, use_tf32
from artifact.lm.load import load, load_folder
from artifact.plans.paper import SMOKE
from artifact.runs.editors import make_editor
from artifact.runs.inputs import Given
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_name

REFERENCE = Path(__file__).parent.parent / "reference"
GOLDEN = json.loads((REFERENCE / "context_prefixes" / "tiny-gpt2.json").read_text())
LENGTHS = ((5, 10), (10, 10))


@pytest.mark.parametrize("seed", [0, 1])
def test_golden_of_rome(seed, tiny) -> None:
    """Ids, every draw and the templates; one generator goes on through both lengths."""
    model, golden = tiny("tiny-gpt2"), GOLDEN[f"rome_seed{seed}"]
    generator = torch.Generator().manual_seed(seed)
    parts = [draw(model, [[model.tokens.document_id]] * count, length, generator) for length, count in LENGTHS]
    assert [ids for part in parts for ids in part.ids] == golden["ids"]
    assert [picks for part in parts for picks in part.picks] == golden["multinomial_index_per_step"]
    assert draw_prefixes(model, LENGTHS, seed) == golden["templates"]
    assert any(0 in ids[1:] for ids in golden["ids"]), "no golden text holds an end token"


def test_golden_of_memit(tiny) -> None:
    """Openers of one to six tokens count, in one batch whose draws inside an opener are thrown away."""
    model, golden = tiny("tiny-gpt2"), GOLDEN["memit_seed0"]
    opened = [model.tokens.ids(word) for word in OPENERS]
    assert [len(ids) for ids in opened] == golden["prompt_tokens"]
    drawn = draw(model, opened, OPENED_LENGTH, torch.Generator().manual_seed(0))
    assert (drawn.ids, drawn.picks) == (golden["ids"], golden["multinomial_index_per_step"])
    assert draw_groups(model, 0) == golden["templates"]


@pytest.mark.parametrize(
    ("text", "template"),
    [
        (
            " caf\u00e9 \u00bd\u2026",
            " cafe\u0301 1\u20442.... {}",
        ),  # NFKD
        ("\n\n a\nb ", "  a\nb . {}"),  # an empty line is a space, nothing is stripped
        ("\n<|endoftext|>\n", "\n\n. {}"),  # the end token goes last
        ("<|endoftext|>" * 5, ". {}"),
        (" {b} {}", "  b    . {}"),
    ],
)
def test_how_a_drawn_text_is_written(text, template, tiny, monkeypatch) -> None:
    model = tiny("tiny-gpt2")
    monkeypatch.setattr(prefixes, "draw", lambda *_: Drawn([model.tokens.ids(text)], []))
    assert draw_prefixes(model, ((5, 1),)) == ["{}", template]


@pytest.mark.parametrize(("setting", "cleaned"), [(True, True), (None, True), (False, False)])
def test_spaces_are_cleaned_as_the_tokenizers_files_say(setting, cleaned, tmp_path, monkeypatch) -> None:
    """transformers 5 cleans no byte-level BPE; 4 did where the files say nothing, as GPT-2's do."""
    folder = Path(shutil.copytree(REFERENCE / "models" / "tiny-gpt2", tmp_path / "model"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["clean_up_tokenization_spaces"]
    given = config if setting is None else config | {"clean_up_tokenization_spaces": setting}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    model = load_folder(folder)
    text, tidy = " Hello , it is n't ' so ' !", " Hello, it isn't'so '!"
    ids = model.tokens.ids(text)
    assert model.tokens.decode(ids) == text
    monkeypatch.setattr(prefixes, "draw", lambda *_: Drawn([ids], []))
    assert draw_prefixes(model, ((5, 1),))[1] == f"{tidy if cleaned else text}. {{}}"
    # A target of several tokens is written after its prompt the same way (Protocol.target_spaces_cleaned).
    target = model.tokens.ids(" Rome , Italy")
    rows = [
        fact_row(model, "{} is in", "It", target, written=one)
        for one in (model.tokens.decode_as_released, model.tokens.decode)
    ]
    written = [model.tokens.decode(row.ids) for row in rows]
    kept = "It is in" + model.tokens.decode(target[:-1])
    assert written == [kept.replace(" ,", ",") if cleaned else kept, kept] and " ," in kept


def test_corrected_lengths_count_what_is_drawn(tiny) -> None:
    model = tiny("tiny-gpt2")
    found = draw_prefixes(model, ((3, 2), (6, 2)), 7, as_released=False)
    drawn = [*sample(model, 2, 3, 7), *sample(model, 2, 6, 8)]
    assert list(map(len, drawn)) == [3, 3, 6, 6] and not any(0 in ids for ids in drawn)
    assert found == ["{}", *(f"{model.tokens.decode(ids).strip()}. {{}}" for ids in drawn)]
    assert all(text == text.lstrip() for text in draw_groups(model, 3, as_released=False)[1])


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_the_protocol_decides(method, tiny) -> None:
    model = tiny("tiny-gpt2")
    for protocol in PROTOCOLS.values():
        editor = make_editor(model, method, protocol, Memory(10**9), moments=REFERENCE / "moments" / "tiny-gpt2")
        released = protocol.prefixes_as_released
        drawn = draw_prefixes(model, LENGTHS, as_released=released) if method == "rome" else None
        assert editor.prefixes == (drawn or draw_groups(model, as_released=released))


def test_a_tokenizer_that_begins_its_texts_counts_its_token(tmp_path, monkeypatch) -> None:
    model = load_folder(write_folder(tmp_path / "model", llama_module(), begins=True))
    (begin,) = model.tokens.opening
    kept: list[Drawn] = []

    def keeps(*arguments) -> Drawn:
        kept.append(draw(*arguments))
        return kept[-1]

    monkeypatch.setattr(prefixes, "draw", keeps)
    templates = [*draw_groups(model)[1], *draw_prefixes(model, ((5, 3),))[1:]]
    openers = [[begin, *model.tokens.ids(word)] for word in OPENERS]
    starts = [*openers, *[[begin]] * 3]
    texts = [*kept[0].ids, *kept[1].ids]
    for start, ids, length in zip(starts, texts, [*[OPENED_LENGTH] * 5, *[5] * 3], strict=True):
        assert ids[: len(start)] == start and len(ids) == length
    assert not any(mark in template for template in templates for mark in model.tokens.special_texts)


def test_a_prompt_as_long_as_the_text_leaves_nothing_to_draw(tiny) -> None:
    """As in the released code, for all rows of the batch."""
    prompts, generator = [[266], list(range(5, 15))], torch.Generator().manual_seed(0)
    assert draw(tiny("tiny-gpt2"), prompts, 10, generator) == Drawn(prompts, [])


@pytest.mark.parametrize("unwanted", [(), (0,)])
def test_texts_drawn_in_parts_are_those_drawn_together(unwanted, model, monkeypatch) -> None:
    """Every text, every draw, and where the generator stands afterwards; also when memory runs out on the way."""
    prompts = [[5], [5, 6, 7], *[[5, number] for number in range(8, 17)]]
    block, sizes = model.decoder.block, set()

    def counts(layer: int, hidden_BTD: torch.Tensor, *given: Any, **named: Any) -> Any:
        sizes.add(len(hidden_BTD))
        return block(layer, hidden_BTD, *given, **named)

    def short(layer: int, hidden_BTD: torch.Tensor, *given: Any, **named: Any) -> Any:
        past = named.get("past")
        if len(hidden_BTD) > 4 and past is not None and past[0].shape[2] > 6:
            raise torch.OutOfMemoryError
        return counts(layer, hidden_BTD, *given, **named)

    def drawn(memory: Memory) -> tuple[Drawn, list[int]]:
        generator = torch.Generator().manual_seed(3)
        return draw(model, prompts, 12, generator, 5, unwanted, memory), generator.get_state().tolist()

    together = drawn(Memory(10**9))
    monkeypatch.setattr(model.decoder, "block", counts)
    assert drawn(Memory(1)) == together and sizes == {1}
    each = prefixes._row_bytes(model.decoder, 12, 1)
    assert drawn(Memory(4 * each)) == together and sizes == {1, 3, 4}
    monkeypatch.setattr(model.decoder, "block", short)
    assert drawn(Memory(10**9)) == together


def test_a_text_that_does_not_fit_alone_is_one_line(model, monkeypatch) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model.decoder, "block", full)
    with pytest.raises(DeviceError, match="drawing one text of 9 tokens does not fit"):
        draw(model, [[5], [6]], 9, torch.Generator())


@pytest.fixture
def tf32() -> Iterator[None]:
    use_tf32(True)
    yield
    use_tf32(False)


@pytest.mark.usefixtures("tf32")
def test_draws_are_in_float32_on_every_device(tiny, monkeypatch) -> None:
    """TF32 is off while it draws, whatever the protocol asks for, and as before afterwards, after an error too."""
    model, seen = tiny("tiny-gpt2"), []
    draws = torch.multinomial

    def looks(*arguments, **named):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, arguments[0].dtype))
        if len(seen) > 4:
            raise RuntimeError("test")
        return draws(*arguments, **named)

    monkeypatch.setattr(torch, "multinomial", looks)
    draw_prefixes(model, ((5, 1),))
    with pytest.raises(RuntimeError, match="test"):
        draw_prefixes(model, ((5, 1),))
    assert set(seen) == {(False, False, torch.float32)}
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32


def test_prefixes_are_seeded_and_end_in_the_prompts_place(model) -> None:
    templates = draw_prefixes(model, ((3, 2), (6, 2)))
    assert templates == draw_prefixes(model, ((3, 2), (6, 2)))
    assert templates[0] == "{}" and len(templates) == 5
    assert all(template.endswith(". {}") and template.count("{}") == 1 for template in templates[1:])


def test_sampling_equals_the_plain_way(model) -> None:
    """Stored keys and values give the draws that recomputing every prefix gives."""
    texts = sample(model, 3, 6, seed=5)
    generator = torch.Generator().manual_seed(5)
    decoder = model.decoder
    ids_BT = torch.full((3, 1), model.tokens.end_id)
    with torch.no_grad():
        for _ in range(6):
            logits_BV = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)))[:, -1])
            logits_BV[:, model.tokens.end_id] = -torch.inf
            best = logits_BV.topk(5)
            pick = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
            ids_BT = torch.cat((ids_BT, best.indices.gather(1, pick)), 1)
    assert texts == [row[1:].tolist() for row in ids_BT]


def test_memits_prefixes_open_with_given_words(model) -> None:
    groups = draw_groups(model)
    assert groups == draw_groups(model)
    assert groups[0] == ["{}"] and len(groups[1]) == 5
    assert all(
        t.startswith(word) for t, word in zip(groups[1], ("The", "Therefore", "Because", "I", "You"), strict=True)
    )
    for template in groups[1]:
        assert template.endswith(". {}") and len(model.tokens.ids(template.removesuffix(". {}"))) <= 12


def test_a_small_vocabulary_draws_freely() -> None:
    """The world cannot read every opener's text again; what it draws instead is a prompt's prefix all the same."""
    world = load("world")
    for released in (True, False):
        bare, opened = draw_groups(world, as_released=released)
        assert bare == ["{}"] and len(opened) == 5
        _, *free = draw_prefixes(world, LENGTHS, as_released=released)
        assert len(free) == 20
        assert all(world.tokens.ids(template.removesuffix(" {}")) for template in [*opened, *free])


def test_grouped_prefix_files(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([["{}"], ["Yes. {}", "No. {}"]]))
    assert read_groups(path) == [["{}"], ["Yes. {}", "No. {}"]]
    path.write_text(json.dumps({"context_templates": [["{}"]]}))
    assert read_groups(path) == [["{}"]]
    path.write_text(json.dumps(["{}", "Yes. {}"]))
    assert read_groups(path) == [["{}"], ["Yes. {}"]]
    for bad in ([], [[]], [["no place"]], [["{}"], "Yes. {}"], {"templates": 3}):
        path.write_text(json.dumps(bad))
        with pytest.raises(SettingError, match="list of lists of templates"):
            read_groups(path)


def test_prefix_files(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(["{}", "Yes. {}"]))
    assert read_prefixes(path) == ["{}", "Yes. {}"]
    for bad in ([], ["no place"], [["{}"]], {"templates": 3}, "{}"):
        path.write_text(json.dumps(bad))
        with pytest.raises(SettingError, match="JSON list of templates"):
            read_prefixes(path)


def test_a_run_s_seed_decides_the_draw_of_both_methods(tiny) -> None:
    """Without a seed the package's own; the same seed draws the same; the settings name it."""
    model, protocol = tiny("tiny-gpt2"), PROTOCOLS["released"]

    def made(method: str, seed: int | None) -> dict[str, Any]:
        return make_editor(model, method, protocol, moments=REFERENCE / "moments" / "tiny-gpt2", seed=seed).described()

    for method in ("rome", "memit"):
        own, other = made(method, None), made(method, 7)
        assert own["prefixes"] != other["prefixes"] and own["hash"] == other["hash"]
        assert other == made(method, 7) and own == made(method, own["prefix_seed"])
        assert (own["prefix_seed"], other["prefix_seed"]) == (2409, 7)
    given = Given(seed=7)
    assert given.options() == {"--seed": "7"} and Given().options() == {}
    assert run_name(SMOKE, "world", Asked(given=given)) == "smoke-world-seed7"


def test_a_prefix_longer_than_the_model_reads_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"context_template_length_params": [[200, 1]]}))
    (tmp_path / "r.json").write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[0]))
    command = ["edit", "--model", "world", "--method", "rome", "--hparams", tmp_path / "h.json"]
    options = ["--request", tmp_path / "r.json", "--out", tmp_path / "e.safetensors"]
    assert call([str(word) for word in (*command, *options)]) == 2
    error = capsys.readouterr().err
    assert "a drawn prefix of 200 tokens: world reads 128 at most" in error and error.count("\n") == 1
