"""The questions beyond the paper: each with a prediction made before a pretrained model was run, and the answers.

Covers reading expected/questions.json and judging its predicates, model by model, from what the plans' files in
findings/ measured. An answer is yes where every condition's 95% interval lies on its predicted side, no where one lies
on the other, whatever else was not measured, not run where a number is missing, and undecided between. Answers never
change the verdict on the paper, nor its exit code.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from artifact.errors import ExpectedError
from artifact.io import NOT_JSON
from artifact.reporting.cells import Cell, Scale
from artifact.reporting.equivalence import Tested, family, held_against
from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.resources import expected_folder

Answer = Literal["yes", "no", "undecided", "not run"]
FILE = "questions.json"
_DIGITS = 6


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One inequality of a prediction, about a quantity by name: `above` or `below` a number, or `within` so much of
    zero (equivalence: both one-sided tests at 2.5%).

    `negligible`: an interval within so much of zero is a "no" to `above` and `below`, on whichever side it lies.
    """

    quantity: str
    above: float | None = None
    below: float | None = None
    within: float | None = None
    negligible: float | None = None

    def answer(self, quantity: Quantity) -> Answer:
        """Where the 95% interval lies; undecided where it decides nothing (Quantity.doubt), not run without one."""
        if quantity.estimate is None:
            return "not run"
        if quantity.doubt:
            return "undecided"
        low, high = quantity.estimate.low, quantity.estimate.high
        if self.negligible is not None and -self.negligible < low and high < self.negligible:
            return "no"
        if self.above is not None:
            return "yes" if low > self.above else "no" if high <= self.above else "undecided"
        if self.below is not None:
            return "yes" if high < self.below else "no" if low >= self.below else "undecided"
        assert self.within is not None
        if -self.within < low and high < self.within:
            return "yes"
        return "no" if low >= self.within or high <= -self.within else "undecided"

    def words(self, scale: Scale) -> str:
        """The inequality in words, its bound as the quantity is printed."""
        if self.within is not None:
            return f"{self.quantity}, predicted within {scale.of_size(self.within)} of zero"
        side, bound = ("above", self.above) if self.above is not None else ("below", self.below)
        assert bound is not None
        also = "" if self.negligible is None else f" and not within {scale.of_size(self.negligible)} of zero"
        return f"{self.quantity}, predicted {side} {scale(bound)}{also}"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question: its sentence, the plan that answers it, and the prediction in words and as conditions."""

    id: str
    sentence: str
    plan: str
    prediction: str
    conditions: tuple[Condition, ...]
    notes: tuple[str, ...] = ()
    larger_than: int = 0
    """Asked only of models with more parameters."""

    def asks(self, plans: Mapping[str, Findings]) -> bool:
        """Whether a run with these findings, by plan, answers it."""
        return self.plan in plans and (not self.larger_than or plans[self.plan].parameters > self.larger_than)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class ModelAnswer:
    """What one model's run answers: condition by condition, with the quantity, and the figure that shows it."""

    model: str
    answer: Answer
    conditions: tuple[tuple[Condition, Quantity, Answer], ...] = ()
    figure: str = ""
    tests: tuple[Tested, ...] = ()
    """The quantities that are means over facts held against their bounds, by name, corrected over all the model's
    questions; they decide nothing."""

    @property
    def lines(self) -> list[str]:
        """Each condition with its quantity, interval and answer."""
        return [
            f"{one.words(quantity.scale)}: {measured_words(quantity)}, {answer}"
            + (f" ({quantity.doubt})" if quantity.doubt else "")
            for one, quantity, answer in self.conditions
        ]

    @property
    def words(self) -> str:
        """The same in one line."""
        return "; ".join(self.lines)


@dataclass(frozen=True)
class JudgedQuestion:
    """A question and its answers, a model each; none where no run has the plan."""

    question: Question
    answers: tuple[ModelAnswer, ...]


def measured_words(quantity: Quantity) -> str:
    """A quantity as it is printed: the number, its interval and n, or why there is none."""
    if quantity.estimate is None:
        return "was not measured" + (f" ({quantity.missing})" if quantity.missing else "")
    cell = Cell.of(quantity.estimate, quantity.scale)
    return f"{cell} (n = {quantity.estimate.n})"


