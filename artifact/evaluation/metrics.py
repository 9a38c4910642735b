"""From NLLs to the paper's columns: success, accuracy and magnitude of one case. No torch: reports recompute them.

Sources: equations (6) and (7); the released code's comparison of probabilities (`success`). A case's value is the
mean over its prompts; a table's is the mean over cases (reporting). It does not run a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from artifact.facts.fact import Perspective

Group = Literal["reliability", "generality", "specificity"]
GROUPS: tuple[Group, ...] = ("reliability", "generality", "specificity")
Metric = Literal["success", "accuracy", "magnitude"]
METRICS: tuple[Metric, ...] = ("success", "accuracy", "magnitude")


@dataclass(frozen=True)
class PromptScore:
    """One prompt with its two continuations, in CounterFact's words: `target_new` (o* or the relation), `target_true`
    (o_c or "None").

    Mean NLL per continuation token, teacher forced, and whether every token was the argmax.
    """

    prompt: str
    target_new: float
    target_true: float
    new_right: bool
    true_right: bool


@dataclass(frozen=True)
class ViewScore:
    """One case seen from one perspective: the prompts of each group and their metrics (None without prompts)."""

    prompts: Mapping[Group, Sequence[PromptScore]]
    metrics: Mapping[Group, Mapping[Metric, float | None]]


@dataclass(frozen=True)
class CaseScore:
    """One case under one edit, or unedited: its views by perspective."""

    case_id: int
    views: Mapping[Perspective, ViewScore]


def view_score(prompts: Mapping[Group, Sequence[PromptScore]]) -> ViewScore:
    """The metrics of one case's prompts.

    success: share of prompts whose new continuation has the lower NLL (specificity: the true one). accuracy: share
    whose new (specificity: true) continuation is the argmax at every token; a rephrasing counts only if the edited
    prompt was right too (equation 7). magnitude: mean p(new) - p(true), p = exp(-NLL) (specificity: reversed).
    """
    edited_right = all(p.new_right for p in prompts.get("reliability", ()))
    metrics: dict[Group, dict[Metric, float | None]] = {}
    for group in GROUPS:
        scores = prompts.get(group, ())
        if group == "specificity":
            sides = [(p.target_true, p.target_new, p.true_right) for p in scores]
        else:
            sides = [(p.target_new, p.target_true, p.new_right and edited_right) for p in scores]
        metrics[group] = {
            "success": _mean([float(wanted < other) for wanted, other, _ in sides]),
            "accuracy": _mean([float(right) for _, _, right in sides]),
            "magnitude": _mean([math.exp(-wanted) - math.exp(-other) for wanted, other, _ in sides]),
        }
    return ViewScore(prompts, metrics)


def case_json(score: CaseScore) -> dict[str, Any]:
    """A case as plain JSON: view -> group -> metrics, with the prompts' own numbers beside them."""
    found: dict[str, Any] = {"case_id": score.case_id}
    for view, one in score.views.items():
        found[view] = {
            group: {**metrics, "prompts": [asdict(prompt) for prompt in one.prompts.get(group, ())]}
            for group, metrics in one.metrics.items()
        }
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
