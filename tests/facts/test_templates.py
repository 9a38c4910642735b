"""The reconstruction's relation prompts: the paper's wording, every relation, and texts with braces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.errors import FactError
from artifact.facts.fact import Fact, fill
from artifact.facts.records import parse_facts
from artifact.facts.relations import RELATIONS
from artifact.facts.templates import relation_prompt, relation_prompts, rephrased, with_relation

_TEXT = st.text(st.sampled_from("ab {}os"), min_size=1, max_size=12)


def plain(relation_id: str = "P190", subject: str = "Lyon", new: str = "Beirut", true: str = "Milan") -> Fact:
    rewrite = {"prompt": "{} is a twin city of", "relation_id": relation_id, "subject": subject,
               "target_new": {"str": new}, "target_true": {"str": true}}  # fmt: skip
    return parse_facts({"case_id": 3, "requested_rewrite": rewrite}, "test")[0]


def test_the_paper_s_prompt() -> None:
    made = relation_prompts("P190", "Lyon", "Beirut", "Milan")
    assert fill(made.add, "Lyon") == "The relation between Lyon and Beirut is"
    assert fill(made.removal, "Lyon") == "The relation between Lyon and Milan is"
    assert made.forms[0] == "twin city" and len(made.forms) > 1


def test_the_relation_view_of_a_plain_record() -> None:
    fact = with_relation(plain())
    view = fact.view("relation")
    assert (view.target, view.foil, view.removal) == ("twin city", "None", "The relation between {} and Milan is")
    assert view.reliability == ("The relation between Lyon and Beirut is",)
    assert len(view.generality) >= 4 and len({*view.generality, *view.reliability}) == len(view.generality) + 1
    assert all("Lyon" in prompt and "Beirut" in prompt for prompt in view.generality)
    assert all(prompt.split()[-1] in ("called", "relation", "as", "named", "is") for prompt in view.generality)
    assert view.harder_foil in {kind.name for kind in RELATIONS.values() if kind.subject_type == "place"} - {
        "twin city"
    }


def test_every_relation_has_a_name_and_aliases() -> None:
    assert len(RELATIONS) == 34
    assert len({kind.name for kind in RELATIONS.values()}) == 34
    for relation_id, kind in RELATIONS.items():
        forms = relation_prompts(relation_id, "s", "a", "b").forms
        assert forms == (kind.name, *kind.aliases) and len(set(forms)) == len(forms) > 1


def test_what_cannot_be_built_names_the_case() -> None:
    with pytest.raises(FactError, match=r"case 3: relation_id 'P999' has no written name .* give a file"):
        with_relation(plain("P999"))
    for changed in ({"new": "a {} b"}, {"true": "a {} b"}):
        with pytest.raises(FactError, match=r"case 3: the object 'a \{\} b' holds \{\}"):
            with_relation(plain(**changed))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(subject=_TEXT | st.just("{object}"), obj=_TEXT | st.just("{subject}"))
def test_braces_are_text(subject, obj) -> None:
    for prompt, empty in zip(rephrased(subject, obj), rephrased("", ""), strict=True):
        assert len(prompt) == len(empty) + len(subject) + len(obj)
        assert subject in prompt and obj in prompt
    if "{}" in obj:
        with pytest.raises(FactError, match="stands for the subject"):
            relation_prompt(obj)
    else:
        assert fill(relation_prompt(obj), subject) == f"The relation between {subject} and {obj} is"
