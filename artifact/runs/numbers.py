"""The numbers that reports average, one row of float64 a finished case, kept in the journal next to its full record.

Covers which numbers a unit's case has and their form in SQLite. The record remains what counts: a row can always be
made again from it, and a journal without rows, or with rows of another layout, is read that way (store.py).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artifact.evaluation.metrics import VALUES, case_values
from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Unit
from artifact.tracing.averages import roles, trace_numbers
from artifact.tracing.flow import knockout_numbers

LAYOUT = hashlib.sha256(
    repr(
        [(metric, column.name) for metric, column in VALUES] + [roles(perspective) for perspective in PERSPECTIVES]
    ).encode()
).hexdigest()[:12]
"""Names the columns of a row: rows of other columns are not read."""
_FORM = np.dtype("<f8")


def case_numbers(unit: Unit, payload: Mapping[str, Any]) -> np.ndarray:
    """One finished case's numbers: a trace's averages by role, a knockout's changes, or a case's scores."""
    if unit.does == "trace":
        return trace_numbers(unit.perspective, payload)
    if unit.does == "knockout":
        return knockout_numbers(payload)
    if unit.does == "task":
        return np.ones(1)  # what answers its question reads the record
    return np.array(case_values(payload.get("views", {})))


def to_bytes(numbers_X: np.ndarray) -> bytes:
    """A row as it is stored."""
    return numbers_X.astype(_FORM).tobytes()


def from_bytes(rows: Sequence[bytes]) -> np.ndarray:
    """Stored rows of one unit as a matrix (F, X); (0, VALUES) without rows."""
    if not rows:
        return np.empty((0, len(VALUES)))
    return np.frombuffer(b"".join(rows), dtype=_FORM).reshape(len(rows), -1)
