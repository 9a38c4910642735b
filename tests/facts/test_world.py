"""The embedded world: the generator's promises, the tokenizer, the committed model and a short training run.

Does not train the committed model anew and does not edit it; the checks of tracing and editing have their own tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

import artifact.facts
from artifact.facts.world import (
    DEFAULT_SEED,
    NO_RELATION,
    RELATION_TEMPLATES,
    UNKNOWN,
    Question,
    World,
    build_tokenizer,
    generate,
)
from artifact.lm import world as training

COMMITTED = Path(next(iter(artifact.facts.__path__))) / "data" / "world"
SEEDS = (DEFAULT_SEED, DEFAULT_SEED + 1)


@pytest.fixture(scope="module", params=SEEDS)
def world(request: pytest.FixtureRequest) -> World:
    return generate(request.param)


@pytest.fixture(scope="module")
def committed() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    model = GPT2LMHeadModel.from_pretrained(COMMITTED).eval()
    tokenizer = AutoTokenizer.from_pretrained(COMMITTED)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return model, tokenizer


def probabilities(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast], questions: Sequence[Question]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per question, the probability of the right word and whether it is the most probable one."""
    model, tokenizer = committed
    rows = [tokenizer(question.prompt)["input_ids"] for question in questions]
    ids_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)  # padding stands behind the position that is read
    rows_B, last_B = torch.arange(len(rows)), torch.tensor([len(ids) - 1 for ids in rows])
    answer_B = torch.tensor([tokenizer(" " + question.answer)["input_ids"] for question in questions]).squeeze(1)
    with torch.no_grad():
        probability_BV = model(ids_BT).logits[rows_B, last_B].softmax(-1)
    return probability_BV[rows_B, answer_B], (probability_BV.argmax(-1) == answer_B).double()


def test_same_seed_same_world(world: World) -> None:
    assert generate(world.seed) == world
    assert generate(world.seed + 1) != world


def test_size_and_distinct_words(world: World) -> None:
    assert len(world.facts) == 256
    assert len(world.relations) == 15
    assert {relation.subject_type for relation in world.relations} == {"person", "place", "region", "product"}
    assert len({fact.relation for fact in world.facts}) == 15
    assert len({(fact.subject, fact.relation.name) for fact in world.all_facts}) == len(world.all_facts)
    answers = [obj for relation in world.relations for obj in relation.objects]
    answers += [relation.name for relation in world.relations]
    parts = {part for subject in world.subjects for part in subject.split()}
    assert len({answer.lower() for answer in (*answers, NO_RELATION)}) == len(answers) + 1
    assert not {part.lower() for part in parts} & {answer.lower() for answer in answers}
    assert 350 <= len(world.vocabulary()) <= 600


def test_whole_name_is_needed(world: World) -> None:
    words = [word for subject in world.subjects for word in subject.split()]
    assert all(words.count(word) >= 2 for word in words)
    assert sorted({len(subject.split()) for subject in world.subjects}) == [2, 3]


def test_every_word_is_known_and_answers_are_one_token(world: World) -> None:
    tokenizer = build_tokenizer(world)
    unknown = tokenizer.token_to_id(UNKNOWN)
    prompts = list(world.corpus())
    for record in world.records():
        request = record["requested_rewrite"]
        prompts += record["paraphrase_prompts"] + record["neighborhood_prompts"] + record["attribute_prompts"]
        prompts += record["rel_prompts"]
        prompts += [request[key].format(request["subject"]) for key in ("prompt", "add_rel_prompt", "rm_rel_prompt")]
        prompts.append(f"{request['subject']} is a")
        answers = [request["target_new"]["str"], request["target_true"]["str"], *request["relation"]["strs"], "None"]
        for answer in answers:
            for text in (answer, " " + answer):
                ids = tokenizer.encode(text).ids
                assert len(ids) == 1 and ids[0] != unknown
    for prompt in prompts:
        encoded = tokenizer.encode(prompt)
        assert unknown not in encoded.ids
        assert tokenizer.decode(encoded.ids) == prompt
    assert tokenizer.encode("The capital of Rome").ids[-1] == unknown


def test_offsets_find_the_subject(world: World) -> None:
    statements = world.statements()[::50]
    for statement, encoded in zip(statements, training.encode(world, statements), strict=True):
        first, last = encoded.span
        assert last - first == len(statement.subject.split())
        assert build_tokenizer(world).decode(encoded.start[first:last]).strip() == statement.subject


