"""A reviewer's questions, answered from a run: expected/reviewer.json has the questions, `kloc answer` prints answers.

Covers the kinds of answer, and the 95% prediction interval of a number over runs of other seeds
(expected/measured/seeds/). A seed decides which context prefixes are drawn; the authors recorded none, so the interval
tells how far a number moves by that draw alone. Like the other files of expected/measured/ they decide no status and no
exit code.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Literal, TypeVar

import msgspec

from artifact.editing.methods import METHODS, printed_name
from artifact.errors import ExpectedError, SettingError
from artifact.evaluation.metrics import Column, Group
from artifact.facts.fact import Perspective
from artifact.io import NOT_JSON, reason
from artifact.reporting.baseline import RunKind
from artifact.reporting.charts import charts
from artifact.reporting.intervals import Estimate
from artifact.reporting.report import repeat_command
from artifact.reporting.resources import expected_folder
from artifact.reporting.verdict import MeasuredRun, Verdict, verdict_of
from artifact.sizes import count_of

SEEDS = "seeds"
T = TypeVar("T")
_DIGITS = 6
_ROUNDING = 1e-6
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""The 97.5% quantile of Student's t by the number of values, one more than its degrees of freedom."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question. `answer` is the kind of its answer.

    A `method` question compares the edits of one perspective (`edited`), asked from one perspective about one group of
    prompts, by success (`mean`) or its change against the unedited model; `take` is which end answers it. A `trace`
    question names its `unit`.
    """

    id: str
    question: str
    answer: Literal["cells", "claims", "method", "trace", "cases", "settings", "machine"]
    edited: Perspective | None = None
    asked: Perspective | None = None
    group: Group | None = None
    value: Literal["mean", "change"] | None = None
    take: Literal["most", "least"] | None = None
    unit: str | None = None


class _Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: tuple[Question, ...]


class Seeds(RunKind, frozen=True, forbid_unknown_fields=True):
    """Numbers of runs that differ by their seed alone: `runs` holds, by seed, each question's numbers by method.

    Percent, or points. `how` is the command that made the runs.
    """

    how: str
    runs: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Answer:
    """A question with its answer in words; `numbers` are those behind it, by method ("": the answer has one), and
    `named` the method that the answer names.
    """

    question: Question
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    named: str = ""
    over_seeds: str = ""


def load_questions() -> tuple[Question, ...]:
    """The questions of expected/reviewer.json; ExpectedError for a file that does not follow its schema."""
    return _load("reviewer.json", _Questions).questions


def answers(runs: Sequence[MeasuredRun]) -> list[tuple[str, Answer]]:
    """Each question answered for each run, with the run's model; the verdict's questions once for all runs."""
    verdict = verdict_of(*(run.store for run in runs))
    found: list[tuple[str, Answer]] = []
    for question in load_questions():
        if question.answer in _OF_VERDICT:
            found.append(("", Answer(question, _OF_VERDICT[question.answer](verdict))))
        else:
            found += [(run.info.model, _with_seeds(run, _OF_RUN[question.answer](question, run))) for run in runs]
    return found


def seeds_of(runs: Sequence[MeasuredRun]) -> Seeds:
    """The numbers of runs that differ by their seed alone; SettingError where they differ in more, or are too few."""
    if not 3 <= len(runs) <= max(_T):
        raise SettingError(f"{len(runs)} runs are given, and 3 to {max(_T)} are needed for an interval over seeds")
    kind, numbers = RunKind.of(runs[0].info), {}
    for run in runs:
        if RunKind.of(run.info) != kind:
            raise SettingError(f"{run.store.folder}: differs from {runs[0].store.folder} in more than its seed")
        seed = run.info.given.get("--seed", "default")
        if seed in numbers:
            raise SettingError(f"{run.store.folder}: has the seed {seed}, as another run; give each seed once")
        given = [_OF_RUN[one.answer](one, run) for one in load_questions() if one.answer == "method"]
        numbers[seed] = {
            one.question.id: {method: round(number, _DIGITS) for method, number in one.numbers.items()} for one in given
        }
    how = f"nox -s seeds: {repeat_command(runs[0].info)}, and so for each seed"
    return Seeds(**msgspec.structs.asdict(kind), how=how, runs=numbers)


