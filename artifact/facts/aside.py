"""Facts set aside: those that hyperparameters are chosen on and networks trained on, never scored or traced afterwards.

A fact is set aside by a hash of its subject, so that no subject stands on both sides, whichever data set, order or
selection it comes in.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from artifact.facts.dataset import Data
from artifact.facts.fact import Fact, Statement

_T = TypeVar("_T", Fact, Statement)
ONE_IN = 5
"""One subject in so many is set aside."""


def is_aside(fact: Fact | Statement) -> bool:
    """Whether a fact is set aside: every fact of its subject is, then."""
    return hashlib.sha256(f"set aside/{fact.subject.casefold()}".encode()).digest()[0] % ONE_IN == 0


def aside(facts: Sequence[_T]) -> list[_T]:
    """Those of the facts that are set aside, in order."""
    return [fact for fact in facts if is_aside(fact)]


def without_aside(data: Data) -> Data:
    """The data without the facts that are set aside; the note says how many were left out."""
    facts = [fact for fact in data.facts if not is_aside(fact)]
    kept = {fact.case_id for fact in facts} | {one.case_id for one in data.odd}
    return replace(
        data,
        facts=facts,
        statements=[one for one in data.statements if not is_aside(one)],
        cases=tuple(case for case in data.cases if case in kept),
        note=f"{data.note}; {len(data.facts) - len(facts)} set aside for choosing hyperparameters and training",
    )
