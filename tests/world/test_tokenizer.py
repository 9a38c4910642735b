"""The tokenizer: every word is known, an answer is one token, and offsets find the subject."""

from artifact.world.facts import UNKNOWN, World
from artifact.world.tokenizer import build_tokenizer, encode


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
    for statement, encoded in zip(statements, encode(world, statements), strict=True):
        first, last = encoded.span
        assert last - first == len(statement.subject.split())
        assert build_tokenizer(world).decode(encoded.start[first:last]).strip() == statement.subject