def seeds_json(seeds: Seeds) -> bytes:
    """The content of a file of expected/measured/seeds/."""
    return msgspec.json.format(msgspec.json.encode(seeds), indent=1) + b"\n"


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the next value falls with 95%, if values are normal: mean -+ t s sqrt(1 + 1/n), for 2 to 10 values."""
    half = _T[len(values)] * stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean(values) - half, mean(values) + half


def _with_seeds(run: MeasuredRun, answer: Answer) -> Answer:
    """The answer with its interval over other seeds, where such runs were measured; other methods of a run are free."""
    if answer.named not in answer.numbers:
        return answer
    if answer.named in METHODS and METHODS[answer.named].prefixes is None:
        words = f"{printed_name(answer.named)} reads no context prefixes: another seed changes none of its numbers"
        return replace(answer, over_seeds=words)
    made = RunKind.of(run.info)
    for path in sorted((expected_folder() / "measured" / SEEDS).glob("*.json")):
        seeds = _load(f"measured/{SEEDS}/{path.name}", Seeds)
        known = {method: made.settings.get(method) for method in seeds.settings}
        if seeds.kind != msgspec.structs.replace(made, settings=known):
            continue
        own = run.info.given.get("--seed", "default")  # an interval of other runs tells where this one falls
        numbers = [one.get(answer.question.id, {}) for seed, one in seeds.runs.items() if seed != own]
        values = [one[answer.named] for one in numbers if answer.named in one]
        if len(values) == len(numbers) > 1:
            return replace(answer, over_seeds=_seeds_words(answer, values))
    return answer


def _seeds_words(answer: Answer, values: Sequence[float]) -> str:
    low, high = prediction_interval(values)
    number, of = answer.numbers[answer.named], f"{printed_name(answer.named)}, " if answer.named else ""
    inside = "inside" if low - _ROUNDING <= number <= high + _ROUNDING else "outside"
    return (
        f"{of}95% prediction interval over {len(values)} other seeds: {low:.1f} to {high:.1f}; "
        f"{number:.1f} lies {inside}"
    )


def _method(question: Question, run: MeasuredRun) -> Answer:
    """The method at the end asked for, with its number, and all numbers by method; undone edits do not count."""
    assert question.asked is not None and question.group is not None
    column = Column(question.asked, question.group)
    found: dict[str, Estimate] = {}
    undone: list[str] = []
    for row in run.rows:
        value = row.values.get(("success", column))
        if row.edited != question.edited or row.control or value is None:
            continue
        if row.undone:
            undone.append(row.printed_method)
            continue
        estimate = value.mean if question.value == "mean" else value.change
        if estimate is not None:
            found[row.method] = estimate.scaled(100)
    if not found:
        besides = ", and the unedited model" if question.value == "change" else ""
        why = f"; {', '.join(undone)}: undone before the scoring" if undone else ""
        return Answer(question, f"not run: needs {question.edited} edits{besides}{why}")
    ordered = sorted(found, key=lambda method: found[method].mean, reverse=question.take == "most")
    best = found[ordered[0]]
    alike = " and ".join(printed_name(method) for method in ordered if found[method].mean == best.mean)
    unit = "percent" if question.value == "mean" else "points"
    every = ", ".join(f"{printed_name(method)} {found[method].mean:.1f}" for method in ordered)
    text = (
        f"{alike}: {best.mean:.1f} {unit} (95% interval {best.low:.1f} to {best.high:.1f}, n = {best.n}); all: {every}"
    )
    return Answer(question, text, {method: estimate.mean for method, estimate in found.items()}, ordered[0])


def _trace(question: Question, run: MeasuredRun) -> Answer:
    panels = [panel for chart in charts(run.store, run.traced.traces) for panel in chart.panels]
    panel = next((panel for panel in panels if panel.unit == question.unit), None)
    if panel is None:
        return Answer(question, f"not run: needs {question.unit}")
    role, layer = panel.peak
    number = float(panel.aie_RL[role, layer])
    text = (
        f"at the {panel.effects[role].role}, layer {layer} of {run.info.layers}, the last token apart: average "
        f"indirect effect {number:.3f} over {count_of(panel.effects[role].facts, 'fact')}"
    )
    return Answer(question, text)


def _cells(verdict: Verdict) -> str:
    counts = verdict.counts
    return f"{counts['reproduced']} of {len(verdict.cells)}. {verdict.sentence}"


def _claims(verdict: Verdict) -> str:
    return "; ".join(f"{judged.claim.id}: {judged.status}" for judged in verdict.claims)


def _cases(question: Question, run: MeasuredRun) -> Answer:
    counts: Counter[str] = sum(run.store.counts().values(), Counter())
    return Answer(question, f"{counts['failed']} failed and {counts['excluded']} left out, of {counts.total()} cases")


def _settings(question: Question, run: MeasuredRun) -> Answer:
    info, made = run.info, RunKind.of(run.info)
    hashes = ", ".join(f"{printed_name(method)} {one}" for method, one in made.settings.items())
    text = (
        f"{info.model} at {info.revision} (weights {info.weights_sha256[:12]}), {info.data_source} (data "
        f"{info.data_sha256[:12]}), protocol {made.protocol}, hyperparameters {hashes}"
    )
    return Answer(question, text if info.evidence else f"{text}; no evidence about the paper: {info.evidence_note}")


def _machine(question: Question, run: MeasuredRun) -> Answer:
    hours = sum(seconds for _, seconds, _ in run.store.times()) / 3600
    machines = [
        f"{one.get('gpu') or one.get('system', 'unknown')}, {one.get('threads', 'unknown')} threads, torch "
        f"{one.get('packages', {}).get('torch', 'unknown')}"
        for one in run.store.environments()
    ]
    return Answer(question, f"{'; '.join(machines) or 'not recorded'}: {hours:.2f} hours")


_OF_VERDICT: Mapping[str, Callable[[Verdict], str]] = {"cells": _cells, "claims": _claims}
_OF_RUN: Mapping[str, Callable[[Question, MeasuredRun], Answer]] = {
    "method": _method,
    "trace": _trace,
    "cases": _cases,
    "settings": _settings,
    "machine": _machine,
}


def _load(name: str, kind: type[T]) -> T:
    path = expected_folder() / name
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *NOT_JSON) as error:
        raise ExpectedError(f"{path}: cannot be read ({reason(error)}); restore it from the repository") from None
