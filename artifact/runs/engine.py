"""What computes a run's records: in this process (local.py) or on a cluster (cluster.py), with the same records.

Covers what the runner asks of an engine.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from artifact.plans.unit import Unit
from artifact.runs.describe import RunInfo
from artifact.runs.record import Record


class Batch(NamedTuple):
    """Cases of a unit that are computed together, by their ids."""

    unit: Unit
    cases: tuple[int, ...]


@dataclass(frozen=True)
class Computed:
    """The records of one batch, the seconds of work that they took, and where it was done (environment.py)."""

    batch: Batch
    records: Sequence[Record]
    seconds: float
    environment: dict[str, Any]


class Engine(Protocol):
    """Computes batches of cases. `info` describes the run that it was prepared for."""

    info: RunInfo

    def compute(self, batches: Sequence[Batch], stop: Callable[[], bool]) -> Generator[Computed, None, None]:
        """The records of each batch, as they come; batches are begun in their order.

        No batch is begun once `stop()` is true; those in hand are finished. Closing the iterator gives them up.
        """
        ...

    def weights_hash(self) -> str:
        """sha256 of the model's weights as they are now."""
        ...

    def close(self) -> None:
        """Give back what it holds: workers, connections."""
        ...
