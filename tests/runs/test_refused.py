"""What a model's family refuses of a plan: left out beforehand, said once, and an error where it was asked for."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest
from family_models import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    VOCABULARY,
    configuration,
    masked_model,
    module_of,
    write_model,
)
from tiny_llama import byte_tokenizer

from artifact.cli import call
from artifact.editing.methods import METHODS
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import SettingError
from artifact.facts.datasets.everyday import everyday_records
from artifact.facts.fact import Fact, Question
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, from_module
from artifact.lm.tokens import Tokens
from artifact.plans import PLANS, narrowed
from artifact.plans.unit import Plan
from artifact.runs.editors import make_editor
from artifact.runs.inputs import Given
from artifact.runs.local import compute
from artifact.runs.refused import counted, in_one_piece, unaskable, without_refused
from artifact.runs.resolve import Asked, prepare

NORMED = ("olmo2", "gemma2", "gemma3_text")
"""Families that norm what modules give before they add it."""
SPREAD = {"memit", "emmet", "alphaedit", "memit_merge"}


def tiny_of(family: str) -> LanguageModel:
    if family in ENCODERS:
        return masked_model(family, layers=2)[0]
    module = module_of(configuration(family, Random(3).choice, vocabulary=VOCABULARY, layers=3, positions=128))
    return LanguageModel(family, "r", from_module(module), Tokens(byte_tokenizer(), 128, VOCABULARY))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_refuses_is_left_out_of_every_plan(family: str) -> None:
    model = tiny_of(family)
    assert tuple(name for name in DECODERS if FAMILIES[name].has("mlp_after")) == NORMED
    for plan in [one for plans in PLANS.values() for one in plans]:
        expected = {unit.name for unit in plan.units if _refused(family, unit.does, unit.method, unit.task)}
        if len(expected) == len(plan.units):
            with pytest.raises(SettingError, match=f"plan {plan.name}: nothing of it is left; .*(give|use|name)"):
                without_refused(plan, model.kind)
            continue
        left, names = without_refused(plan, model.kind)
        assert {name for own in names.values() for name in own} == expected
        assert [unit.name for unit in left.units] == [one.name for one in plan.units if one.name not in expected]
        assert (left is plan) == (not expected)
        assert all(model.name in reason and "; " in reason for reason in names)


def _refused(family: str, does: str, method: str, task: str) -> bool:
    if family in ENCODERS:
        return does == "knockout" or (method != "none" and method not in ("rome", "kn"))
    return task == "encoders" or (family in NORMED and method in SPREAD)


def test_a_method_asked_for_by_name_is_an_error() -> None:
    model, (plan,) = tiny_of("gemma2"), PLANS["smoke"]
    two = narrowed(plan, [], ["memit", "rome"])
    with pytest.raises(SettingError, match="MEMIT spreads a change of the state .*; use another method"):
        without_refused(two, model.kind, ["memit", "rome"])
    left, _ = without_refused(two, model.kind)
    assert {unit.method for unit in left.units if unit.does == "edit"} == {"rome"}
    assert without_refused(narrowed(plan, [], ["rome"]), model.kind, ["rome"])[1] == {}


@pytest.mark.parametrize("family", ENCODERS)
def test_facts_of_more_word_pieces_than_a_mask_stands_for(family: str, facts: dict[int, Fact]) -> None:
    model, every = tiny_of(family), list(facts.values())
    found = unaskable(model, every)
    (words,) = {reason.partition(", ")[2] for reason in found.values()}
    assert words == "and an encoder's mask stands for one; give a text of one piece"
    for fact in every:
        texts = [fact.object_new, fact.object_true, *([fact.relation, "None"] if fact.relation else [])]
        if any(len(model.tokens._after(f" {text}")) > 1 for text in texts):
            assert fact.case_id in found
    (names,) = counted(found, every).values()
    assert names == [f"{len(found)} of {len(every)} facts"] and counted({}, every) == {}
    assert unaskable(tiny_of("gpt2"), every) == {}


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_s_fact_stays_without_what_it_can_do_without(family: str, facts: dict[int, Fact]) -> None:
    """A harder foil or an answer about another fact of several pieces leaves the rest of the fact."""
    model = tiny_of(family)
    labels = (model.tokens.label(token).strip() for token in range(VOCABULARY))
    piece = next(text for text in labels if text.isalpha() and len(model.tokens._after(f" {text}")) == 1)
    one = replace(next(fact for fact in facts.values() if fact.relation is not None), relation=piece)
    several, single = Question("Another is", "several pieces"), Question("Another is", piece)
    assert len(model.tokens._after(" several pieces")) > 1 == len(model.tokens._after(f" {piece}"))
    every = [
        replace(one, another_relation="several pieces", other_subjects=(several, single), other_relations=(several,)),
        replace(one, another_relation=piece, other_subjects=(single,), other_relations=()),
        replace(one, another_relation=None, other_subjects=(), other_relations=()),
        replace(one, relation="several pieces", another_relation=piece, other_subjects=(), other_relations=()),
    ]
    kept, said = in_one_piece(model, every)
    first = replace(every[0], another_relation=None, other_subjects=(single,), other_relations=())
    assert kept[:3] == [first, *every[1:3]]
    assert len(kept[3].views()) == 1 and kept[3].view("entity") == every[3].view("entity"), "edits of the entity stay"
    (names,) = said.values()
    assert names == [
        "the relation perspective (1 of 4 facts)",
        "the harder foil (1 of 4 facts)",
        "the prompts about other facts (2 in all)",
    ]
    assert in_one_piece(model, every[1:3]) == (every[1:3], {})
    assert in_one_piece(tiny_of("gpt2"), every) == (every, {})


def test_kn_is_refined_on_every_encoder() -> None:
    """As published for BERT; a file's values and those of a model's own stay as they are."""
    for family in (*ENCODERS, "gpt2"):
        model = tiny_of(family)
        editor = make_editor(model, "kn", PROTOCOLS["released"], Memory(10**9))
        assert editor.hparams.refine == (family in ENCODERS)
        assert METHODS["kn"].start_for(family, 2, model.decoder) == editor.hparams, "a search begins there, too"
        said = editor.described()["hparams_source"]
        assert said.startswith("refined over rephrasings" if family in ENCODERS else "GPT-2 XL's at the same fraction")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = configuration("gemma2", Random(3).choice, vocabulary=VOCABULARY, layers=2, positions=128)
    return write_model(tmp_path_factory.mktemp("model") / "gemma", module_of(config))


def test_a_run_says_what_it_leaves_out_and_ends_as_any_other(
    gemma: Path, tmp_path: Path, few_steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["smoke", "--model", str(gemma), "--limit", "1", "--out", str(out)]
    assert call(command) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("left out: ")]
    norm = "model.layers.0.post_feedforward_layernorm"
    words = f"{gemma} norms them before they are added ({norm}); use another method"
    assert line.startswith("left out: memit-relation, memit-entity: MEMIT spreads") and line.endswith(words)
    assert said.splitlines()[-1] == str(out / "report" / "report.html")
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count(f"<dt>Left out</dt><dd>{line.removeprefix('left out: ').replace(chr(39), '&#39;')}</dd>") == 1
    assert "Left out: memit-relation, memit-entity: " in (out / "report" / "report.md").read_text(encoding="utf-8")
    assert "ROME" in page and f"kloc smoke --model {gemma} --limit 1" in page
    assert call(command) == 0  # the same command goes on with the same folder
    assert call(["run", "smoke", "--methods", "memit", *command[1:-1], str(tmp_path / "other")]) == 2
    assert "MEMIT spreads" in capsys.readouterr().err


def test_an_encoders_facts_are_excluded_with_their_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration("bert", Random(3).choice, vocabulary=VOCABULARY, layers=2, positions=64)
    folder = write_model(tmp_path / "bert", module_of(config))
    (whole,) = PLANS["smoke"]
    said: list[str] = []
    (none := tmp_path / "none.json").write_text(json.dumps(everyday_records()[1:3]))
    context, info = prepare(whole, Asked(str(folder), given=Given(facts=str(none))), said.append)
    assert {unit.method for unit in info.plan.units} == {"none", "kn", "rome"}
    assert len(context.unaskable) == len(info.cases) == 2 and f"left out: {info.left_out_lines[-1]}" in said
    (own := tmp_path / "own.json").write_text(json.dumps(everyday_records()))
    assert call(["facts", "check", str(own), "--model", str(folder)]) == 2
    out = capsys.readouterr().out
    assert (
        "left out: the relation perspective (" in out
        and "an encoder's mask stands for one; give a text of one piece" in out
    )
    edited: Plan = narrowed(info.plan, ["table2"])
    for unit in edited.units:
        for record in compute(unit, context.inputs.edited.facts[:2], context):
            assert (record.status, record.reason) == ("excluded", context.unaskable[record.case_id])


def test_a_run_of_an_encoder_takes_the_first_facts_that_it_can_be_asked(tmp_path: Path) -> None:
    """Facts of several word pieces do not use up the places of others."""
    config = configuration("bert", Random(3).choice, vocabulary=VOCABULARY, layers=2, positions=64)
    folder, own = write_model(tmp_path / "bert", module_of(config)), tmp_path / "own.json"
    names = [("Atlantis", "Lemuria")] * 3 + [("Rome", "Paris"), ("Tokyo", "Madrid"), ("Paris", "Tokyo")]
    records = [
        {
            "case_id": number,
            "requested_rewrite": {
                "prompt": "The capital of {} is",
                "subject": "Seattle",
                "target_new": {"str": new},
                "target_true": {"str": true},
            },
        }
        for number, (new, true) in enumerate(names)
    ]
    own.write_text(json.dumps(records))
    said: list[str] = []
    context, info = prepare(PLANS["smoke"][0], Asked(str(folder), given=Given(facts=str(own)), limit=2), said.append)
    unit = next(unit for unit in info.plan.units if unit.does == "unedited")
    assert info.batches(unit) == [(3, 4)] and not context.unaskable
    assert any(line.startswith("left out: 3 of 6 facts: the text ") for line in said)
    assert {record.status for record in compute(unit, context.inputs.edited.facts[:2], context)} == {"done"}
    # A run that was begun when such facts took places goes on with these.
    before = msgspec.structs.replace(info, cases=list(range(6)))
    context, _ = prepare(PLANS["smoke"][0], Asked(str(folder), given=Given(facts=str(own))), said.append, before)
    assert set(context.unaskable) == {0, 1, 2} and len(context.inputs.edited.facts) == 6
    # An odd record keeps its place among the others.
    more = [*({**record, "case_id": 10 + n} for n, record in enumerate(records * 4)), {"case_id": 99}]
    own.write_text(json.dumps(more))
    context, info = prepare(PLANS["smoke"][0], Asked(str(folder), given=Given(facts=str(own))), said.append)
    assert (
        set(info.cases) == {one.case_id for one in context.items(unit)} and 99 in info.cases and len(info.cases) == 13
    )


def test_a_model_of_one_layer_has_no_control_of_another() -> None:
    module = module_of(configuration("gpt2", Random(3).choice, vocabulary=VOCABULARY, layers=1, positions=128))
    model = LanguageModel("shallow", "r", from_module(module), Tokens(byte_tokenizer(), 128, VOCABULARY))
    _, names = without_refused(PLANS["modern"][0], model.kind, ["rome"])
    sides = ("relation", "entity")
    assert names == {
        "shallow has 1 layer, and edits of [0] leave no others; give a deeper model": [
            f"{method}-{side}-random_layer" for method in ("rome", "memit") for side in sides
        ]
    }


def test_methods_that_spread_a_change_say_so() -> None:
    assert {name for name, method in METHODS.items() if method.spreads} == SPREAD