def load_questions(folder: Path | None = None) -> tuple[Question, ...]:
    """The questions of expected/questions.json; ExpectedError names the field that is wrong."""
    path = (folder or expected_folder()) / FILE
    try:
        questions = msgspec.json.decode(path.read_bytes(), type=_File).questions
    except OSError as error:
        raise ExpectedError(f"{path}: cannot be read ({error.strerror}); restore it from the repository") from None
    except NOT_JSON as error:
        raise ExpectedError(f"{path}: {error}; correct the field as expected/README.md describes") from None
    for question in questions:
        for one in question.conditions:
            if sum(bound is not None for bound in (one.above, one.below, one.within)) != 1:
                raise ExpectedError(
                    f"{path}: question {question.id}: {one.quantity!r} needs one of above, below and within; correct it"
                )
            if one.within is not None and one.negligible is not None:
                raise ExpectedError(
                    f"{path}: question {question.id}: {one.quantity!r} has within and negligible, but negligible is for"
                    " above and below alone; remove one of them"
                )
    ids = [question.id for question in questions]
    if twins := {one for one in ids if ids.count(one) > 1}:
        raise ExpectedError(f"{path}: question {min(twins)} stands twice; remove one of them")
    return questions


def answered(questions: Sequence[Question], found: Mapping[str, Mapping[str, Findings]]) -> tuple[JudgedQuestion, ...]:
    """Each question with the answers of the runs: `found` are their findings, by model and plan."""
    answers = {
        (question.id, model): _judged(question, model, plans[question.plan])
        for model, plans in found.items()
        for question in questions
        if question.asks(plans)
    }
    tests = {model: _family(answers, model) for model in found}
    return tuple(
        JudgedQuestion(
            question,
            tuple(
                replace(answers[question.id, model], tests=tuple(one for one in corrected if one.of == question.id))
                for model, corrected in tests.items()
                if (question.id, model) in answers
            ),
        )
        for question in questions
    )


def _family(answers: Mapping[tuple[str, str], ModelAnswer], model: str) -> list[Tested]:
    """The tests of one model's answers, corrected together; a number that two questions ask for counts once."""
    held = [one for key, answer in answers.items() if key[1] == model for one in _tests(key[0], answer) if one]
    first = {(one.name, one.target, one.margin): one for one in reversed(held)}
    corrected = {
        (one.name, one.target, one.margin): one for one in family([first[key] for key in reversed(list(first))])
    }
    return [replace(corrected[one.name, one.target, one.margin], of=one.of) for one in held]


def _tests(question: str, answer: ModelAnswer) -> Iterator[Tested | None]:
    """Each quantity of an answer held against the bound of its condition."""
    for one, quantity, _ in answer.conditions:
        bound = one.above if one.above is not None else one.below
        yield held_against(
            question, one.quantity, quantity.estimate, quantity.scale.of_change, bound or 0.0, one.within
        )


def _judged(question: Question, model: str, findings: Findings) -> ModelAnswer:
    conditions = []
    for one in question.conditions:
        quantity = findings.quantities.get(one.quantity, Quantity(None))
        conditions.append((one, quantity, one.answer(quantity)))
    answers: list[Answer] = [answer for _, _, answer in conditions]
    order: tuple[Answer, ...] = ("no", "not run", "undecided", "yes")  # one condition that fails is enough
    whole = next(answer for answer in order if answer in answers)
    return ModelAnswer(model, whole, tuple(conditions), findings.figure)


def questions_json(every: Sequence[JudgedQuestion]) -> list[dict[str, Any]]:
    """verdict.json's entry: every question with its prediction, and each model's answer with its numbers."""
    return [
        {
            **{name: getattr(one.question, name) for name in ("id", "sentence", "plan", "prediction", "notes")},
            "answers": [
                {
                    "model": answer.model,
                    "answer": answer.answer,
                    "conditions": [_condition_json(answer, *condition) for condition in answer.conditions],
                }
                for answer in one.answers
            ],
        }
        for one in every
    ]


def _condition_json(whole: ModelAnswer, condition: Condition, quantity: Quantity, answer: Answer) -> dict[str, Any]:
    estimate = quantity.estimate
    statistics = next((one.json for one in whole.tests if one.name == condition.quantity), None)
    numbers = (
        None
        if estimate is None
        else {name: round(getattr(estimate, name), _DIGITS) for name in ("mean", "low", "high")} | {"n": estimate.n}
    )
    return {
        "condition": condition.words(Scale(6)),
        "measured": numbers,
        "answer": answer,
        "reason": quantity.missing if estimate is None else quantity.doubt,
        "statistics": statistics,
    }
