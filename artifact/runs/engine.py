"""What computes a run's records: in this process (local.py) or on a cluster (cluster.py), with the same records.

Covers what the runner asks of an engine. It computes nothing itself.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from artifact.plan import Unit
from artifact.runs.store import Record, RunInfo


@dataclass(frozen=True)
class Computed:
    """The records of one batch, and the seconds of work that they took."""

    records: Sequence[Record]
    seconds: float


class Engine(Protocol):
    """Computes batches of cases. `info` describes the run that it was prepared for."""

    info: RunInfo

    def compute(self, unit: Unit, batches: Sequence[Sequence[int]]) -> Generator[Computed, None, None]:
        """The records of each batch of case ids, as they come; closing the iterator gives up what is not yet begun."""
        ...

    def weights_hash(self) -> str:
        """sha256 of the model's weights as they are now."""
        ...