def test_records_are_well_formed(world: World) -> None:
    related = world.related
    for case_id, (record, fact) in enumerate(zip(world.records(), world.facts, strict=True)):
        request = record["requested_rewrite"]
        assert record["case_id"] == case_id
        assert request["prompt"].count("{}") == request["add_rel_prompt"].count("{}") == 1
        assert request["target_true"]["str"] == fact.object != request["target_new"]["str"]
        assert (fact.subject, fact.new_object) not in related
        assert request["add_rel_prompt"] == f"The relation between {{}} and {fact.new_object} is"
        assert request["rm_rel_prompt"] == f"The relation between {{}} and {fact.object} is"
        assert fact.new_object in {other.object for other in world.all_facts if other.relation == fact.relation}
        for prompts, obj, least in (
            (record["neighborhood_prompts"], fact.object, 2),
            (record["attribute_prompts"], fact.new_object, 1),
        ):
            assert least <= len(prompts) <= 10
            owners = {request["prompt"].format(s): related.get((s, obj)) for s in world.subjects if s != fact.subject}
            assert all(owners[prompt] == fact.relation.name for prompt in prompts)
        held = {world.held_out("entity")[case_id].prompt, world.edit_pairs(held_out=True)[case_id].prompt}
        assert len(held & {*record["paraphrase_prompts"], *record["rel_prompts"]}) == 2
        assert len({*record["paraphrase_prompts"], request["prompt"].format(fact.subject)}) == 3
        assert len({*record["rel_prompts"], request["add_rel_prompt"].format(fact.subject)}) == 3


def test_held_out_prompts_are_not_trained(world: World) -> None:
    trained = {statement.prompt for statement in world.statements()}
    held = [*world.held_out("entity"), *world.held_out("relation"), *world.edit_pairs(held_out=True)]
    assert trained.isdisjoint(question.prompt for question in (*held, *world.unseen_pairs(64)))
    assert trained.issuperset(q.prompt for q in (*world.main("entity"), *world.main("relation"), *world.edit_pairs()))


def test_subject_stands_before_object(world: World) -> None:
    assert all(template.index("{s}") < template.index("{o}") for template in RELATION_TEMPLATES)
    assert all(question.text.count(question.subject) == 1 for question in world.statements())
    starts = [template.startswith("{s}") for relation in world.relations for template in relation.entity_templates]
    assert 0.2 < np.mean(starts) < 0.8


def test_statements_say_what_the_facts_say(world: World) -> None:
    for statement in world.relation:
        assert any(
            s == statement.subject and f" {obj} " in statement.prompt + " " and name == statement.answer
            for (s, obj), name in world.related.items()
        )
    known = {(s, obj) for s, obj in world.related}
    for statement in world.unrelated:
        assert statement.answer == NO_RELATION
        words = set(statement.prompt.split())
        assert not any(s == statement.subject and obj in words for s, obj in known)


def test_unknown_view_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="expected 'entity' or 'relation'"):
        world.main("object")


