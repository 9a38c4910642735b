"""The embedded world serves its purpose: an early site at the last subject token, and edits that take there.

Its recall on held-out templates is tests/world/test_recall.py's.
"""

from dataclasses import asdict, replace

import numpy as np
import pytest

from artifact.editing.edit import Edited
from artifact.editing.protocol import PROTOCOLS, protocol_of
from artifact.evaluation.score import score_cases
from artifact.facts.fact import PERSPECTIVES, Statement
from artifact.plans.paper import SMOKE
from artifact.runs.context import Context
from artifact.runs.resolve import Asked, prepare
from artifact.tracing.averages import trace_numbers, traces_of
from artifact.tracing.trace import TraceSettings, trace


@pytest.fixture(scope="module")
def world() -> Context:
    context, _ = prepare(SMOKE, Asked("world"), lambda line: None)
    return context


def mean(scores, view: str, group: str, metric: str = "success") -> float:
    return float(np.mean([score.views[view].metrics[group][metric] for score in scores]))


def test_early_site_at_the_last_subject_token(world: Context) -> None:
    traces = [
        trace(world.model, Statement(f.case_id, f.prompt, f.subject, f.template), TraceSettings(world.noise_level))
        for f in world.inputs.edited.facts[::10]
    ]
    clean, corrupted = (np.mean([getattr(t, name) for t in traces]) for name in ("clean", "corrupted"))
    assert clean > 0.93 and corrupted < 0.3
    numbers = np.array([trace_numbers("entity", asdict(t)) for t in traces])
    found = traces_of("entity", np.arange(len(numbers)), numbers)
    effects = {e.role: e.mean() for e in found.role_effects()}
    total = clean - corrupted
    assert effects["last subject token"][:3].max() > 0.5 * total
    assert effects["first subject token"][:3].max() < 0.25 * total
    assert effects["last token"][:2].max() < 0.2 * total < effects["last token"][-1]


@pytest.mark.parametrize("perspective", PERSPECTIVES)
@pytest.mark.parametrize("method", ["ft", "mend", "rome", "memit"])
def test_edits_take_from_both_perspectives(method, perspective, world: Context) -> None:
    facts = world.inputs.edited.facts[3::16]
    # MEND by the trained file's statistics: as released its edits depend on how many were made before.
    editor = replace(world.editor(method), protocol=protocol_of("released", ["mend_training_mode"]))
    found = editor.edits([[fact.view(perspective)] for fact in facts])
    edits = [one.edit for one in found if isinstance(one, Edited)]
    assert len(edits) == len(facts)
    after = score_cases(world.model, facts, edits)
    assert mean(after, perspective, "reliability") > 0.7
    assert mean(after, perspective, "generality") > 0.6
    assert mean(after, "entity", "specificity") > (0.5 if method in ("ft", "mend") else 0.8)


@pytest.mark.parametrize("perspective", PERSPECTIVES)
def test_kn_takes_where_its_texts_have_their_space(perspective, world: Context) -> None:
    """As released, KN's texts lack the space that the model's answers have, and its edits hardly take."""
    facts = world.inputs.edited.facts[::10]
    took = {}
    for name, protocol in PROTOCOLS.items():
        editor = replace(world.editor("kn"), protocol=protocol)
        edits = [one.edit for one in editor.edits([[f.view(perspective)] for f in facts]) if isinstance(one, Edited)]
        assert len(edits) == len(facts)
        took[name] = mean(score_cases(world.model, facts, edits), perspective, "reliability")
    assert took["corrected"] > 0.7 > 0.5 > took["released"]


def test_the_unedited_model_says_none_of_it(world: Context) -> None:
    before = score_cases(world.model, world.inputs.edited.facts[::20])
    assert mean(before, "entity", "reliability") == 0 and mean(before, "relation", "reliability") < 0.1
