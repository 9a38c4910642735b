"""What a task's record keeps of edited models: each fact's numbers under its edit.

Covers scoring the edits that there are among those that failed.
"""

from collections.abc import Sequence

import msgspec

from artifact.editing.edit import Edit
from artifact.errors import EditError
from artifact.evaluation.metrics import CaseScore, case_values
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact
from artifact.runs.context import Context


def scores_of(
    facts: Sequence[Fact], edits: Sequence[Edit | EditError], context: Context
) -> list[CaseScore | EditError]:
    """Each fact's scores under its edit, or why it has none."""
    made = [(fact, edit) for fact, edit in zip(facts, edits, strict=True) if isinstance(edit, Edit)]
    changes = [edit for _, edit in made]
    scored = iter(score_cases(context.model, [fact for fact, _ in made], changes, context.memory) if made else [])
    return [next(scored) if isinstance(edit, Edit) else edit for edit in edits]


def numbers_of(score: CaseScore) -> list[float]:
    """A case's numbers (metrics.VALUES)."""
    return case_values(msgspec.to_builtins(score.views))