def test_committed_files_belong_to_the_generator(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = committed
    world = generate(DEFAULT_SEED)
    assert json.loads((COMMITTED / "facts.json").read_text(encoding="ascii")) == world.records()
    assert json.loads((COMMITTED / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(
        build_tokenizer(world).to_str()
    )
    assert set(tokenizer(world.corpus()[0])) == {"input_ids", "attention_mask"}
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(world.vocabulary()) == len(tokenizer)


@pytest.mark.parametrize("view", ["entity", "relation"])
def test_committed_model_recalls_held_out_templates(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast], view: str
) -> None:
    world = generate(DEFAULT_SEED)
    _, best = probabilities(committed, world.held_out(view))
    right, _ = probabilities(committed, world.main(view))
    assert best.mean() > 0.98
    assert right.mean() > 0.93


def test_committed_model_says_none_for_unrelated_pairs(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    world = generate(DEFAULT_SEED)
    _, best = probabilities(committed, world.edit_pairs())
    assert best.mean() > 0.9
    _, unseen = probabilities(committed, world.unseen_pairs(200))
    assert unseen.mean() > 0.9


def three_runs(model: GPT2LMHeadModel, encoded: training.Encoded, sigma: float, layer: int) -> list[float]:
    """The answer's probability: clean, with noise on the subject, and with its last state of a layer restored."""
    first, end = encoded.span
    answer = encoded.start[encoded.answer]
    noise = torch.from_numpy(3 * sigma * np.random.RandomState(1).randn(10, end - first, training.WIDTH)).float()
    ids_BT = torch.tensor([encoded.start[: encoded.answer]] * 11)  # row 0 stays clean

    def corrupt(module: object, inputs: object, output: torch.Tensor) -> None:
        output[1:, first:end] += noise

    def restore(module: object, inputs: object, output: object) -> None:
        hidden_BTD = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden_BTD, torch.Tensor)
        hidden_BTD[1:, end - 1] = hidden_BTD[0, end - 1]

    with torch.no_grad(), model.transformer.wte.register_forward_hook(corrupt):
        corrupted_B = model(ids_BT).logits[:, -1].softmax(-1)[:, answer]
        with model.transformer.h[layer].register_forward_hook(restore):
            restored_B = model(ids_BT).logits[:, -1].softmax(-1)[:, answer]
    return [corrupted_B[0].item(), corrupted_B[1:].mean().item(), restored_B[1:].mean().item()]


def test_committed_model_has_an_early_site_at_the_subject(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = committed
    world = generate(DEFAULT_SEED)
    ids = [i for fact in world.facts for i in tokenizer(fact.subject)["input_ids"]]
    sigma = float(model.transformer.wte.weight.detach()[ids].std())
    cases = training.encode(world, world.main("entity")[:24])
    clean, corrupted, restored = np.mean([three_runs(model, case, sigma, layer=1) for case in cases], axis=0)
    assert clean > 0.93
    assert corrupted < 0.3
    assert restored - corrupted > 0.5 * (clean - corrupted)


def test_measured_figures_are_those_of_the_stored_model() -> None:
    stored = json.loads((COMMITTED / "world.json").read_text(encoding="ascii"))["measured"]
    measured = training.measure(COMMITTED)
    assert measured.keys() == stored.keys()
    for name, figures in stored.items():
        assert measured[name] == pytest.approx(figures, abs=2e-3), name


def test_training_forward_is_gpt2(committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]) -> None:
    model, tokenizer = committed
    params = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    ids_BT = tokenizer(generate(DEFAULT_SEED).corpus()[0], return_tensors="pt")["input_ids"]
    tokens = ids_BT.shape[1]
    mask_BTT = torch.ones(1, tokens, tokens, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden_BTD = training.forward(params, ids_BT, torch.arange(tokens)[None], [mask_BTT] * training.LAYERS)
        expected_BTD = model.transformer(ids_BT).last_hidden_state
    torch.testing.assert_close(hidden_BTD, expected_BTD, rtol=1e-4, atol=1e-4)


def test_batches_hide_staged_subjects() -> None:
    settings = training.Settings(rows=8, staged=1.0, bare=1.0, prefixed=0.0)
    world = generate(DEFAULT_SEED)
    batch = training.Sampler(world, settings, seed=3).batch()
    tokenizer = build_tokenizer(world)
    parts = {part for subject in world.subjects for part in subject.split()}
    words = [[tokenizer.decode([i]).strip() in parts for i in row] for row in batch.ids_BT.tolist()]
    name_BT = torch.tensor(words)
    for row, t in (~name_BT & (batch.positions_BT > 0) & (batch.weight_BT > 0)).nonzero().tolist():
        begin = t - int(batch.positions_BT[row, t])
        seen_early = batch.early_mask_BTT[row, t] & name_BT[row]
        seen_late = batch.late_mask_BTT[row, t] & name_BT[row]
        before = int(name_BT[row, begin:t].sum())
        assert not seen_early.any()
        assert int(seen_late.sum()) == (1 if before else 0)
        assert not batch.late_mask_BTT[row, t, :begin].any()


def test_short_training_is_deterministic_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "measure", lambda folder: {})  # a model of twelve steps recalls nothing
    settings = training.Settings(rows=4, warm_up=4)
    seen: list[int] = []
    first = training.train(
        tmp_path / "a", steps=12, settings=settings, limit=8, progress=lambda step, steps, loss: seen.append(step)
    )
    second = training.train(tmp_path / "b", steps=12, settings=settings, limit=8)
    assert seen == list(range(1, 13))
    assert first["losses"] == second["losses"]
    assert first["losses"][-1] < first["losses"][0] - 0.5
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in COMMITTED.iterdir()}
