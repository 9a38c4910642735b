"""Checks of the data that the paper rests on: how many known facts a model answers, against the published count.

Covers counting a run's traced statements, answered or not, over all its trace units, and judging the count. A run
counts that traced the pinned file on the pinned model under one of the paper's plans; another one says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from artifact.reporting.expected import Check
from artifact.runs.describe import RunInfo
from artifact.runs.store import NOT_ANSWERED, Store
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES

CheckState = Literal["reproduced", "outside tolerance", "partial", "not run"]


@dataclass(frozen=True)
class JudgedCheck:
    """A check with its state and the state in words; `answered` of the `asked` statements, none where it is not run."""

    check: Check
    state: CheckState
    status: str
    answered: int = 0
    asked: int = 0


def judge_check(check: Check, runs: Mapping[str, tuple[RunInfo, Store]]) -> JudgedCheck:
    """Whether the model answers as many statements as published, each asked once in any of the run's trace units.

    Of a run on part of them nothing is judged until more are unanswered than the tolerance leaves.
    """
    info, store = runs.get(check.model, (None, None))
    if info is None or store is None or not _counts(check, info):
        return JudgedCheck(check, "not run", f"not run: needs {check.model} with traces of the known facts")
    answered, unanswered = _answers(info, store)
    asked = answered + unanswered
    if not asked:
        return JudgedCheck(check, "not run", "not run: no statement was traced yet")
    words = f"{answered:,} of {asked:,} statements are answered, published {check.value:,} of {check.of:,}"
    words += f", to within {check.tolerance.points:g}"
    most = answered + check.of - asked
    if most < check.value - check.tolerance.points or (
        asked == check.of and answered > check.value + check.tolerance.points
    ):
        state: CheckState = "outside tolerance"
    else:
        state = "reproduced" if asked == check.of else "partial"
    partial = " (partial)" if asked < check.of and state != "partial" else ""
    return JudgedCheck(check, state, f"{state}{partial}: {words}", answered, asked)


def _counts(check: Check, info: RunInfo) -> bool:
    (file,) = PLAIN_SOURCES["known"].files
    traced = info.traced is not None and info.traced.sha256 == file.sha256
    return traced and info.plan.of_the_paper and info.revision == HUB_MODELS[check.model].revision


def _answers(info: RunInfo, store: Store) -> tuple[int, int]:
    """How many statements the model answers, and how many it does not; others failed, or were left out unasked."""
    answered: set[int] = set()
    unanswered: set[int] = set()
    for unit in info.plan.units:
        if unit.does == "trace":
            unfinished = store.unfinished(unit)
            answered |= store.done(unit) - {record.case_id for record in unfinished}
            unanswered |= {one.case_id for one in unfinished if one.reason.startswith(NOT_ANSWERED)}
    return len(answered - unanswered), len(unanswered)


def check_json(judged: Sequence[JudgedCheck]) -> list[dict[str, object]]:
    """What verdict.json holds of the checks."""
    return [
        {
            **msgspec.structs.asdict(one.check),
            "tolerance": one.check.tolerance.points,
            "tolerance_reason": one.check.tolerance.reason,
            "answered": one.answered,
            "asked": one.asked,
            "state": one.state,
            "status": one.status,
        }
        for one in judged
    ]
