"""Editing in context: the golden texts and perplexities, both perspectives, and the way through files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from artifact.editing.edit import Edit
from artifact.editing.edit_file import read_edit, write_edit
from artifact.editing.ike import IkeEdit, bag, context_of, ike
from artifact.editing.methods.ike import IkeHparams
from artifact.errors import EditError
from artifact.evaluation.generate import generate, sentences
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Question

FILE = json.loads((Path(__file__).parent.parent / "reference" / "ike" / "prompts.json").read_text())
GOLDEN, EASYEDIT = FILE["original"], FILE["easyedit"]


@pytest.mark.parametrize("demonstrations", ["k8", "k2"])
@pytest.mark.parametrize("case", GOLDEN)
def test_golden_texts(case: str, demonstrations: str, tiny, facts) -> None:
    golden, fact = GOLDEN[case], facts[int(case.removeprefix("case"))]
    shown = golden["demo_case_ids"][: int(demonstrations.removeprefix("k"))]
    others = [facts[one].view("entity") for one in shown]
    context = context_of(fact.view("entity"), others, golden["seed"])
    expected = golden[demonstrations]
    assert context + fact.prompt == expected["full_prompt_edit"]
    assert list(tiny("tiny-gpt2").tokens._plain(context + fact.prompt)) == expected["full_prompt_edit_token_ids"]
    assert context == "".join(expected["examples"]) + expected["query"]["edit"].removesuffix(fact.prompt)
    asked = {"edit": [fact.prompt], "paraphrases": fact.paraphrases, "neighbors": fact.neighbourhood}
    for kind, prompts in asked.items():
        queries = [expected["query"][kind]] if kind == "edit" else expected["query"][kind]
        full = ["".join(expected["examples"]) + query for query in queries]
        assert full == [context + prompt for prompt in prompts[: len(queries)]] and full


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_perplexities(case: str, model, facts) -> None:
    """What is scored under an edit in context is what stands after it."""
    name, fact = Path(model.name).name, facts[int(case.removeprefix("case"))]
    others = [facts[one].view("entity") for one in GOLDEN[case]["demo_case_ids"][:2]]
    golden = GOLDEN[case]["k2"][f"ppl_{name}"]
    edit = Edit({}, context_of(fact.view("entity"), others, GOLDEN[case]["seed"]))
    only = replace(fact, relation=None, neighbourhood=fact.neighbourhood[:2])
    (score,) = score_cases(model, [only], [edit])
    prompts = score.views["entity"].prompts
    (asked,) = prompts["reliability"]
    pairs = [((asked.target_new, asked.target_true), golden["edit_new_true"])]
    for one, expected in zip(prompts["generality"], golden["paraphrases_new_true"], strict=True):
        pairs.append(((one.target_new, one.target_true), expected))
    for one, expected in zip(prompts["specificity"], golden["neighbors_true_new"], strict=True):
        pairs.append(((one.target_true, one.target_new), expected))
    for found, expected in pairs:
        assert [math.exp(nll) for nll in found] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("chosen", ["k8", "k3"])
@pytest.mark.parametrize("case", EASYEDIT)
def test_golden_orders_of_similarity(case: str, chosen: str, tiny, facts) -> None:
    """By the cosine of token counts, as the golden numbers were made with: EasyEdit retrieves the sentences that are
    most like the new fact's own, most similar first."""
    golden, view = EASYEDIT[case], facts[int(case.removeprefix("case"))].view("entity")
    tokens, told = tiny("tiny-gpt2").tokens, f"{view.reliability[0]} {view.target}"
    copy = f"New Fact: {told}\nPrompt: {told}\n\n"
    new = bag(tokens, copy)

    def cosine(text: str) -> float:
        other = bag(tokens, text)
        return round(sum(share * other.get(token, 0.0) for token, share in new.items()), 9)

    order = sorted(golden["candidate_sentences"], key=cosine, reverse=True)
    examples = golden[chosen]["examples"]
    assert order[: len(examples)] == examples
    # It ends in the question alone; ours ends in a copy of the new fact, then the question.
    assert golden[chosen]["full_prompt"] == "".join(examples) + golden[chosen]["query"] + f" {view.target}"
    assert context_of(view, [], 42) + view.reliability[0] == copy + golden[chosen]["query"]


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_an_edit_takes_the_most_similar_facts_that_fit(perspective, tiny, facts) -> None:
    model, view = tiny("tiny-gpt2"), facts[0].view(perspective)
    data = list(facts.values())
    (all_that_fit,) = ike(model, [view], IkeHparams(), data)
    (none,) = ike(model, [view], IkeHparams(demonstrations=0), data)
    assert isinstance(all_that_fit, IkeEdit) and isinstance(none, IkeEdit)
    assert 0 < all_that_fit.demonstrations < 32 and none.demonstrations == 0
    context = all_that_fit.edit.context
    assert context.endswith(none.edit.context) and none.edit.context.endswith(f" {view.target}\nPrompt: ")
    longest = max((*view.reliability, *view.generality, *view.specificity), key=len)
    assert model.tokens.count(f"{context}{longest} {view.target}") <= model.tokens.limit
    assert context.count("New Fact: ") == all_that_fit.demonstrations + 2
    assert ike(model, [view, facts[7].view(perspective)], IkeHparams(), data)[0].edit == all_that_fit.edit
    told = all_that_fit.told()
    assert told == {"norm": 0.0, "demonstrations": all_that_fit.demonstrations}


def test_a_demonstration_about_another_fact_is_answered_with_what_is_true_there(tiny, facts) -> None:
    """Other subjects of a relation have their own objects, as in LRE; neighbours share the fact's."""
    question = Question("The capital of Spain is", "Madrid")
    plain = replace(facts[0], neighbourhood=(), other_subjects=(question,))
    others = [plain.view("entity")] * 31
    told = context_of(facts[7].view("entity"), others, 42)
    assert "Prompt: The capital of Spain is Madrid\n" in told
    assert f"The capital of Spain is {plain.object_true}" not in told


def test_a_file_holds_the_context(tiny, facts, tmp_path) -> None:
    model, fact = tiny("tiny-gptj"), facts[0]
    (made,) = ike(model, [fact.view("relation")], IkeHparams(demonstrations=1), list(facts.values()))
    write_edit(tmp_path / "e.safetensors", made.edit, model, {"method": "ike"})
    read = read_edit(tmp_path / "e.safetensors", model)
    assert read.edit == made.edit and read.about["method"] == "ike"
    text = generate(model, fact.prompt, 3, read.edit)
    assert text.ids == generate(model, read.edit.context + fact.prompt, 3).ids and text.prompt == fact.prompt
    (sentence,) = sentences(model, [fact.prompt], read.edit)
    assert sentence.ids[:3] == text.ids[:3]


def test_what_does_not_fit_is_an_error_of_its_case(tiny, facts) -> None:
    view = replace(facts[0].view("entity"), generality=("word " * 120,))
    (found,) = ike(tiny("tiny-gpt2"), [view], IkeHparams(), [])
    assert isinstance(found, EditError) and "positions" in str(found)
