"""One comparison: this package's batch against a loop over transformers' own model, in one run, and its lines.

Covers the order of the timings (warm both, ours, the loop, ours again), peak memory, counted operations and the words.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from artifact.bench.shapes import Timed, matrix_rate, operations, peak_words, timed

_O = TypeVar("_O")
_L = TypeVar("_L")


@dataclass(frozen=True)
class Work(Generic[_O, _L]):
    """The two ways: `ours` does `facts` facts together, `loop` does `loop_facts` of them one by one.

    `warm_loop` and `warm` do as little of the same as makes the device and its libraries ready.
    """

    facts: int
    loop_facts: int
    ours: Callable[[], _O]
    loop: Callable[[], _L]
    warm: Callable[[], object]
    warm_loop: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds a fact and peaks of memory in bytes; `operations` a fact and `rate` a second where they were counted."""

    facts: int
    loop_facts: int
    loop_seconds: float
    our_seconds: float
    loop_peak: int
    our_peak: int
    device: str
    operations: int | None = None
    rate: float | None = None

    @property
    def ratio(self) -> float:
        return self.loop_seconds / self.our_seconds

    def lines(self, what: str, unit: str = "fact") -> Iterator[str]:
        """The comparison in words and figures, but for the results' difference."""
        loop, ours = f"{self.loop_seconds:.3f} s a {unit}", f"{self.our_seconds:.3f} s a {unit}"
        loop_peak, our_peak = peak_words(self.loop_peak, self.our_peak, self.device)
        yield f"{what}: one {unit} at a time {loop} (over {self.loop_facts}){loop_peak}"
        yield f"{what}: ours {ours} ({self.facts} together){our_peak}"
        if self.operations is not None and self.rate is not None:
            achieved = self.operations / self.our_seconds
            yield (
                f"{what}: needs {self.operations / 1e9:.1f} GFLOP a {unit}, {achieved / 1e9:.0f} GFLOP/s: "
                f"{achieved / self.rate:.0%} of a large product's {self.rate / 1e9:.0f} GFLOP/s"
            )


def compare(work: Work[_O, _L], device: str, count: bool) -> tuple[_O, _L, Timing]:
    """Both ways' results and their timing; with `count`, ours is run once more under a counter of operations."""
    work.warm()
    work.warm_loop()
    first: Timed = timed(work.ours, device)
    looped: Timed = timed(work.loop, device)
    again: Timed = timed(work.ours, device)  # before and after the loop: a machine that slows down slows both
    counted = operations(work.ours) // work.facts if count else None
    timing = Timing(
        facts=work.facts,
        loop_facts=work.loop_facts,
        loop_seconds=looped.seconds / work.loop_facts,
        our_seconds=(first.seconds + again.seconds) / 2 / work.facts,
        loop_peak=looped.peak,
        our_peak=first.peak,
        device=device,
        operations=counted,
        rate=matrix_rate(device, torch.float32) if count else None,
    )
    return first.result, looped.result, timing
