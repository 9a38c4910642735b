"""Where a subject stands in its prompt, and what is refused instead of being taken for another place."""

import pytest

from artifact.errors import PromptError
from artifact.facts.records import parse_statements
from artifact.facts.subject import subject_start


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "at"),
    [
        ("The capital of France is", "France", None, 15),
        ("The capital of France is", "France", "The capital of {}", 15),
        ("In Rome Rome is", "Rome", "In {}", 3),
        ("In Rome Rome is", "Rome", "In Rome {} is", 8),
        ("France's capital is", "France", None, 0),
        ("The Île-de-France is", "France", None, 11),
        ("(France)", "France", None, 1),
        ("Conan O'Brien works", "O'Brien", None, 6),
        ("法国的首都是", "法国", None, 0),
        ("フランスの首都", "フランス", None, 0),
        ("프랑스의 수도는", "프랑스", None, 0),
        ("เมืองหลวงของฝรั่งเศสคือ", "ฝรั่งเศส", None, 12),
        ("The Beatles live in", "Beatle", "The {}s live", 4),
    ],
)
def test_a_subject_has_its_place(prompt: str, subject: str, template: str | None, at: int) -> None:
    assert subject_start(prompt, subject, template) == at


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "says"),
    [
        ("The capital of France is", "Spain", None, "'Spain' is not in the prompt"),
        ("The capital of France is", "", None, "the subject is blank"),
        ("The capital of France is", " \t", None, "the subject is blank"),
        ("The capital of France is", "France ", None, "'France ' has blanks at its ends"),
        ("The capital of France is", " France", "The capital of{} is", "has blanks at its ends"),
        ("In Francetown, the capital of France is", "France", None, "occurs more than once"),
        ("In Rome Rome is", "Rome", None, "occurs more than once.*give a template"),
        ("In Francetown it is", "France", None, "stands inside a word"),
        ("In Outrance it is", "rance", None, "stands inside a word"),
        ("In Catch22 it is", "Catch", None, "stands inside a word"),
        ("The cafe\u0301 is", "cafe", None, "stands inside a word"),
        ("ааbc is", "b", None, "stands inside a word"),
        ("The capital of France is", "France", "The capital is", r"must hold exactly one \{\}"),
        ("The capital of France is", "France", "{} of {}", r"must hold exactly one \{\}"),
        ("The capital of France is", "France", "{} is", "does not open with the template '{} is'"),
        ("In Rome Rome is", "Rome", "At {}", "does not open with the template"),
    ],
)
def test_what_is_refused(prompt: str, subject: str, template: str | None, says: str) -> None:
    with pytest.raises(PromptError, match=says) as error:
        subject_start(prompt, subject, template)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("subject", ["France", "France "])
def test_fact_files_and_traces_refuse_alike(subject: str) -> None:
    from artifact.errors import FactError

    with pytest.raises(PromptError) as trace:
        subject_start("In Francetown of it", subject)
    with pytest.raises(FactError) as file:
        parse_statements([{"subject": subject, "prompt": "In Francetown of it"}], "facts.json")
    if subject == "France":
        assert str(file.value) == f"facts.json: record 0: {trace.value}"
    else:
        assert "blanks at its ends" in str(file.value)
