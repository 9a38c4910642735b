"""The generator's promises: the same world for the same seed, whole names, well-formed records, templates held out."""

import numpy as np
import pytest

from artifact.world.facts import NO_RELATION, RELATION_TEMPLATES, World, generate


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


def test_unknown_perspective_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="expected 'entity' or 'relation'"):
        world.main("object")
