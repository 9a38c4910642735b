"""Which tokens are corrupted, what noise they get, and which roles they play."""

import numpy as np
import pytest
import torch

from artifact.errors import PromptError, SettingError
from artifact.facts.fact import Perspective, Statement
from artifact.lm.load import LanguageModel
from artifact.tracing.averages import ENTITY_ROLES, RELATION_ROLES, role_tokens, trace_numbers, traces_of
from artifact.tracing.choices import RELATION_SPANS, RelationSpan
from artifact.tracing.corruption import (
    corrupt_words,
    corrupted_tokens,
    noise,
    subject_tokens,
)


def spans(
    model: LanguageModel, statement: Statement, perspective: Perspective, relation_span: RelationSpan = "all"
) -> list[str]:
    encoded = model.tokens.encode(statement.prompt)
    found = corrupted_tokens(encoded, statement, perspective, relation_span)
    return [model.tokens.decode([encoded.ids[i]]) for i in found]


def test_relation_spans(model: LanguageModel) -> None:
    statement = Statement(0, "The capital of Saudi Arabia is", "Saudi Arabia", "The capital of {}")
    assert spans(model, statement, "entity") == [" Saudi", " Arabia"]
    assert spans(model, statement, "relation", "all") == ["The", " capital", " of", " is"]
    assert spans(model, statement, "relation", "after") == [" is"]
    assert spans(model, statement, "relation", "template") == ["The", " capital", " of"]


def test_subject_that_splits_inside_a_character(model: LanguageModel) -> None:
    """The published finder decodes token by token and fails here; offsets do not."""
    encoded = model.tokens.encode("The capital of Île-de-France is")
    found = subject_tokens(encoded, Statement(0, encoded.text, "Île-de-France"))
    text = model.tokens.decode([encoded.ids[i] for i in found])
    assert text.strip() == "Île-de-France"


def test_template_decides_which_occurrence(model: LanguageModel) -> None:
    encoded = model.tokens.encode("France and France")
    assert subject_tokens(encoded, Statement(0, encoded.text, "France", "{} and")) == (0,)
    with pytest.raises(PromptError, match="occurs more than once in the prompt"):
        subject_tokens(encoded, Statement(0, encoded.text, "France"))
    with pytest.raises(PromptError, match="does not open with the template '{} or'"):
        subject_tokens(encoded, Statement(0, encoded.text, "France", "{} or"))
    assert subject_tokens(encoded, Statement(0, encoded.text, "France", "France and {}")) == (2,)


def test_errors(model: LanguageModel) -> None:
    encoded = model.tokens.encode("France and Rome")
    with pytest.raises(PromptError, match="'Spain' is not in the prompt 'France and Rome'"):
        subject_tokens(encoded, Statement(0, encoded.text, "Spain"))
    with pytest.raises(PromptError, match="no relation token"):
        corrupted_tokens(encoded, Statement(0, encoded.text, "Rome"), "relation", "after")
    with pytest.raises(SettingError, match="template"):
        corrupted_tokens(encoded, Statement(0, encoded.text, "Rome"), "relation", "template")


def test_noise_is_numpys_and_added_in_float64() -> None:
    unit = noise(2, 3, 4)
    generator = np.random.RandomState(1)
    np.testing.assert_array_equal(unit, generator.randn(2, 3, 4))
    np.testing.assert_array_equal(noise(2, 3, 4, draw=1), generator.randn(2, 3, 4))
    word_1TD = torch.randn(1, 5, 4)
    found = corrupt_words(word_1TD, (0, 2, 4), 0.7, unit)
    assert torch.equal(found[:, [1, 3]], word_1TD[:, [1, 3]].repeat(2, 1, 1))
    expected = (word_1TD[:, [0, 2, 4]].double() + torch.from_numpy(0.7 * unit)).float()
    assert torch.equal(found[:, [0, 2, 4]], expected)


def test_roles() -> None:
    entity = role_tokens("entity", 8, (1, 2, 3), (1, 2, 3))
    assert [entity[role] for role in ENTITY_ROLES] == [(1,), (2,), (3,), (4,), (5, 6), (7,)]
    relation = role_tokens("relation", 6, (3, 4), (0, 1, 2, 5))
    assert [relation[role] for role in RELATION_ROLES] == [(3, 4), (0,), (1, 2), (5,), (5,)]
    short = role_tokens("entity", 2, (0,), (0,))
    assert [short[role] for role in ENTITY_ROLES] == [(0,), (), (0,), (), (), (1,)]


def test_role_effects_average_over_facts() -> None:
    same = {"subject": [0], "span": [0], "clean": 0.9}
    one = {"tokens": ["a", "b", "c"], "corrupted": 0.1, "scores": [[0.3], [0.2], [0.6]], **same}
    two = {"tokens": ["a", "b"], "corrupted": 0.2, "scores": [[0.8], [0.2]], **same, "span": [1]}
    rows = np.array([trace_numbers("entity", trace) for trace in (one, two)])
    traces = traces_of("entity", np.array([4, 7]), rows)
    assert traces.clean_F.tolist() == [0.9, 0.9] and traces.corrupted_F.tolist() == [0.1, 0.2]
    assert traces.shared_last_F.tolist() == [False, True] and traces.cases_F.tolist() == [4, 7]
    found = {effects.role: effects for effects in traces.role_effects()}
    assert found["last subject token"].facts == 2
    assert found["last subject token"].mean() == pytest.approx([0.4])
    assert found["last token"].mean() == pytest.approx([0.25])
    assert found["first subsequent token"].facts == 1
    assert "middle subject tokens" not in found
    assert np.isnan(found["first subsequent token"].half_width()).all()


def test_words_that_the_statement_names_are_the_relation(tiny) -> None:
    """As the authors' file of relation traces has them: one contiguous range, whatever span is asked for."""
    encoded = tiny("tiny-gpt2").tokens.encode("The capital of France is")
    statement = Statement(0, encoded.text, "France", relation_words="capital of")
    for span in RELATION_SPANS:
        assert corrupted_tokens(encoded, statement, "relation", span) == encoded.find("capital of")
    assert corrupted_tokens(encoded, statement, "entity") == encoded.find("France")
    for words in ("is the", "a"):
        with pytest.raises(PromptError, match="are not once in the prompt"):
            corrupted_tokens(encoded, Statement(0, encoded.text, "France", relation_words=words), "relation")
