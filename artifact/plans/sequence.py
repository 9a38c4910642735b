"""Units of the plan `modern` that write many facts into one model, from both perspectives: curves over their number."""

from collections.abc import Sequence

from artifact.facts.fact import PERSPECTIVES
from artifact.plans.unit import Unit

SIZES, BEYOND_SIZES = (1, 10, 100), (1, 5, 10)
"""After how many facts all of them are scored, in the plan `modern` and in the plan `beyond`."""
METHODS, BEYOND_METHODS = ("rome", "memit", "memit_merge", "emmet", "alphaedit"), ("memit", "alphaedit")
"""ROME edits single facts, so it has no batch; the others write both ways. Facts that share no key are MEMIT's under
MEMIT-Merge, so the small plan leaves it out."""


def units(sizes: Sequence[int], methods: Sequence[str]) -> tuple[Unit, ...]:
    """A unit for each method and perspective; its facts are one batch."""
    return tuple(
        Unit(
            f"sequence-{method}-{perspective}",
            "task",
            batch=max(sizes),
            most=max(sizes),
            method=method,
            perspective=perspective,
            task="sequence",
            options=(("sizes", " ".join(map(str, sizes))),),
        )
        for method in methods
        for perspective in reversed(PERSPECTIVES)
    )


def sizes_of(unit: Unit, facts: int) -> list[int]:
    """After how many of so many facts a unit scores them, in rising order; where there are fewer than it wants, the
    last is all of them.
    """
    return sorted({min(int(size), facts) for size in str(unit.option("sizes")).split()})
