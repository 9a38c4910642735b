"""The masked twin serves its purpose: a site at the subject's last token, and edits that take there.

Its recall is tests/world/test_masked.py's.
"""

from dataclasses import asdict

import numpy as np
import pytest

from artifact.editing.edit import Edited
from artifact.evaluation.score import score_cases
from artifact.facts.fact import PERSPECTIVES
from artifact.plans import PLANS
from artifact.runs.context import Context
from artifact.runs.controls import shuffled_views
from artifact.runs.resolve import Asked, prepare
from artifact.tracing.averages import trace_numbers, traces_of
from artifact.tracing.trace import Trace, TraceSettings, trace_all


@pytest.fixture(scope="module")
def twin() -> Context:
    context, _ = prepare(PLANS["encoders"][0], Asked("world-masked"), lambda line: None)
    return context


def mean(scores, view: str, group: str) -> float:
    return float(np.mean([score.views[view].metrics[group]["success"] for score in scores]))


def test_early_site_at_the_last_subject_token(twin: Context) -> None:
    statements = [fact.statement for fact in twin.inputs.edited.facts[::10]]
    traces = [
        one for one in trace_all(twin.model, statements, TraceSettings(twin.noise_level)) if isinstance(one, Trace)
    ]
    assert len(traces) == len(statements)
    found = traces_of(
        "entity", np.arange(len(traces)), np.array([trace_numbers("entity", asdict(one)) for one in traces])
    )
    assert found.clean_F.mean() > 0.9 and found.corrupted_F.mean() < 0.3
    effects = {one.role: one.mean() for one in found.role_effects()}
    total = found.clean_F.mean() - found.corrupted_F.mean()
    assert effects["last subject token"][:2].max() > 0.5 * total
    assert effects["first subject token"].max() < 0.25 * total
    assert effects["last token"][:2].max() < 0.2 * total < effects["last token"][-1]


@pytest.mark.parametrize("perspective", PERSPECTIVES)
def test_rome_takes_from_both_perspectives_and_for_this_subject_alone(perspective, twin: Context) -> None:
    facts = twin.inputs.edited.facts[3::16]
    views = [fact.view(perspective) for fact in facts]
    others = [twin.following(fact) for fact in facts]
    success = []
    for asked in (views, shuffled_views(views, others)):
        found = twin.editor("rome").edits([[view] for view in asked])
        both = [(fact, one.edit) for fact, one in zip(facts, found, strict=True) if isinstance(one, Edited)]
        assert len(both) > 0.9 * len(facts)  # of another subject it may be true already
        after = score_cases(twin.model, [fact for fact, _ in both], [edit for _, edit in both])
        success.append(mean(after, perspective, "reliability"))
        if asked is views:
            assert mean(after, perspective, "generality") > 0.6
            assert mean(after, "entity", "specificity") > 0.6
    assert success[0] > 0.7 and success[0] > success[1] + 0.3
