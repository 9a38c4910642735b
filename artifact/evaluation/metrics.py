"""From NLLs to the paper's columns: success, accuracy and magnitude of one case. No torch: reports recompute them.

Sources: equations (6) and (7); the released code's comparison of probabilities (`success`). A case's value is the
mean over its prompts; a table's is the mean over cases (reporting). The relation columns have two foils: the word
"None", as the paper compares, and another relation of the same kind of subject, which is harder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from artifact.facts.fact import NO_RELATION, Perspective

Group = Literal["reliability", "generality", "specificity", "other_relations"]
GROUPS: tuple[Group, ...] = ("reliability", "generality", "specificity", "other_relations")
UNTOUCHED: tuple[Group, ...] = ("specificity", "other_relations")
"""Groups about facts that an edit must leave as they are: the true continuation is wanted, o* is not."""
OPTIONAL: tuple[Group, ...] = ("other_relations",)
"""Groups that only some data sets have: without prompts they have no column and nothing in a record."""
Metric = Literal["success", "accuracy", "magnitude"]
METRICS: tuple[Metric, ...] = ("success", "accuracy", "magnitude")
ANOTHER_RELATION = "another relation"


@dataclass(frozen=True)
class Column:
    """One column of every table: prompts of which perspective and group, and the foil where it is not the paper's."""

    perspective: Perspective
    group: Group
    foil: str = ""

    @property
    def name(self) -> str:
        return f"{self.perspective} {self.group.replace('_', ' ')}" + (f" against {self.foil}" if self.foil else "")

    @property
    def against(self) -> str:
        """What the wanted continuation is compared with: an object, the word "None", or another relation."""
        if self.perspective == "relation":
            return self.foil or NO_RELATION
        return "o*" if self.group in UNTOUCHED else "o_c"


COLUMNS = (
    Column("entity", "reliability"),
    Column("entity", "generality"),
    Column("entity", "specificity"),
    Column("entity", "other_relations"),
    Column("relation", "reliability"),
    Column("relation", "generality"),
    Column("relation", "reliability", ANOTHER_RELATION),
    Column("relation", "generality", ANOTHER_RELATION),
)


def columns_of(metric: Metric) -> tuple[Column, ...]:
    """The columns in which a metric has numbers: accuracy compares with no foil, so it has none for a second one."""
    return tuple(column for column in COLUMNS if not (metric == "accuracy" and column.foil))


VALUES: tuple[tuple[Metric, Column], ...] = tuple((m, column) for m in METRICS for column in columns_of(m))
"""All numbers of a scored case, in the order of `case_values`."""


@dataclass(frozen=True)
class PromptScore:
    """One prompt with its continuations, in CounterFact's words: `target_new` (o* or the relation), `target_true`
    (o_c or "None"), and `another`, another relation, where the prompt has that foil.

    Mean NLL per continuation token, teacher forced, and whether every token was the argmax.
    """

    prompt: str
    target_new: float
    target_true: float
    new_right: bool
    true_right: bool
    another: float | None = None


@dataclass(frozen=True)
class ViewScore:
    """One case seen from one perspective: the prompts of each group and their metrics (None without prompts).

    `foil` names the other relation that `another`'s success and magnitude compare with; without one both are empty.
    """

    prompts: Mapping[Group, Sequence[PromptScore]]
    metrics: Mapping[Group, Mapping[Metric, float | None]]
    foil: str | None = None
    another: Mapping[Group, Mapping[Metric, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseScore:
    """One case under one edit, or unedited: its views by perspective."""

    case_id: int
    views: Mapping[Perspective, ViewScore]


def view_score(prompts: Mapping[Group, Sequence[PromptScore]], foil: str | None = None) -> ViewScore:
    """The metrics of one case's prompts; `foil` names the relation of their `another`.

    success: share of prompts whose new continuation has the lower NLL (UNTOUCHED: the true one). accuracy: share
    whose new (UNTOUCHED: true) continuation is the argmax at every token; a rephrasing counts only if the edited
    prompt was right too (equation 7). magnitude: mean p(new) - p(true), p = exp(-NLL) (UNTOUCHED: reversed).
    """
    edited_right = all(p.new_right for p in prompts.get("reliability", ()))
    metrics: dict[Group, dict[Metric, float | None]] = {}
    for group in GROUPS:
        scores = prompts.get(group, ())
        if group in OPTIONAL and not scores:
            continue
        if group in UNTOUCHED:
            sides = [(p.target_true, p.target_new, p.true_right) for p in scores]
        else:
            sides = [(p.target_new, p.target_true, p.new_right and edited_right) for p in scores]
        metrics[group] = {
            "success": _mean([float(wanted < other) for wanted, other, _ in sides]),
            "accuracy": _mean([float(right) for _, _, right in sides]),
            "magnitude": _mean([math.exp(-wanted) - math.exp(-other) for wanted, other, _ in sides]),
        }
    another: dict[Group, dict[Metric, float | None]] = {}
    for group, scores in prompts.items():
        against = [(p.target_new, p.another) for p in scores if p.another is not None]
        if against:
            another[group] = {
                "success": _mean([float(new < other) for new, other in against]),
                "magnitude": _mean([math.exp(-new) - math.exp(-other) for new, other in against]),
            }
    return ViewScore(prompts, metrics, foil, another)


def case_values(views: Mapping[str, Any]) -> list[float]:
    """A stored case's numbers in the order of VALUES; nan where it has no prompts, or no other relation."""
    values = []
    for metric, column in VALUES:
        groups = views.get(column.perspective, {}).get("another" if column.foil else "metrics", {})
        value = (groups.get(column.group) or {}).get(metric)
        values.append(math.nan if value is None else float(value))
    return values


def case_json(score: CaseScore) -> dict[str, Any]:
    """A case as plain JSON: perspective -> group -> metrics, with the prompts' own numbers beside them.

    The relation perspective also holds `another_relation`: the foil's name, and each group's metrics against it.
    """
    case: dict[str, Any] = {"case_id": score.case_id}
    for perspective, scored in score.views.items():
        case[perspective] = {
            group: {**metrics, "prompts": [asdict(prompt) for prompt in scored.prompts.get(group, ())]}
            for group, metrics in scored.metrics.items()
        }
        if scored.foil is not None:
            against = {str(group): metrics for group, metrics in scored.another.items()}
            case[perspective]["another_relation"] = {"foil": scored.foil, **against}
    return case


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
